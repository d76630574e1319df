"""Grouped-query attention in plain operators over a cache of fixed length.

The new keys and values go behind the cache for this run and come out by themselves; whoever runs the graph
writes them into its cache. Which columns a row sees is the additive bias's business alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from palmtop.export.graph.attention import AttentionConfig
from palmtop.export.graph.builder import GraphBuilder

from .shape import StaticShape


@dataclass(frozen=True, slots=True)
class StaticInputs:
    """What the layers read besides the hidden state.

    Attributes:
        cos: [1, 1, S, R/2].
        sin: likewise.
        bias: [1, 1, S, C + S].
        past: of each layer, key and value [1, KV, C, D].
    """

    cos: ir.Value
    sin: ir.Value
    bias: ir.Value
    past: tuple[tuple[ir.Value, ir.Value], ...]


def static_inputs(g: GraphBuilder, config: AttentionConfig, rotary_size: int, shape: StaticShape) -> StaticInputs:
    """Declare rope_cos, rope_sin, attention_bias, past_key.* and past_value.*."""
    rows, columns = shape.rows, shape.context + shape.rows
    rope = [g.input(f"rope_{name}", ir.DataType.FLOAT, [1, rows, rotary_size // 2]) for name in ("cos", "sin")]
    bias = g.input("attention_bias", ir.DataType.FLOAT, [1, 1, rows, columns])
    cache = [1, config.num_kv_heads, shape.context, config.cache_head_size]
    past = tuple(
        (
            g.input(f"past_key.{layer}", ir.DataType.FLOAT, cache),
            g.input(f"past_value.{layer}", ir.DataType.FLOAT, cache),
        )
        for layer in range(config.num_layers)
    )
    cos, sin = (g.op("Unsqueeze", value, g.constant([1])) for value in rope)
    return StaticInputs(cos, sin, bias, past)


def static_attention(
    g: GraphBuilder,
    layer: int,
    qkv: ir.Value,
    inputs: StaticInputs,
    config: AttentionConfig,
    rotary_size: int,
    shape: StaticShape,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Mix values.

    Args:
        g: the graph.
        layer: which.
        qkv: [1, S, (heads + 2 kv heads) * D].
        inputs: cache, bias, rotary tables.
        config: heads.
        rotary_size: R, leading dimensions of a head that rotate.
        shape: S and C.

    Returns:
        [1, S, heads * D], and the new keys and values, [1, KV, S, D].
    """
    name = f"layers.{layer}.self_attn"
    size, heads, kv_heads, rows = config.cache_head_size, config.num_heads, config.num_kv_heads, shape.rows
    group = heads // kv_heads
    parts = g.ops(
        "Split",
        qkv,
        g.constant([heads * size, kv_heads * size, kv_heads * size]),
        outputs=3,
        axis=-1,
        name=f"{name}/split",
    )
    query, key, value = (
        by_head(g, part, count, size, rows) for part, count in zip(parts, (heads, kv_heads, kv_heads), strict=True)
    )
    query = rotated(g, f"{name}/query", query, inputs, rotary_size, size)
    key = rotated(g, f"{name}/key", key, inputs, rotary_size, size)

    # The heads that share a key are rows of one product: no key is copied for each of them.
    scaled = g.op("Mul", query, g.constant(float(config.head_size**-0.5)), name=f"{name}/scale")
    stacked = g.op("Reshape", scaled, g.constant([1, kv_heads, group * rows, size]))
    past_key, past_value = inputs.past[layer]
    if shape.is_apart:
        scores = g.op("Concat", *(products(g, stacked, keys) for keys in (past_key, key)), axis=3)
    else:
        scores = products(g, stacked, g.op("Concat", past_key, key, axis=2, name=f"{name}/keys"), f"{name}/scores")
    columns = shape.context + rows  # scores [1, KV, G * S, C + S]
    apart = g.op("Reshape", scores, g.constant([1, heads, rows, columns]))
    seen = g.op("Softmax", g.op("Add", apart, inputs.bias, name=f"{name}/mask"), axis=-1, name=f"{name}/softmax")
    together = g.op("Reshape", seen, g.constant([1, kv_heads, group * rows, columns]))
    if shape.is_apart:
        old, new = g.ops("Split", together, g.constant([shape.context, rows]), outputs=2, axis=-1)
        mixed = g.op("Add", g.op("MatMul", old, past_value), g.op("MatMul", new, value), name=f"{name}/mix")
    else:
        values = g.op("Concat", past_value, value, axis=2, name=f"{name}/values")
        mixed = g.op("MatMul", together, values, name=f"{name}/mix")  # [1, KV, G * S, D]
    mixed = g.op("Reshape", mixed, g.constant([1, heads, rows, size]))
    mixed = g.op("Transpose", mixed, perm=[0, 2, 1, 3])
    return g.op("Reshape", mixed, g.constant([1, rows, heads * size]), name=f"{name}/joined"), key, value


def products(g: GraphBuilder, queries: ir.Value, keys: ir.Value, name: str = "") -> ir.Value:
    """[1, KV, G * S, D] and [1, KV, C, D] -> [1, KV, G * S, C]."""
    return g.op("MatMul", queries, g.op("Transpose", keys, perm=[0, 1, 3, 2]), name=name)


def by_head(g: GraphBuilder, x: ir.Value, count: int, size: int, rows: int) -> ir.Value:
    """[1, S, N * D] -> [1, N, S, D]."""
    return g.op("Transpose", g.op("Reshape", x, g.constant([1, rows, count, size])), perm=[0, 2, 1, 3])


def rotated(g: GraphBuilder, name: str, x: ir.Value, inputs: StaticInputs, rotary_size: int, size: int) -> ir.Value:
    """Rotate the leading dimensions of every head: [1, N, S, D] -> [1, N, S, D]."""
    half, rest = rotary_size // 2, size - rotary_size
    widths = [half, half, rest] if rest else [half, half]
    first, second, *kept = g.ops("Split", x, g.constant(widths), outputs=len(widths), axis=-1, name=f"{name}/halves")
    return g.op(
        "Concat",
        g.op("Sub", g.op("Mul", first, inputs.cos), g.op("Mul", second, inputs.sin)),
        g.op("Add", g.op("Mul", second, inputs.cos), g.op("Mul", first, inputs.sin)),
        *kept,
        axis=-1,
        name=f"{name}/rotate",
    )
