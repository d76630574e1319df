"""Heads of an attention layer; odd sizes are stored padded, with the linears and deltas that belong to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.export.checkpoint.lazy_tensor import LazyTensor
from palmtop.export.checkpoint.lora import LoraPair

HEAD_STEP = 8  # GroupQueryAttention's CPU kernel needs multiples of eight for head sizes and halves of rotary sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Number and size of the heads of an attention layer.

    Attributes:
        num_heads: number of query heads.
        num_kv_heads: number of key/value heads.
        head_size: D of the checkpoint.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int

    @property
    def cache_head_size(self) -> int:
        """D rounded up to a size that the kernel supports."""
        return -(-self.head_size // HEAD_STEP) * HEAD_STEP

    @property
    def qkv_size(self) -> int:
        """Rows of the checkpoint's fused projection."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_size

    def padded_rows(self) -> NDArray[np.int64] | None:
        """Return for every row of the padded fused projection the checkpoint's row, -1 for zeros; None if equal."""
        return self._padded(self.num_heads + 2 * self.num_kv_heads)

    def padded_columns(self) -> NDArray[np.int64] | None:
        """Return for every padded column of the output projection its column, -1 for zeros; None if equal."""
        return self._padded(self.num_heads)

    def _padded(self, heads: int) -> NDArray[np.int64] | None:
        if self.cache_head_size == self.head_size:
            return None
        order = np.full((heads, self.cache_head_size), -1, np.int64)
        order[:, : self.head_size] = np.arange(heads * self.head_size).reshape(heads, self.head_size)
        return order.reshape(-1)

    def rows(self, weight: LazyTensor) -> LazyTensor:
        """Return the fused projection, or its bias, with padded rows."""
        order = self.padded_rows()
        return weight if order is None else weight.permuted_rows(order)

    def columns(self, weight: LazyTensor) -> LazyTensor:
        """Return the output projection with padded columns."""
        order = self.padded_columns()
        return weight if order is None else weight.permuted_columns(order)

    def row_pair(self, pair: LoraPair) -> LoraPair:
        """Return a padded delta of the fused projection; one of another shape unchanged."""
        return LoraPair(pair.a, self.rows(pair.b)) if pair.b.shape[0] == self.qkv_size else pair

    def column_pair(self, pair: LoraPair) -> LoraPair:
        """Return a padded delta of the output projection; one of another shape unchanged."""
        fits = pair.a.shape[1] == self.num_heads * self.head_size
        return LoraPair(self.columns(pair.a), pair.b) if fits else pair

    def padded_pair(self, pair: LoraPair, linear: str) -> LoraPair:
        """Return the padded delta of a linear, which may be neither of the two."""
        if linear.endswith(".qkv_proj"):
            return self.row_pair(pair)
        return self.column_pair(pair) if linear.endswith(".o_proj") else pair
