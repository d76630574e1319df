"""The token sequence of a KV cache, and the steps that turn it into another sequence.

Invariant: the cache holds exactly the ids in ``ids``, computed under the current gates and rope factors. Draft tokens
    may follow them: they stay in the cache until they are accepted or until the next step removes them. Every token
    goes through ``append``, never through the native loop, which would leave the last token of a turn without keys and
    values. This module handles ids, media positions and feature rows; it handles no text and imports no native library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError, PalmtopError
from palmtop.runtime.bundle.states import StateSpec

from .decoder import NOTHING, Decoder, SequenceState, TokenSequence
from .prefill import PrefillChunk, prefill_step
from .reasons import ReprefillReason

Cancelled = Callable[[], bool]


class CancelledError(Exception):
    """A request to stop between two steps; the cached sequence stays usable."""


class CachedSequence:
    """A decoder together with the token sequence in its KV cache.

    Args:
        open_decoder: creates the decoder; called at first use and again after a native failure.
        context: largest number of tokens in the KV cache.
        original_context: sequences longer than this use the long LongRoPE factors; None without LongRoPE.
        chunk: most tokens of one prefill step; cancellation is checked between steps. A ``PrefillChunk`` may be shared
            by the sequences of a session.
        draft_rows: most tokens of a step that returns the logits of each. Above 1, no token is read alone: it is read
            again together with the token before it, so that draft tokens do not change the text (docs/speculation.md).

    A prompt is never read in a step of one token, cached or not (``prefill_step``), so the same prompt gives
    bit-identical logits. Only the tokens of an answer are read alone, and only in a bundle without draft rows.
    """

    def __init__(
        self,
        open_decoder: Callable[[], Decoder],
        *,
        context: int,
        original_context: int | None,
        chunk: int | PrefillChunk,
        draft_rows: int = 1,
    ) -> None:
        self.context = context
        self._open = open_decoder
        self._decoder: Decoder | None = None
        self._original_context = original_context
        self._chunk = chunk if isinstance(chunk, PrefillChunk) else PrefillChunk(chunk)
        self._draft_rows = draft_rows
        self._never_alone = draft_rows > 1 and self._chunk.smallest > 1
        self._held = NOTHING
        self._length = 0  # of the text; positions behind it are draft tokens
        self._alone: int | None = None  # position of the first token in the cache that was read alone
        self._rows: NDArray[np.float32] | None = None  # logits of the last tokens in the cache, draft tokens included
        self._rows_of: list[str] = []  # keys of the media whose features are in the buffer, in order

    @property
    def ids(self) -> NDArray[np.int32]:
        """Token ids in the cache, draft tokens left out, [S]."""
        return self._held.ids[: self._length]

    def write_media(self, passage: TokenSequence, features: Callable[[int], NDArray[np.float32]]) -> None:
        """Write the feature rows of a sequence's media into the array that the graph reads.

        Args:
            passage: sequence whose spans determine the rows.
            features: returns the [rows, H] features of span n; called only for spans that are not in the array yet.

        Raises:
            InputError: the media have more rows than the session's array.
        """
        needed = passage.media_rows
        buffer = self._ready().inputs.media_features
        room = 0 if buffer is None else len(buffer)
        if needed > room:
            raise InputError(
                f"the conversation's images and sounds take {needed} rows of features, this session has "
                f"{room} places; load with media_rows={needed} or drop older media"
            )
        row, same = 0, True
        for number, span in enumerate(passage.media):
            same = same and number < len(self._rows_of) and self._rows_of[number] == span.key
            if not same:
                del self._rows_of[number:]
                assert buffer is not None  # needed > room was refused above
                buffer[row : row + span.rows] = features(number)
                self._rows_of.append(span.key)
            row += span.rows

    def prefill(
        self, passage: TokenSequence, gates: NDArray[np.float32], cancelled: Cancelled, *, as_new: bool = False
    ) -> tuple[int, ReprefillReason | None]:
        """Make the cache hold exactly this sequence.

        Args:
            passage: sequence to be held.
            gates: [A] float32 weights of the adapters.
            cancelled: called between two steps; True stops.
            as_new: return bit-identical logits to those of an empty cache: tokens that were read one at a time are read
                again.

        Returns:
            number of tokens that were in the cache already, and the reason why others were dropped, if any were.

        Raises:
            CancelledError: stopped between two steps; tokens read so far stay in the cache.
            InputError: the sequence is longer than the context.
        """
        decoder = self._ready()
        if len(passage.ids) > self.context:
            raise InputError(f"the prompt has {len(passage.ids)} tokens, the session's context is {self.context}")
        reason = self._set_switches(decoder, gates, len(passage.ids))
        common = min(_common_prefix(self._held, passage), len(passage.ids) - 1)
        if as_new and self._alone is not None:
            common = min(common, self._alone)
        self._read(passage, common, cancelled, together=True)
        return common, reason

    def step(self, token: int, cancelled: Cancelled, draft: Sequence[int] = ()) -> ReprefillReason | None:
        """Append one sampled token; across the LongRoPE boundary this reads the whole sequence again.

        Args:
            token: the sampled id; no step is needed if it was drafted and accepted.
            cancelled: called between two steps; True stops.
            draft: draft tokens, at most ``draft_room``; read in the same step.
        """
        if self.expects(token):
            self._length += 1
            return None
        decoder = self._ready()
        held, before = self._held, self._length
        ids = np.concatenate([held.ids[:before], np.array([token, *draft], np.int32)])
        places = np.concatenate([held.places[:before], np.zeros(1 + len(draft), np.int64)])
        passage = TokenSequence(ids, places, held.media)
        reason = self._set_switches(decoder, decoder.inputs.adapter_gates, len(ids))
        self._read(passage, min(before, len(self._held.ids)), cancelled, together=self._never_alone)
        if draft:
            self._rows = decoder.draft_logits(1 + len(draft))
            self._length = before + 1
        return reason

    def expects(self, token: int) -> bool:
        """Return whether this token was drafted as the next one and has been read."""
        return self._length < len(self._held.ids) and int(self._held.ids[self._length]) == token

    def draft_room(self) -> int:
        """Most draft tokens of the next step: none may cross the LongRoPE boundary."""
        length = self._length + 1
        room = min(self._draft_rows, self._chunk.smallest, self.room()) - 1
        if self._original_context is not None and length <= self._original_context + 1:
            room = min(room, self._original_context - length)
        return max(0, room)

    def room(self) -> int:
        """Number of tokens that still fit into the context."""
        return self.context - self._length

    def logits(self) -> NDArray[np.float32]:
        """Logits after the last token, [V].

        Raises:
            PalmtopError: the logits are not finite.
        """
        guesses = len(self._held.ids) - self._length
        logits = self._ready().logits() if self._rows is None else self._rows[len(self._rows) - 1 - guesses]
        if not np.isfinite(logits).all():
            raise PalmtopError(
                "the decoder's logits are not finite: an adapter weight is too large, or weights are damaged"
            )
        return logits

    def snapshot(self, specs: tuple[StateSpec, ...]) -> SequenceState | None:
        """Return what was computed; valid until the next step. None before the first token.

        Args:
            specs: kinds of the decoder's states.
        """
        decoder = self._decoder
        if decoder is None or not len(self._held.ids):
            return None
        inputs, features = decoder.inputs, decoder.inputs.media_features
        written = 0  # a question that was stopped may have overwritten the rows of later media
        for span, key in zip(self._held.media, self._rows_of, strict=False):
            if span.key != key:
                break
            written += 1
        used = sum(span.rows for span in self._held.media[:written])
        return SequenceState(
            held=self._held,
            length=self._length,
            alone=self._alone,
            row_keys=tuple(self._rows_of[:written]),
            rows=None if features is None else features[:used],
            gates=inputs.adapter_gates,
            rope_long=None if inputs.rope_long is None else bool(inputs.rope_long[0]),
            specs=specs,
            states=((spec, layer, decoder.read_state(spec, layer)) for spec in specs for layer in spec.layers),
        )

    def park(self, specs: tuple[StateSpec, ...]) -> SequenceState | None:
        """Close the decoder, and return a copy of what it computed, for ``resume``; None before the first token."""
        found = self.snapshot(specs)
        if found is not None:
            states = [(spec, layer, np.array(content)) for spec, layer, content in found.states]
            rows, gates = (None if a is None else np.array(a) for a in (found.rows, found.gates))
            found = replace(found, states=states, rows=rows, gates=gates)
        self.close()
        return found

    def resume(self, saved: SequenceState) -> None:
        """Continue a sequence of another decoder of the same bundle, as if it had been read here.

        Raises:
            InputError: the sequence or its media do not fit into this session.
            PalmtopError: raised by ``saved.states``; the sequence is then empty.
        """
        count = len(saved.held.ids)
        self.close()
        decoder = self._ready()
        inputs = decoder.inputs
        rows = 0 if saved.rows is None else len(saved.rows)
        needed = max(rows, int(saved.held.places.max(initial=0)))
        room = 0 if inputs.media_features is None else len(inputs.media_features)
        if count > self.context or needed > room:
            raise InputError(
                f"the saved conversation has {count} tokens and {needed} rows of images and sounds, this session has "
                f"places for {self.context} and {room}; load with a longer context"
            )
        try:
            if inputs.media_features is not None and saved.rows is not None:
                inputs.media_features[:rows] = saved.rows
            if inputs.media_index is not None:
                inputs.media_index[:count] = saved.held.places
            if inputs.adapter_gates is not None and saved.gates is not None:
                inputs.adapter_gates[:] = saved.gates
            if inputs.rope_long is not None:
                inputs.rope_long[0] = bool(saved.rope_long)
            decoder.write_states(saved.states, count)
        except BaseException:
            self.close()
            raise
        self._hold(saved.held)
        self._length, self._alone, self._rows_of = saved.length, saved.alone, list(saved.row_keys)

    def close(self) -> None:
        """Free the decoder; the next use opens another one."""
        decoder, self._decoder = self._decoder, None
        self._hold(NOTHING)
        self._rows_of = []
        if decoder is not None:
            decoder.close()

    def _ready(self) -> Decoder:
        if self._decoder is None:
            self._decoder = self._open()
        return self._decoder

    def _set_switches(self, decoder: Decoder, gates: NDArray[np.float32] | None, length: int) -> ReprefillReason | None:
        """Set gates and rope factors for this length; return why the cached tokens became invalid, or None."""
        inputs = decoder.inputs
        reason: ReprefillReason | None = None
        long = self._original_context is not None and length > self._original_context
        if inputs.rope_long is not None and bool(inputs.rope_long[0]) != long:
            reason = "rope"
        if inputs.adapter_gates is not None and gates is not None and (inputs.adapter_gates != gates).any():
            reason = "adapters"
        if reason is None:
            return None
        had_tokens = len(self._held.ids) > 0
        if had_tokens:
            self._hold(NOTHING)
            decoder.rewind_to(0)
        if inputs.rope_long is not None:
            inputs.rope_long[0] = long
        if inputs.adapter_gates is not None and gates is not None:
            inputs.adapter_gates[:] = gates
        return reason if had_tokens else None

    def _read(self, passage: TokenSequence, common: int, cancelled: Cancelled, *, together: bool) -> None:
        """Rewind to ``common`` and append the rest in chunks; ``together``: never read the last token alone."""
        decoder = self._ready()
        length = len(passage.ids)
        is_alone = common == length - 1 and self._chunk.smallest > 1
        if is_alone and together and common > 0:
            common, is_alone = common - 1, False
        if self._alone is not None and self._alone >= common:
            self._alone = None
        if is_alone and self._alone is None:
            self._alone = common
        try:
            if decoder.token_count != common:
                decoder.rewind_to(common)
            if decoder.inputs.media_index is not None:
                decoder.inputs.media_index[common:length] = passage.places[common:]
            start = common
            while start < length:
                if cancelled():
                    raise CancelledError
                end = start + prefill_step(length - start, self._chunk.tokens)
                with self._chunk.measured(end - start):
                    decoder.append(passage.ids[start:end])
                start = end
        except (CancelledError, KeyboardInterrupt):
            raise
        except BaseException:
            self.close()  # the last tokens may lack keys and values
            raise
        finally:
            count = decoder.token_count if self._decoder is not None else 0
            media = tuple(span for span in passage.media if span.start < count)
            self._hold(TokenSequence(passage.ids[:count], passage.places[:count], media))

    def _hold(self, passage: TokenSequence) -> None:
        """Record this sequence as the cache's content, without draft tokens."""
        self._held, self._length, self._rows = passage, len(passage.ids), None


def _common_prefix(held: TokenSequence, wanted: TokenSequence) -> int:
    """Number of equal leading tokens of two sequences; images and sounds are compared by their keys."""
    length = min(len(held.ids), len(wanted.ids))
    same = (held.ids[:length] == wanted.ids[:length]) & (held.places[:length] == wanted.places[:length])
    common = length if same.all() else int(same.argmin())
    for ours, theirs in zip(held.media, wanted.media, strict=False):
        if ours.key != theirs.key:
            return min(common, ours.start)
    return common
