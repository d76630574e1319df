"""Inputs and outputs of a decoder's graph for its KV cache and positions, with dynamic and with fixed shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.run import Run, StaticRun
from palmtop.export.graph.building.source import BuildContext, StaticContext

from .head_padding import Heads
from .kv_cache import KvCache
from .lora import FixedLinears, GatedLinears, add_gates
from .rope import RopeConfig, add_rope_tables


def begin_run(
    g: GraphBuilder,
    input_ids: ir.Value,
    heads: Heads,
    num_layers: int,
    rope: RopeConfig,
    hidden_size: int,
    context: BuildContext,
) -> Run:
    """Declare attention_mask, past_key_values.*, with LongRoPE rope_long, and adapter_gates; derive positions."""
    mask = g.input("attention_mask", ir.DataType.INT64, ["batch", "total_sequence"])
    cache = _cache_shape(heads, context.cache, "past_sequence")
    past = [
        (
            g.input(f"past_key_values.{layer}.key", context.cache.dtype, cache),
            g.input(f"past_key_values.{layer}.value", context.cache.dtype, cache),
        )
        for layer in range(num_layers)
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
    return Run(
        weights=context.weights,
        hidden_size=hidden_size,
        rope=rope,
        tokens=context.tokens,
        cache=context.cache,
        positions=positions,
        last_index=g.op("Cast", last, to=ir.DataType.INT32.value, name="last_index"),
        total_length=g.op("Cast", total, to=ir.DataType.INT32.value, name="total_length"),
        tables=add_rope_tables(g, rope, context.tokens, rope_long),
        past=past,
        precision=context.precision,
        linears=GatedLinears(context.precision, add_gates(g, context.adapters)),
    )


def declare_present(g: GraphBuilder, run: Run, heads: Heads) -> None:
    """Declare the caches as outputs under the names that genai expects."""
    shape = _cache_shape(heads, run.cache, "total_sequence")
    for layer, pair in enumerate(run.present):
        for kind, value in zip(("key", "value"), pair, strict=True):
            g.output(value, f"present.{layer}.{kind}", run.cache.dtype, shape)


def _cache_shape(heads: Heads, cache: KvCache, length: str) -> list[int | str]:
    return ["batch", heads.num_kv_heads, length, cache.width(heads.cache_head_size)]


def begin_static_run(
    g: GraphBuilder,
    heads: Heads,
    num_layers: int,
    rope: RopeConfig,
    hidden_size: int,
    context: StaticContext,
) -> StaticRun:
    """Declare rope_cos, rope_sin, attention_bias, past_key.* and past_value.*."""
    shape = context.shape
    tables = [
        g.input(f"rope_{name}", ir.DataType.FLOAT, [1, shape.rows, rope.rotary_size // 2]) for name in ("cos", "sin")
    ]
    bias = g.input("attention_bias", ir.DataType.FLOAT, [1, 1, shape.rows, shape.context + shape.rows])
    cache = [1, heads.num_kv_heads, shape.context, heads.cache_head_size]
    past = [
        (
            g.input(f"past_key.{layer}", ir.DataType.FLOAT, cache),
            g.input(f"past_value.{layer}", ir.DataType.FLOAT, cache),
        )
        for layer in range(num_layers)
    ]
    cos, sin = (g.op("Unsqueeze", value, g.constant([1])) for value in tables)
    return StaticRun(
        weights=context.weights,
        hidden_size=hidden_size,
        linears=FixedLinears(context.linear, context.on),
        rope=rope,
        shape=shape,
        cos=cos,
        sin=sin,
        bias=bias,
        past=past,
    )


def declare_static_present(g: GraphBuilder, run: StaticRun, heads: Heads) -> None:
    """Declare the new rows of every layer's cache as outputs."""
    shape = [1, heads.num_kv_heads, run.shape.rows, heads.cache_head_size]
    for layer, (key, value) in enumerate(run.present):
        g.output(key, f"present_key.{layer}", ir.DataType.FLOAT, shape)
        g.output(value, f"present_value.{layer}", ir.DataType.FLOAT, shape)
