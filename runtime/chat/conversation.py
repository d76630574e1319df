"""A conversation with a KV cache: each turn reads only the tokens that the cache does not hold yet.

Every turn is rendered whole by the chat template and compared with the tokens in the cache, so continuing, editing,
retrying and starting over are one operation. This module keeps the messages and the order of turns;
``prompt_builder.py`` and ``responder.py`` carry out a turn, ``cached_sequence.py`` holds the cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Unpack

from palmtop.errors import InputError
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.states import StateSpec
from palmtop.runtime.decoding.cached_sequence import CachedSequence
from palmtop.runtime.decoding.cancellation import Cancellation
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.guided_decoding import GuidedDecoders
from palmtop.runtime.decoding.timings import Timings
from palmtop.runtime.media.conversation_media import MediaReader
from palmtop.runtime.processor.text import TextProcessor

from .answer_steps import AnswerSteps, Pieces
from .forms.call_options import ChatOptions, call_options
from .forms.message_forms import Asked, as_content, as_messages
from .prompt_builder import Message, PromptBuilder, ReadingCancelledError, last_question, without_front
from .reasoning import separate_thinking
from .reply import Piece
from .responder import Responder, unread
from .routing import Wanted
from .sampled_history import SampledHistory
from .saved_conversation import Binding, ConversationState, write_conversation
from .stream import Answer
from .tools import Tool, check_tools, first_messages, with_tools
from .turn_lock import TurnLock

DEFAULTS = GenerationOptions()
FIRST = "the session's first restore or fork"


class Home(Protocol):
    """The session of a conversation, for what outlives one decoder."""

    states: tuple[StateSpec, ...]

    def binding(self) -> Binding:
        """Return what the conversation's numbers depend on."""

    def resumed(self, state: ConversationState) -> Conversation:
        """Return a conversation of its own that continues a state."""

    def own_loop(self) -> None:
        """Make the session's decoders take states."""


