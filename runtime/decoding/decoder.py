"""A decoder's interface, and the values that go into it and out of it. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.bundle.states import StateSpec

LayerState = tuple[StateSpec, int, NDArray[np.generic]]
"""One layer's state of one sequence: its kind, the layer, its content."""


@dataclass(slots=True)
class DecoderInputs:
    """Arrays that the graph reads in place; None where the graph lacks the input.

    Attributes:
        media_index: [L] int64 by position: 0 = text token, k = row k - 1 of ``media_features``.
        media_features: [M, H] float32 rows of the encoders.
        adapter_gates: [A] float32 weight of each adapter.
        rope_long: [1] bool, True for the long LongRoPE factors.
    """

    media_index: NDArray[np.int64] | None
    media_features: NDArray[np.float32] | None
    adapter_gates: NDArray[np.float32] | None
    rope_long: NDArray[np.bool_] | None


class Decoder(Protocol):
    """A native generator and the arrays it reads."""

    inputs: DecoderInputs

    @property
    def token_count(self) -> int:
        """Number of tokens in the KV cache."""

    def append(self, ids: NDArray[np.int32]) -> None:
        """Run the graph over more tokens, [S]."""

    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the last token, [V]."""

    def draft_logits(self, count: int) -> NDArray[np.float32]:
        """Return the logits of the last ``count`` tokens, which were appended together: [count, V]."""

    def rewind_to(self, count: int) -> None:
        """Remove all tokens from the cache but the first ``count``."""

    def read_state(self, state: StateSpec, layer: int) -> NDArray[np.generic]:
        """Return one layer's state, cut to the tokens read: an array that is valid until the next step."""

    def write_states(self, states: Iterable[LayerState], count: int) -> None:
        """Take over the states of ``count`` tokens, those of every layer."""

    def close(self) -> None:
        """Free the KV cache."""


@dataclass(frozen=True, slots=True)
class MediaSpan:
    """Position of an image or a sound in a sequence.

    Attributes:
        start: position of its first feature row.
        rows: number of positions, one for each feature row.
        key: identity of the features; equal keys have equal features.
    """

    start: int
    rows: int
    key: str


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """Token ids of a prompt and the positions of its media.

    Attributes:
        ids: [S] int32 token ids.
        places: [S] int64 feature row of each position, as ``DecoderInputs.media_index``; rows are numbered from 1 in
            order of appearance.
        media: spans of ``places``, in order of their positions.
    """

    ids: NDArray[np.int32]
    places: NDArray[np.int64]
    media: tuple[MediaSpan, ...]

    @property
    def media_rows(self) -> int:
        """Number of positions that are feature rows of images and sounds."""
        return sum(span.rows for span in self.media)


NOTHING = TokenSequence(np.zeros(0, np.int32), np.zeros(0, np.int64), ())


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SequenceState:
    """Everything that a decoder computed for a sequence: what another decoder needs to continue it.

    Attributes:
        held: sequence in the states, draft tokens included; empty without states.
        length: tokens of it that are text.
        alone: position of the first token that was read alone; None if there is none.
        row_keys: keys of the media whose feature rows are there, in order.
        rows: their feature rows, [R, H].
        gates: [A] weights of the adapters, under which the states were computed; None without adapters.
        rope_long: whether they were computed with the long LongRoPE factors; None without LongRoPE.
        specs: kinds of the decoder's states.
        states: states of every layer of each kind, to be read once, in this order.
    """

    held: TokenSequence
    length: int
    alone: int | None
    row_keys: tuple[str, ...]
    rows: NDArray[np.float32] | None
    gates: NDArray[np.float32] | None
    rope_long: bool | None
    specs: tuple[StateSpec, ...]
    states: Iterable[LayerState]
