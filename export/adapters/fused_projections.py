"""Adapters of separate projections (q, k, v; gate, up) for a base whose projections are fused.

The A matrices are stacked, the B matrices are the blocks of a block-diagonal matrix: their product has, in each block
of rows, the projection's delta. A projection without an adapter is a block of zero rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, stacked
from palmtop.export.checkpoint.lora import Adapter, LoraPair
from palmtop.export.graph.head_padding import Heads

QKV, GATE_UP = "self_attn.qkv_proj", "mlp.gate_up_proj"
Parts = Sequence[tuple[str, int]]


def parts_of(linear: str, rows: int, heads: Heads) -> Parts:
    """Return names and rows of the projections that a fused linear consists of; empty for other linears.

    Args:
        linear: name of the linear, such as "layers.0.self_attn.qkv_proj".
        rows: rows of the linear in the checkpoint's unpadded layout.
        heads: attention heads of the base.
    """
    layer, _, module = linear.partition(".self_attn.") if ".self_attn." in linear else linear.partition(".mlp.")
    if module == "qkv_proj":
        kv = heads.num_kv_heads * heads.head_size
        queries = heads.num_heads * heads.head_size
        sizes = (("q_proj", queries), ("k_proj", kv), ("v_proj", kv))
        return [(f"{layer}.self_attn.{name}", size) for name, size in sizes]
    if module == "gate_up_proj":
        return [(f"{layer}.mlp.gate_proj", rows // 2), (f"{layer}.mlp.up_proj", rows // 2)]
    return []


def fused_pair(adapter: Adapter, linear: str, parts: Parts) -> LoraPair | None:
    """Return the adapter's delta of a linear, composed from its parts if it has them.

    Raises:
        CheckpointError: rows or columns of a part differ from the linear's, or there are both parts and a whole.
    """
    whole = adapter.pair(linear)
    found: Mapping[str, LoraPair] = {name: pair for name, _ in parts if (pair := adapter.pair(name)) is not None}
    if not found:
        return whole
    if whole is not None:
        raise CheckpointError(f"tensor '{whole.a.name}' there, and '{next(iter(found.values())).a.name}' as well")
    for name, size in parts:
        if name in found and found[name].b.shape[0] != size:
            b = found[name].b
            raise CheckpointError(f"tensor '{b.name}' is {list(b.shape)}, expected {size} rows")
    a = stacked(f"{linear}.lora_A", [pair.a for pair in found.values()])
    return LoraPair(a, _block_diagonal(f"{linear}.lora_B", parts, found, a.shape[0]))


def _block_diagonal(name: str, parts: Parts, found: Mapping[str, LoraPair], rank: int) -> LazyTensor:
    rows = sum(size for _, size in parts)

    def read(start: int, stop: int) -> NDArray[np.float32]:
        whole = np.zeros((rows, rank), np.float32)
        row = column = 0
        for part, size in parts:
            if part in found:
                b = found[part].b.array()
                whole[row : row + size, column : column + b.shape[1]] = b
                column += b.shape[1]
            row += size
        return whole[start:stop]

    return LazyTensor(name, (rows, rank), read)