class Conversation:
    """A dialogue and the decoder that holds its tokens. Made by ``Session.conversation``.

    Close it, or use it in a ``with`` statement.

    Turns of one conversation run one after the other: a second thread waits for its turn. ``cancel`` may be called from
    any thread.

    Attributes:
        messages: the dialogue so far, system message first; may be edited between two turns.
    """

    def __init__(
        self,
        manifest: Manifest,
        track: CachedSequence,
        text: TextProcessor,
        media: MediaReader,
        guides: GuidedDecoders,
        *,
        system: str | None = None,
        tools: Sequence[Tool] = (),
        home: Home | None = None,
    ) -> None:
        check_tools(tools, text)
        self.messages: list[Message] = []
        self._track = track
        self._text = text
        self._media = media
        self._guides = guides
        self._first = first_messages(system, tools, text)
        self._tools = tools or None
        self._spoken = SampledHistory(text.decode, manifest.processor.text.eos_ids)
        self._reader = PromptBuilder(manifest, text, media, self._spoken, track.context)
        self._talk = Responder(manifest, track, text, media, self._spoken)
        self._turns = TurnLock()
        self._home = home
        self.reset()

    def reset(self) -> None:
        """Remove all messages; tokens that the next turn shares with the last one stay in the cache."""
        self.messages = list(self._first)
        self._spoken.forget()

    def cancel(self) -> None:
        """Stop the running answer, between two tokens or two chunks of the prompt.

        The conversation can then give the next answer, whether the rest of this one is read or not.
        """
        if (answering := self._turns.answering) is not None:
            answering.cancel()

    def count_tokens(self, messages: Asked | None = None) -> int:
        """Count the tokens of a prompt, images and sounds included; media are decoded for it, not encoded.

        Args:
            messages: the messages; None for the dialogue so far.

        Raises:
            InputError: messages or media are not usable.
        """
        try:
            return self._reader.length(self.messages if messages is None else as_messages(messages), self._tools)
        finally:
            self._media.forget_pixels()

    def close(self) -> None:
        """Free the KV cache; the next turn reads everything again."""
        self._track.close()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def chat(
        self,
        content: str | Sequence[Any] | Mapping[str, Any],
        *,
        role: str = "user",
        image: Any = None,
        audio: Any = None,
        adapters: Wanted = None,
        options: GenerationOptions = DEFAULTS,
        **keywords: Unpack[ChatOptions],
    ) -> Answer:
        """Add a message to the dialogue, stream the answer and add it too.

        Args:
            content: text, or a list of parts: texts, pictures, or {"type": "image", "image": path}.
            role: "user", or "tool" for the result of a tool call.
            image: picture or list of pictures before the content: a path, bytes, pixels or a picture of Pillow.
            audio: sound or list of sounds before the content: a path, bytes or (samples, rate in Hz).
            adapters: mapping of names to weights, name of a route, or both (``routing``).
            options: generation options of this turn.
            **keywords: fields of ``options`` by name, such as ``max_tokens=100``.

        Returns:
            an iterator of pieces; nothing runs before the first is asked for. Its ``result()`` is the whole reply.

        Raises:
            InputError: an option is not usable; during iteration: the turn is not; the conversation is then unchanged.
        """
        message = {"role": role, "content": as_content(content, image, audio)}
        return self._keep(lambda messages: messages.append(message), adapters, call_options(options, keywords))

    def retry(
        self, *, adapters: Wanted = None, options: GenerationOptions = DEFAULTS, **keywords: Unpack[ChatOptions]
    ) -> Answer:
        """Answer the last question again, for instance with another seed; the earlier answer is dropped.

        Only the question's last token is read again.

        Args:
            adapters: adapters of this answer, as for ``chat``.
            options: how the answer is generated.
            keywords: single options by name, as for ``chat``.

        Raises:
            InputError: during iteration: there is no question, or as for ``chat``.
        """

        def drop_answer(messages: list[Message]) -> None:
            del messages[last_question(messages) + 1 :]

        return self._keep(drop_answer, adapters, call_options(options, keywords))

    def rewind(self, turns: int = 1) -> None:
        """Remove the last questions and their answers; the next turn continues from there.

        Args:
            turns: number of questions.

        Raises:
            InputError: there are fewer questions, or an answer is being given.
        """
        if isinstance(turns, bool) or not isinstance(turns, int) or turns < 1:
            raise InputError(f"rewind: found {turns!r} turns, expected a number from 1 on")
        if self._turns.answering is not None:
            raise InputError("rewind: an answer is being given; finish or close it first")
        left = list(self.messages)
        for _ in range(turns):
            del left[last_question(left) :]
        self.messages = left

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the conversation to a file: messages, media, and all that was computed for them.

        ``Session.restore`` continues it, in another process too, without reading anything again: the next answer is
        the one that this conversation would give. The file is written beside its destination, flushed and renamed.

        Args:
            path: the file; an existing one is replaced.

        Returns:
            The file's size in bytes, mostly keys and values (``palmtop inspect`` shows their bytes per token).

        Raises:
            InputError: an answer is being given, a file of the dialogue's media is missing, a message is not JSON, or
                the file cannot be written.
        """
        home = self._session()
        with self._turns.between("save"):
            return write_conversation(path, self.state(home.states), home.binding())

    def fork(self) -> Conversation:
        """Return a second conversation that continues this one, with a KV cache of its own; nothing is read again.

        Raises:
            InputError: an answer of this session is being given.
            MemoryPlanError: another KV cache does not fit into memory.
        """
        home = self._session()
        home.own_loop()
        with self._turns.between("fork"):
            return home.resumed(self.state(home.states))

    def state(self, specs: tuple[StateSpec, ...]) -> ConversationState:
        """Return the conversation as values; what the decoder computed is valid until the next turn.

        Args:
            specs: kinds of the decoder's states.
        """
        return ConversationState(
            messages=list(self.messages),
            first=list(self._first),
            tools=self._tools,
            answers=list(self._spoken.answers),
            segments=self._media.segments,
            sequence=self._track.snapshot(specs),
        )

    def resume(self, state: ConversationState) -> None:
        """Become a conversation that was saved or forked; used by the session.

        Raises:
            InputError: the state does not fit into this session.
        """
        if state.tools:
            check_tools(state.tools, self._text)
        if state.sequence is not None:
            self._track.resume(state.sequence)
        self.messages, self._first = list(state.messages), list(state.first)
        self._tools = list(state.tools) if state.tools else None
        self._spoken.answers = list(state.answers)
        self._media.remember(state.segments)

    def check_between_turns(self) -> None:
        """Refuse while an answer is being given; used by the session.

        Raises:
            InputError: an answer is being given.
        """
        with self._turns.between(FIRST):
            pass

    @contextmanager
    def parked(self, specs: tuple[StateSpec, ...]) -> Iterator[None]:
        """Close the decoder while the block runs, and continue in another one; used by the session.

        Raises:
            InputError: an answer is being given.
        """
        with self._turns.between(FIRST):
            sequence = self._track.park(specs)
            yield
            if sequence is not None:
                self._track.resume(sequence)

    def _session(self) -> Home:
        if self._home is None:
            raise InputError("the conversation belongs to no session, expected one that Session.conversation made")
        return self._home

    def respond(
        self,
        messages: Asked,
        *,
        adapters: Wanted = None,
        options: GenerationOptions = DEFAULTS,
        tools: Sequence[Tool] | None = None,
        **keywords: Unpack[ChatOptions],
    ) -> Answer:
        """Stream the answer to a list of messages, independent of the earlier dialogue.

        The last piece carries the reply. Closing the answer early ends it.

        Args:
            messages: the whole dialogue; text alone is one question. A last message of the assistant is the beginning
                of the answer, which continues it.
            adapters: name to weight, or a route's name, or both (``routing``).
            options: generation options of this answer.
            tools: functions that the model may call in this answer, written into the messages' system message; None
                for those that the conversation was made with, which the messages hold already.
            **keywords: fields of ``options`` by name, such as ``max_tokens=100``.

        Raises:
            InputError: during iteration: messages, media or adapters are not usable, or the prompt does not fit the
                context.
        """
        options = call_options(options, keywords)
        given = as_messages(messages)

        def give(steps: AnswerSteps) -> Pieces:
            with self._turns.hold(steps):
                asked = given if tools is None else with_tools(given, tools, self._text)
                yield from self._answer(asked, adapters, options, steps.interruption, None, tools)

        return Answer(give, options.timeout_s)

    def _keep(
        self,
        change: Callable[[list[Message]], None],
        adapters: Wanted,
        options: GenerationOptions,
    ) -> Answer:
        """Change the dialogue, answer it, and add the answer; undo the change after a failure."""

        def give(steps: AnswerSteps) -> Pieces:
            with self._turns.hold(steps):  # first: the message of a waiting thread comes after this answer
                messages = self.messages  # ``reset`` makes another list; this turn keeps its own
                before = list(messages)
                shown: list[str] = []
                try:
                    change(messages)
                    for piece in self._answer(list(messages), adapters, options, steps.interruption, messages):
                        if piece.kind == "answer":  # thinking is not part of later prompts
                            shown.append(piece.text)
                        yield piece
                except GeneratorExit:
                    messages.append({"role": "assistant", "content": "".join(shown)})
                    raise
                except BaseException:
                    messages[:] = before
                    raise
                messages.append({"role": "assistant", "content": "".join(shown)})

        return Answer(give, options.timeout_s)

    def _answer(
        self,
        messages: Sequence[Message],
        adapters: Wanted,
        options: GenerationOptions,
        stop: Cancellation,
        history: list[Message] | None,
        tools: Sequence[Tool] | None = None,
    ) -> Pieces:
        """Answer one turn; messages that were trimmed are removed from ``history``."""
        clock = Timings()
        spec = self._text.spec
        options = options.resolved(spec.generation)
        guide, drafter = self._guides.guide(options.grammar), self._talk.drafter(options)
        try:
            as_new = history is None and options.seed is not None  # "equal seeds": independent of earlier answers
            shown = self._tools if tools is None else tools or None
            question = self._reader.read(messages, adapters, options, shown, stop, as_new=as_new)
        except ReadingCancelledError as stopped:
            self._media.forget_pixels()
            yield Piece(text="", reply=unread(stopped.choice, stop, clock))
            return
        except BaseException:
            self._media.forget_pixels()
            raise
        if history is not None and question.trimmed:
            history[:] = without_front(history, question.trimmed)
        pieces = self._talk.answer(question, options, guide, drafter, stop, clock)
        if guide is not None and question.opens_thinking:
            yield from pieces  # the grammar leaves no room for thinking, though the template has opened it
            return
        yield from separate_thinking(
            pieces, self._text.spec.thinking, is_open=question.opens_thinking, answer_marks=self._text.answer_marks
        )
