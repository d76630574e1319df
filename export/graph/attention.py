"""Grouped-query attention on genai's KV cache: inputs, outputs, padding of odd head sizes, rotary."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .builder import MICROSOFT, GraphBuilder
from .kv_cache import FLOAT_CACHE, KvCache
from .rope import RopeConfig, add_rope_tables, rotate

HEAD_STEP = 8  # GroupQueryAttention's CPU kernel wants head sizes, and halves of rotary sizes, in eights


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    """Heads of one attention layer.

    Attributes:
        num_layers: how many caches to declare.
        num_heads: query heads.
        num_kv_heads: key/value heads.
        head_size: D of the checkpoint.
        window: tokens a query sees, itself included; None sees all.
        cache: what keys and values are stored as.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    window: int | None
    cache: KvCache = FLOAT_CACHE

    @property
    def cache_head_size(self) -> int:
        """D rounded up to what the kernel takes."""
        return -(-self.head_size // HEAD_STEP) * HEAD_STEP

    @property
    def qkv_size(self) -> int:
        """Rows of the checkpoint's fused projection."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_size

    def padded_rows(self) -> NDArray[np.int64] | None:
        """For every row of the padded fused projection the checkpoint's row, -1 for zeros; None if equal."""
        return self._padded(self.num_heads + 2 * self.num_kv_heads)

    def padded_columns(self) -> NDArray[np.int64] | None:
        """Likewise for the output projection's columns."""
        return self._padded(self.num_heads)

    def _padded(self, heads: int) -> NDArray[np.int64] | None:
        if self.cache_head_size == self.head_size:
            return None
        order = np.full((heads, self.cache_head_size), -1, np.int64)
        order[:, : self.head_size] = np.arange(heads * self.head_size).reshape(heads, self.head_size)
        return order.reshape(-1)

    def fuses_rotary(self, rope: RopeConfig) -> bool:
        """Whether the kernel can rotate these sizes itself."""
        half = rope.rotary_size // 2
        return half % HEAD_STEP == 0 and half <= self.cache_head_size // (2 * HEAD_STEP) * HEAD_STEP


@dataclass(slots=True)
class AttentionInputs:
    """What all layers share, and the caches they leave behind.

    Attributes:
        positions: [B, S] int64 absolute positions of the tokens of this run.
        last_index: [B] int32, sequence length minus one.
        total_length: scalar int32, length of the attention mask.
        tables: rotary cos and sin.
        past: per layer, key and value.
        cache_shape: of each of them.
        cache_type: likewise.
        present: as ``past``, filled by ``attention``.
    """

    positions: ir.Value
    last_index: ir.Value
    total_length: ir.Value
    tables: tuple[ir.Value, ir.Value]
    past: list[tuple[ir.Value, ir.Value]]
    cache_shape: list[int | str]
    cache_type: ir.DataType
    present: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)

    def declare_outputs(self, g: GraphBuilder) -> None:
        """Name the caches as genai expects them."""
        shape = [*self.cache_shape]
        shape[2] = "total_sequence"
        for layer, pair in enumerate(self.present):
            for kind, value in zip(("key", "value"), pair, strict=True):
                g.output(value, f"present.{layer}.{kind}", self.cache_type, shape)


def attention_inputs(
    g: GraphBuilder, input_ids: ir.Value, config: AttentionConfig, rope: RopeConfig, context: int
) -> AttentionInputs:
    """Declare attention_mask, past_key_values.* and, with LongRoPE, rope_long; derive positions."""
    mask = g.input("attention_mask", ir.DataType.INT64, ["batch", "total_sequence"])
    width, kind = config.cache.width(config.cache_head_size), config.cache.dtype
    cache_shape: list[int | str] = ["batch", config.num_kv_heads, "past_sequence", width]
    past = [
        (
            g.input(f"past_key_values.{layer}.key", kind, cache_shape),
            g.input(f"past_key_values.{layer}.value", kind, cache_shape),
        )
        for layer in range(config.num_layers)
    ]
    rope_long = None
    if rope.long_factor is not None:
        rope_long = g.input("rope_long", ir.DataType.BOOL, [1])

    length = g.op("ReduceSum", mask, g.constant([1]), keepdims=1, name="sequence_length")  # [B, 1]
    sequence = g.op("Shape", input_ids, start=1, end=2)  # [1]
    steps = g.op("Range", g.constant(np.array(0)), g.op("Squeeze", sequence), g.constant(np.array(1)))
    positions = g.op("Add", g.op("Sub", length, sequence), steps, name="positions")  # [B, S]
    last = g.op("Sub", g.op("Squeeze", length, g.constant([1])), g.constant(np.array(1)))
    total = g.op("Squeeze", g.op("Shape", mask, start=1, end=2))
    return AttentionInputs(
        positions=positions,
        last_index=g.op("Cast", last, to=ir.DataType.INT32.value, name="last_index"),
        total_length=g.op("Cast", total, to=ir.DataType.INT32.value, name="total_length"),
        tables=add_rope_tables(g, rope, context, rope_long),
        past=past,
        cache_shape=cache_shape,
        cache_type=kind,
    )


def attention(
    g: GraphBuilder,
    layer: int,
    qkv: ir.Value,
    inputs: AttentionInputs,
    config: AttentionConfig,
    rope: RopeConfig,
) -> ir.Value:
    """[B, S, (heads + 2 kv heads) * D] -> [B, S, heads * D], appending to the layer's cache."""
    name = f"layers.{layer}.self_attn"
    key, value = inputs.past[layer]
    is_fused = config.fuses_rotary(rope)
    query: ir.Value = qkv
    new_key: ir.Value | None = None
    new_value: ir.Value | None = None
    if not is_fused:
        query, new_key, new_value = _rotated(g, name, qkv, inputs, config, rope)
    mixed, present_key, present_value = g.ops(
        "GroupQueryAttention",
        query,
        new_key,
        new_value,
        key,
        value,
        inputs.last_index,
        inputs.total_length,
        inputs.tables[0] if is_fused else None,
        inputs.tables[1] if is_fused else None,
        *config.cache.inputs(g, layer),
        outputs=3,
        domain=MICROSOFT,
        name=f"{name}/attention",
        num_heads=config.num_heads,
        kv_num_heads=config.num_kv_heads,
        scale=config.head_size**-0.5,
        do_rotary=int(is_fused),
        rotary_interleaved=0,
        local_window_size=-1 if config.window is None else config.window,
        **config.cache.attributes(),
    )
    inputs.present.append((present_key, present_value))
    return mixed


def _rotated(
    g: GraphBuilder,
    name: str,
    qkv: ir.Value,
    inputs: AttentionInputs,
    config: AttentionConfig,
    rope: RopeConfig,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Split the fused projection and rotate queries and keys by plain operators."""
    size, heads, kv_heads = config.cache_head_size, config.num_heads, config.num_kv_heads
    query, key, value = g.ops(
        "Split",
        qkv,
        g.constant([heads * size, kv_heads * size, kv_heads * size]),
        outputs=3,
        axis=-1,
        name=f"{name}/split",
    )

    def turned(x: ir.Value, count: int, which: str) -> ir.Value:
        by_head = g.op("Reshape", x, g.constant([0, 0, count, size]))  # [B, S, N, D]
        done = rotate(g, f"{name}/{which}", by_head, inputs.positions, inputs.tables, rope.rotary_size)
        return g.op("Reshape", done, g.constant([0, 0, count * size]))

    return turned(query, heads, "query"), turned(key, kv_heads, "key"), value
