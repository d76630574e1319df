"""Execution of one turn: prefill, sampling and usage counts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.decoding.cached_sequence import CachedSequence, CancelledError
from palmtop.runtime.decoding.cancellation import Cancellation
from palmtop.runtime.decoding.generate import TokenStream
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.guided_decoding import GuidedDecoder
from palmtop.runtime.decoding.prompt_lookup import MeasuredPace, PromptLookup, drafter_for
from palmtop.runtime.decoding.reasons import EndReason, ReprefillReason
from palmtop.runtime.decoding.timings import Timings
from palmtop.runtime.media.conversation_media import MediaReader
from palmtop.runtime.memory.machine import peak_rss_bytes
from palmtop.runtime.processor.text import TextProcessor

from .prompt_builder import PreparedPrompt
from .reply import Piece, Reply, TokenLogprob, Usage
from .routing import Choice
from .sampled_history import SampledHistory
from .tools import find_tool_calls
from .transcript import Transcript


class Responder:
    """Runner of one turn of a conversation.

    Args:
        manifest: manifest of the bundle.
        track: cached sequence of the conversation.
        text: tokenizer and chat template.
        media: encoder of the question's images and sounds.
        spoken: history that receives the tokens of the answer.
    """

    def __init__(
        self, manifest: Manifest, track: CachedSequence, text: TextProcessor, media: MediaReader, spoken: SampledHistory
    ) -> None:
        self._manifest = manifest
        self._track = track
        self._text = text
        self._media = media
        self._spoken = spoken
        self._encode_s = 0.0
        self._pace = MeasuredPace()

    def drafter(self, options: GenerationOptions) -> PromptLookup | None:
        """Return the prompt lookup for an answer with these options; None if it is not used.

        Raises:
            InputError: ``speculate`` is True, and the bundle returns the logits of one position only.
        """
        never = *self._manifest.decoder.sampled_never, *self._manifest.processor.text.eos_ids
        return drafter_for(options, self._manifest, self._pace, never)

    def answer(
        self,
        question: PreparedPrompt,
        options: GenerationOptions,
        guide: GuidedDecoder | None,
        drafter: PromptLookup | None,
        interruption: Cancellation,
        clock: Timings,
    ) -> Generator[Piece, None, None]:
        """Yield the pieces of the answer; the last one has the reply."""
        self._encode_s = 0.0
        transcript = Transcript(self._text.pieces(), options.stop)
        reason: EndReason = "cancelled"
        cached = 0
        reprefilled: ReprefillReason | None = None
        stream: TokenStream | None = None
        try:
            cached, reprefilled = self._prefill(question, interruption)
            stream = self._stream(options, guide, drafter, interruption)
            for token in stream:
                clock.token()
                if text := transcript.push(token):
                    yield Piece(text=text)
                if transcript.stopped:
                    break
            reason = "stop_string" if transcript.stopped else stream.ended_by
            reprefilled = stream.reprefilled or reprefilled
            if reason == "eos":
                clock.token()  # the end token was sampled as well, and took as long
        except CancelledError:
            pass
        finally:
            self._media.forget_pixels()
            rest = transcript.finish()
            if not transcript.stopped:
                self._spoken.add(question.passage.ids, transcript.ids, transcript.text)
        if reason == "cancelled":
            reason = interruption.reason or reason
        prompt_tokens = len(question.passage.ids)
        usage = Usage(
            prompt_tokens=prompt_tokens,
            cached_tokens=cached,
            media_rows=question.passage.media_rows,
            completion_tokens=len(transcript.ids),
            reprefilled=reprefilled,
            trimmed_messages=question.trimmed,
            encode_s=self._encode_s,
            ttft_s=clock.ttft_s,
            tokens_per_s=clock.tokens_per_s,
            peak_rss_bytes=peak_rss_bytes(),
            drafted_tokens=0 if drafter is None else drafter.drafted,
            accepted_tokens=0 if drafter is None else drafter.accepted,
            draft_s=0.0 if drafter is None else drafter.steps_s,
        )
        reply = Reply(
            text=transcript.text,
            token_ids=tuple(transcript.ids),
            ended_by=reason,
            mode=question.choice.mode,
            adapters={name: weight for name, weight in question.choice.adapters.items() if weight},
            tool_calls=find_tool_calls(transcript.text, transcript.ids, self._text),
            usage=usage,
            unfinished=None if guide is None or reason == "eos" or guide.is_complete else "form",
            logprobs=() if stream is None else tuple(map(self._token_logprob, stream.logprobs)),
        )
        yield Piece(text=rest, reply=reply)

    def _token_logprob(self, found: Sequence[tuple[int, float]]) -> TokenLogprob:
        of = [TokenLogprob(text=self._text.token_text(i), token_id=i, logprob=p) for i, p in found]
        return replace(of[0], top=tuple(of[1:]))

    def _prefill(self, question: PreparedPrompt, interruption: Cancellation) -> tuple[int, ReprefillReason | None]:
        def features(number: int) -> NDArray[np.float32]:
            vision = question.choice.audio_projector == "vision"
            return self._media.features(question.items[number], vision_projector=vision, cancelled=interruption)

        started = perf_counter()
        self._track.write_media(question.passage, features)
        self._encode_s = perf_counter() - started if question.items else 0.0
        gates = question.choice.gates(self._manifest)
        return self._track.prefill(question.passage, gates, interruption, as_new=question.as_new)

    def _stream(
        self,
        options: GenerationOptions,
        guide: GuidedDecoder | None,
        drafter: PromptLookup | None,
        interruption: Cancellation,
    ) -> TokenStream:
        return TokenStream(
            self._track,
            options,
            eos_ids=self._manifest.processor.text.eos_ids,
            never=self._manifest.decoder.sampled_never,
            guide=guide,
            drafter=drafter,
            cancelled=interruption,
        )


def unread(choice: Choice, interruption: Cancellation, clock: Timings) -> Reply:
    """Return the empty reply to a question that was stopped while its media were decoded."""
    usage = Usage(
        prompt_tokens=0,
        cached_tokens=0,
        media_rows=0,
        completion_tokens=0,
        reprefilled=None,
        encode_s=clock.ttft_s,
        ttft_s=clock.ttft_s,
        tokens_per_s=0.0,
        peak_rss_bytes=peak_rss_bytes(),
    )
    return Reply(
        text="",
        token_ids=(),
        ended_by=interruption.reason or "cancelled",
        mode=choice.mode,
        adapters={name: weight for name, weight in choice.adapters.items() if weight},
        tool_calls=(),
        usage=usage,
    )
