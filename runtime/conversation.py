"""A dialogue with memory: each turn reads only what the KV cache does not hold yet.

Every turn is rendered whole by the chat template and compared with what the decoder holds, so going on,
editing, retrying and starting over are one operation. Knows messages, text and routes; the cache is
``track.py``, the token loop ``generate.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError

from .generate import TokenStream
from .machine import peak_rss_bytes
from .manifest import Manifest
from .media import MeasuredItem, MediaReader
from .options import GenerationOptions
from .processor.text import TextProcessor, expand_media
from .reply import FinishReason, Piece, Reply, ReprefillReason, Usage
from .routing import Choice, Wanted, choose, mode_of
from .stopwatch import Stopwatch
from .track import CancelledError, MediaSpan, Passage, Track
from .transcript import Transcript

Message = Mapping[str, Any]
GREEDY = GenerationOptions()


@dataclass(frozen=True, slots=True, eq=False)
class _Spoken:
    """An answer as it was sampled: its tokens need not be those that its text would get.

    Attributes:
        prompt: ids it answered, [S].
        ids: of the answer.
        text: of the answer.
    """

    prompt: NDArray[np.int32]
    ids: NDArray[np.int32]
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """Messages, ready to be read by the decoder."""

    passage: Passage
    choice: Choice
    items: tuple[MeasuredItem, ...]


class Conversation:
    """Messages, and the decoder that has read them. Made by ``Session.conversation``.

    Turns of one conversation follow each other: a second thread waits for its turn. ``cancel`` may be called
    from any thread.
    """

    def __init__(
        self,
        manifest: Manifest,
        track: Track,
        text: TextProcessor,
        media: MediaReader,
        *,
        system: str | None = None,
    ) -> None:
        self.messages: list[Message] = []
        self._manifest = manifest
        self._track = track
        self._text = text
        self._media = media
        self._system = system
        self._spoken: list[_Spoken] = []
        self._turn = threading.Lock()
        self._turn_owner: int | None = None
        self._stop = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Forget every message; what the next turn shares with the last one stays in the cache."""
        self.messages = [] if self._system is None else [{"role": "system", "content": self._system}]
        self._spoken = []

    def cancel(self) -> None:
        """Stop the answer that is being given, between two tokens or two steps of reading."""
        self._stop.set()

    def close(self) -> None:
        """Free the KV cache; the next turn would read everything again."""
        self._track.close()

    def say(
        self,
        content: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        adapters: Wanted = None,
        options: GenerationOptions = GREEDY,
    ) -> Iterator[Piece]:
        """Add a user message and stream the answer, which is added too.

        Args:
            content: text, or a list of parts: {"type": "image", "image": path}, {"type": "audio", ...}, text.
            max_tokens: longest answer; None as in ``options``.
            adapters: name to weight, or a route's name, or both (``routing``).
            options: of this turn.

        Raises:
            InputError: the turn cannot be read; the conversation is then as it was before.
        """
        with self._my_turn():  # before the message is added: what a waiting thread says comes after this answer
            self._stop.clear()
            messages = self.messages  # ``reset`` begins another list; this turn stays with its own
            before = list(messages)
            messages.append({"role": "user", "content": content})
            shown: list[str] = []
            try:
                for piece in self._answer(messages, adapters, _limit(options, max_tokens)):
                    shown.append(piece.text)
                    yield piece
            except GeneratorExit:
                messages.append({"role": "assistant", "content": "".join(shown)})
                raise
            except BaseException:
                messages[:] = before
                raise
            messages.append({"role": "assistant", "content": "".join(shown)})

    def respond(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        adapters: Wanted = None,
        options: GenerationOptions = GREEDY,
    ) -> Iterator[Piece]:
        """Stream the answer to a list of messages, whatever this conversation held before.

        The last piece carries the reply. Closing the iterator early ends the answer.

        Raises:
            InputError: messages, media or adapters are not usable, or the prompt does not fit the context.
        """
        options = _limit(options, max_tokens)
        with self._my_turn():
            self._stop.clear()
            yield from self._answer(messages, adapters, options)

    def _answer(self, messages: Sequence[Message], adapters: Wanted, options: GenerationOptions) -> Iterator[Piece]:
        clock = Stopwatch()
        try:
            question = self._read(messages, adapters)
        except BaseException:
            self._media.forget_pixels()
            raise
        transcript = Transcript(self._text.pieces(), options.stop)
        reason: FinishReason = "cancelled"
        cached = 0
        reprefilled: ReprefillReason | None = None
        try:
            cached, reprefilled = self._prefill(question)
            stream = self._stream(options)
            for token in stream:
                clock.token()
                if text := transcript.push(token):
                    yield Piece(text=text)
                if transcript.stopped:
                    break
            reason = "stop_string" if transcript.stopped else stream.finish_reason
            reprefilled = stream.reprefilled or reprefilled
            if reason == "eos":
                clock.token()  # the end token was sampled as well, and took as long
        except CancelledError:
            pass
        finally:
            self._media.forget_pixels()
            rest = transcript.finish()
            if not transcript.stopped:
                said = np.array(transcript.ids, np.int32)
                self._spoken.append(_Spoken(question.passage.ids, said, transcript.text))
        usage = Usage(
            prompt_tokens=len(question.passage.ids),
            cached_tokens=cached,
            media_rows=question.passage.media_rows,
            completion_tokens=len(transcript.ids),
            reprefilled=reprefilled,
            ttft_s=clock.ttft_s,
            tokens_per_s=clock.tokens_per_s,
            peak_rss_bytes=peak_rss_bytes(),
        )
        reply = Reply(
            text=transcript.text,
            token_ids=tuple(transcript.ids),
            finish_reason=reason,
            mode=question.choice.mode,
            adapters={name: weight for name, weight in question.choice.adapters.items() if weight},
            usage=usage,
        )
        yield Piece(text=rest, reply=reply)

    def _read(self, messages: Sequence[Message], adapters: Wanted) -> _Question:
        """Messages become a passage and a route; nothing native runs."""
        prompt = self._text.prompt(messages)
        kinds = {place.item.kind for place in prompt.media}
        mode = mode_of(has_image="image" in kinds, has_audio="audio" in kinds)
        choice = choose(self._manifest, mode, adapters)
        items = tuple(self._media.measure(place.item) for place in prompt.media)
        template_ids, template_places = expand_media(prompt, [item.rows for item in items])
        ids, places = self._as_spoken(template_ids.astype(np.int32), template_places)
        passage = Passage(ids, places, _spans(places, items, choice))
        context = self._track.context
        if len(ids) > context:
            raise InputError(
                f"the prompt has {len(ids)} tokens ({passage.media_rows} of them images and sounds), this "
                f"session's context is {context}; shorten it, drop older turns, or load with a longer one "
                f"(the bundle serves {self._manifest.decoder.context_length})"
            )
        return _Question(passage, choice, items)

    def _prefill(self, question: _Question) -> tuple[int, ReprefillReason | None]:
        def features(number: int) -> NDArray[np.float32]:
            vision = question.choice.audio_projector == "vision"
            item = question.items[number]
            return self._media.features(item, vision_projector=vision, cancelled=self._stop.is_set)

        gates = question.choice.gates(self._manifest)
        self._track.place_media(question.passage, features)
        return self._track.bring_to(question.passage, gates, self._stop.is_set)

    def _stream(self, options: GenerationOptions) -> TokenStream:
        return TokenStream(
            self._track,
            options,
            eos_ids=self._manifest.processor.text.eos_ids,
            never=self._manifest.decoder.sampled_never,
            cancelled=self._stop.is_set,
        )

    def _as_spoken(
        self, ids: NDArray[np.int32], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Put the sampled tokens of earlier answers where the template's text stands for them.

        Text need not be tokenised as it was sampled; with the sampled ids the cache stays valid. Answers that
        are not in these messages (edited, dropped) are forgotten.
        """
        kept = []
        for spoken in self._spoken:
            start = len(spoken.prompt)
            if len(ids) <= start or (ids[:start] != spoken.prompt).any():
                continue
            ends = np.flatnonzero(np.isin(ids[start:], self._manifest.processor.text.eos_ids))
            end = start + int(ends[0]) if len(ends) else len(ids)
            if places[start:end].any() or self._text.decode(ids[start:end].tolist()) != spoken.text:
                continue
            ids = np.concatenate([ids[:start], spoken.ids, ids[end:]])
            places = np.concatenate([places[:start], np.zeros(len(spoken.ids), np.int64), places[end:]])
            kept.append(spoken)
        self._spoken = kept
        return ids, places

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        me = threading.get_ident()
        if self._turn_owner == me:
            raise InputError("this conversation is still answering; finish or close that answer's iterator first")
        with self._turn:
            self._turn_owner = me
            try:
                yield
            finally:
                self._turn_owner = None


def _limit(options: GenerationOptions, max_tokens: int | None) -> GenerationOptions:
    return options if max_tokens is None else replace(options, max_tokens=max_tokens)


def _spans(places: NDArray[np.int64], items: Sequence[MeasuredItem], choice: Choice) -> tuple[MediaSpan, ...]:
    """Where each item's rows begin; the same sound through another projector counts as another."""
    spans, row = [], 1
    for measured in items:
        start = int(np.flatnonzero(places == row)[0])
        projector = f":{choice.audio_projector}" if measured.item.kind == "audio" else ""
        spans.append(MediaSpan(start, measured.rows, measured.key + projector))
        row += measured.rows
    return tuple(spans)
