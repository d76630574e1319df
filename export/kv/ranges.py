"""Largest keys and values of each channel, and the scales for them. Numpy only; runs no graph.

Keys are stored after their rotation, which rotates a pair of channels by an angle that grows with the position. Over
all positions each of the two reaches the pair's length, so both share the largest length seen: no position and no
LongRoPE factor makes them longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.export.graph.kv_cache import REACH, LayerScales

LEAST_SHARE = 1e-3  # share of a layer's largest channel: a channel that is zero in all samples gets this much range


@dataclass(slots=True)
class ChannelRanges:
    """Largest keys and values of one layer so far.

    Attributes:
        rotary_size: leading channels of a head that rotate, in pairs (i, i + rotary_size / 2).
        key: [KV, D] float32; None before the first sample.
        value: [KV, D] float32; None before the first sample.
    """

    rotary_size: int
    key: NDArray[np.float32] | None = None
    value: NDArray[np.float32] | None = None

    def add(self, key: NDArray[np.float32], value: NDArray[np.float32]) -> None:
        """Add keys after their rotation, and values, [B, KV, T, D] each."""
        self.key = _larger(self.key, key_reach(key, self.rotary_size))
        self.value = _larger(self.value, np.abs(value).max(axis=(0, 2)))

    def scales(self, bits: int) -> LayerScales:
        """Return scales with which the largest values fit the codes.

        Args:
            bits: bits of a code, 8 or 4.

        Raises:
            ValueError: no keys and values were added.
        """
        if self.key is None or self.value is None:
            raise ValueError("no keys and values were added")
        return LayerScales(key=_scales(self.key, bits), value=_scales(self.value, bits))


def key_reach(key: NDArray[np.float32], rotary_size: int) -> NDArray[np.float32]:
    """Return the largest possible size of each channel of the keys at any position, [KV, D]; keys are [B, KV, T, D]."""
    reach = np.abs(key)
    half = rotary_size // 2
    lengths = np.hypot(key[..., :half], key[..., half:rotary_size])
    reach[..., :half] = reach[..., half:rotary_size] = lengths
    return np.asarray(reach.max(axis=(0, 2)))


def _larger(one: NDArray[np.float32] | None, other: NDArray[np.float32]) -> NDArray[np.float32]:
    return other if one is None else np.maximum(one, other)


def _scales(largest: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    most = float(largest.max())
    if most == 0:
        return np.ones_like(largest)
    return np.asarray(np.maximum(largest, most * LEAST_SHARE) / REACH[bits], np.float32)
