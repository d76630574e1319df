"""From messages to a token sequence for the decoder: rendering, media sizes, routing and trimming.

The only native code that runs here decodes media files; it can be stopped between two blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError, PromptTooLongError
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.decoding.cached_sequence import Cancelled, CancelledError
from palmtop.runtime.decoding.decoder import MediaSpan, TokenSequence
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.media.conversation_media import MeasuredItem, MediaReader
from palmtop.runtime.processor.text import TextProcessor

from .routing import AdapterRequest, Choice, Wanted, choose, mode_of
from .sampled_history import SampledHistory

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPrompt:
    """A prompt that is ready for the decoder.

    Attributes:
        passage: token ids and positions of media.
        choice: adapters and audio projector.
        items: media, in the order of ``passage.media``.
        trimmed: number of the oldest messages left out to fit the context.
        opens_thinking: whether the answer begins inside thinking.
        as_new: read the prompt as if the cache were empty: equal messages then give bit-identical logits.
    """

    passage: TokenSequence
    choice: Choice
    items: tuple[MeasuredItem, ...]
    trimmed: int
    opens_thinking: bool = False
    as_new: bool = False


class ReadingCancelledError(CancelledError):
    """A request to stop while media were decoded; nothing of the question was kept."""

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice


class PromptBuilder:
    """Builder of the prompts of one conversation.

    Args:
        manifest: manifest of the bundle.
        text: tokenizer and chat template.
        media: media reader of this conversation.
        spoken: earlier answers of this conversation, as sampled.
        context: most tokens of a prompt.
    """

    def __init__(
        self, manifest: Manifest, text: TextProcessor, media: MediaReader, spoken: SampledHistory, context: int
    ) -> None:
        self._manifest = manifest
        self._text = text
        self._media = media
        self._spoken = spoken
        self._context = context

    def read(
        self,
        messages: Sequence[Message],
        adapters: Wanted,
        options: GenerationOptions,
        tools: Sequence[Mapping[str, Any]] | None = None,
        cancelled: Cancelled = lambda: False,
        *,
        as_new: bool = False,
    ) -> PreparedPrompt:
        """Turn messages into a token sequence and a choice of adapters.

        A prompt longer than the context is refused. With ``on_overflow="trim"`` its oldest questions and their answers
        are removed, one after the other, until there is room for the answer (``max_tokens``, at most a quarter of the
        context). System messages and the last question are kept.

        Args:
            messages: the dialogue.
            adapters: choice of adapters of this request.
            options: generation options of the turn.
            tools: tools shown to the model.
            cancelled: called while media are decoded; True stops.
            as_new: tokenize earlier answers from their text, not from the sampled tokens.

        Raises:
            InputError: messages, media or adapters are not usable, or the prompt does not fit.
            ReadingCancelledError: stopped while media were decoded.
        """
        _check_adapters(adapters)
        trim = options.on_overflow == "trim"
        room = min(options.resolved().max_tokens, self._context // 4) if trim else 0
        left, trimmed = list(messages), 0
        while True:
            question = self._read(left, adapters, tools, trimmed, cancelled, options.thinking, as_new=as_new)
            length = len(question.passage.ids)
            if length <= self._context - room:
                break
            dropped = _without_oldest(left) if trim else 0
            if not dropped:
                if length <= self._context:
                    break  # the last question fits, with less room for the answer
                raise self._too_long(question)
            left = _drop(left, dropped)
            trimmed += dropped
        self._spoken.keep_only(question.passage.ids)
        return question

    def length(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Return the number of tokens of a prompt, rows of media included.

        Raises:
            InputError: messages or media are not usable.
        """
        return len(self._read(messages, None, tools, 0, lambda: False).passage.ids)

    def _read(
        self,
        messages: Sequence[Message],
        adapters: Wanted,
        tools: Sequence[Mapping[str, Any]] | None,
        trimmed: int,
        cancelled: Cancelled,
        thinking: bool | None = None,
        *,
        as_new: bool = False,
    ) -> PreparedPrompt:
        prompt = self._text.prompt(messages, tools=tools, thinking=thinking)
        kinds = {place.item.kind for place in prompt.media}
        mode = mode_of(has_image="image" in kinds, has_audio="audio" in kinds)
        choice = choose(self._manifest, mode, adapters)
        try:
            items = tuple(self._media.measure(place.item, cancelled=cancelled) for place in prompt.media)
        except CancelledError as stop:
            raise ReadingCancelledError(choice) from stop
        template_ids, template_places = self._text.expand(prompt, [item.segments for item in items])
        ids, places = template_ids.astype(np.int32), template_places
        if not as_new:
            ids, places = self._spoken.put_back(ids, places)
        sequence = TokenSequence(ids, places, _spans(places, items, choice))
        return PreparedPrompt(sequence, choice, items, trimmed, prompt.opens_thinking, as_new)

    def _too_long(self, question: PreparedPrompt) -> PromptTooLongError:
        passage = question.passage
        return PromptTooLongError(
            f"the prompt has {len(passage.ids)} tokens ({passage.media_rows} of them images and sounds), this "
            f"session's context is {self._context}; shorten it, drop older turns (on_overflow='trim' does), or "
            f"load with a longer one (the bundle serves {self._manifest.decoder.context_length})"
        )


def without_front(messages: Sequence[Message], trimmed: int) -> list[Message]:
    """Return a dialogue without ``count`` messages behind its leading system messages."""
    return _drop(list(messages), trimmed)


def last_question(messages: Sequence[Message]) -> int:
    """Return the index of the last user message.

    Raises:
        InputError: there is no user message.
    """
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].get("role") == "user":
            return index
    raise InputError("the conversation holds no question, expected one to go back to")


def _without_oldest(messages: Sequence[Message]) -> int:
    """Count the messages of the oldest question and its answer; 0 when it is the last question."""
    start = _leading_system(messages)
    questions = [i for i in range(start, len(messages)) if messages[i].get("role") == "user"]
    return questions[1] - start if len(questions) > 1 else 0


def _drop(messages: list[Message], count: int) -> list[Message]:
    start = _leading_system(messages)
    return messages[:start] + messages[start + count :]


def _leading_system(messages: Sequence[Message]) -> int:
    return next((i for i, message in enumerate(messages) if message.get("role") != "system"), len(messages))


def _check_adapters(adapters: object) -> None:
    if isinstance(adapters, AdapterRequest):
        if not isinstance(adapters.route, (str, type(None))):
            raise InputError(f"route: found {type(adapters.route).__name__}, expected a name")
        adapters = adapters.adapters
    if adapters is None or isinstance(adapters, str):  # None, or the name of a route
        return
    if not isinstance(adapters, Mapping):
        raise InputError(f"adapters: found {type(adapters).__name__}, expected a mapping of names to weights")
    for name, weight in adapters.items():
        if not isinstance(name, str):
            raise InputError(f"adapters: found the name {name!r:.60}, expected text")
        if not isinstance(weight, (int, float, np.integer, np.floating)) or isinstance(weight, bool):
            raise InputError(f"adapter '{name}' has weight {weight!r:.60}, expected a number")


def _spans(places: NDArray[np.int64], items: Sequence[MeasuredItem], choice: Choice) -> tuple[MediaSpan, ...]:
    """Spans of the media rows; the same sound through another projector has another key."""
    spans, row = [], 1
    for measured in items:
        start = int(np.flatnonzero(places == row)[0])
        projector = f":{choice.audio_projector}" if measured.item.kind == "audio" else ""
        spans.append(MediaSpan(start, measured.rows, measured.key + projector))
        row += measured.rows
    return tuple(spans)
