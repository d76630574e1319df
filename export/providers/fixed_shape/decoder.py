"""The decoder as a graph of fixed shapes under one route: embedded rows in, logits of one position out.

The same weights and the same arithmetic as ``export.graph.decoder``, in plain ONNX operators, without control flow:
adapters of the route are always on, embedding and rotary tables are computed outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import Weight, Weights
from palmtop.export.checkpoint.lora import Adapter, LoraPair
from palmtop.export.graph.attention import AttentionConfig
from palmtop.export.graph.builder import GraphBuilder
from palmtop.export.graph.decoder import DecoderConfig
from palmtop.export.graph.embedding import EMBEDDING
from palmtop.export.graph.head_padding import attention_weights, padded_pair
from palmtop.export.graph.linear import float_array
from palmtop.export.graph.mark import ADAPTER, FFN, HEAD, MIXER

from .attention import StaticInputs, static_attention, static_inputs
from .shape import StaticShape

StaticLinear = Callable[[GraphBuilder, str, ir.Value, Weight, str], ir.Value]
"""Builds ``x @ weight.T``: [..., K] -> [..., N], under the linear's name and marked with its role."""

On = Sequence[tuple[Adapter, float]]
"""Adapters that a graph applies, with their weights."""


def build_static_decoder(
    g: GraphBuilder, weights: Weights, config: DecoderConfig, on: On, shape: StaticShape, linear: StaticLinear
) -> None:
    """Build the whole graph, reading one tensor at a time.

    Inputs: inputs_embeds [1, S, H], rope_cos and rope_sin [1, S, R/2], attention_bias [1, 1, S, C + S] (added to
    the scores), past_key.N and past_value.N [1, KV, C, D] and, where S > 1, last_row [1] int32. Outputs: logits
    [1, 1, V] of that row, present_key.N and present_value.N [1, KV, S, D] of the new rows.

    Args:
        g: an empty builder.
        weights: as ``export.graph.decoder.build_decoder``.
        config: sizes.
        on: adapters of the route.
        shape: S and C.
        linear: how a matrix is stored and multiplied.

    Raises:
        CheckpointError: a tensor is missing, of the wrong shape, or not finite.
    """
    x = g.input("inputs_embeds", ir.DataType.FLOAT, [1, shape.rows, config.hidden_size])
    inputs = static_inputs(g, config.attention, config.rope.rotary_size, shape)
    last_row = g.input("last_row", ir.DataType.INT32, [1]) if shape.rows > 1 else None
    present = []
    for layer in range(config.num_layers):
        prefix = f"layers.{layer}."
        own = weights.within(prefix)
        normed = norm(g, f"{prefix}input_layernorm", x, own, "input_layernorm.weight", config)
        a, key, value = attention_block(g, layer, normed, own, config, on, inputs, shape, linear)
        x = g.op("Add", x, a, name=f"{prefix}after_attention")
        normed = norm(g, f"{prefix}post_attention_layernorm", x, own, "post_attention_layernorm.weight", config)
        x = g.op("Add", x, mlp_block(g, prefix, normed, own, config, on, linear), name=f"{prefix}after_mlp")
        present.append((key, value))
    if last_row is not None:
        x = g.op("Gather", x, last_row, axis=1, name="last_position")  # [1, S, H] -> [1, 1, H]
    x = norm(g, "norm", x, weights, "norm.weight", config)
    head = weights.get(f"{EMBEDDING if config.is_tied else 'lm_head'}.weight", config.vocab_size, config.hidden_size)
    logits = linear(g, EMBEDDING if config.is_tied else "lm_head", x, head, HEAD)
    g.output(logits, "logits", ir.DataType.FLOAT, [1, 1, config.vocab_size])
    new_rows = [1, config.attention.num_kv_heads, shape.rows, config.attention.cache_head_size]
    for layer, (key, value) in enumerate(present):
        g.output(key, f"present_key.{layer}", ir.DataType.FLOAT, new_rows)
        g.output(value, f"present_value.{layer}", ir.DataType.FLOAT, new_rows)


def norm(g: GraphBuilder, name: str, x: ir.Value, weights: Weights, weight: str, config: DecoderConfig) -> ir.Value:
    """RMSNorm: opset 23 has it as one operator, what the providers take does not reach that far."""
    scale = g.weight(f"{name}.weight", float_array(weights.get(weight, config.hidden_size)))
    mean = g.op("ReduceMean", g.op("Mul", x, x), g.constant([-1]), keepdims=1)
    size = g.op("Sqrt", g.op("Add", mean, g.constant(float(config.rms_norm_eps))))
    return g.op("Mul", g.op("Div", x, size), scale, name=name)


def attention_block(
    g: GraphBuilder,
    layer: int,
    x: ir.Value,
    weights: Weights,
    config: DecoderConfig,
    on: On,
    inputs: StaticInputs,
    shape: StaticShape,
    linear: StaticLinear,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """[1, S, H] -> [1, S, H], and the new keys and values."""
    sizes, prefix = config.attention, f"layers.{layer}.self_attn."
    qkv_weight, o_weight = attention_weights(weights, sizes, config.hidden_size)
    qkv_pairs, o_pairs = pairs(on, f"{prefix}qkv_proj", sizes), pairs(on, f"{prefix}o_proj", sizes)
    qkv = adapted(g, f"{prefix}qkv_proj", x, qkv_weight, MIXER, qkv_pairs, linear)
    mixed, key, value = static_attention(g, layer, qkv, inputs, sizes, config.rope.rotary_size, shape)
    return adapted(g, f"{prefix}o_proj", mixed, o_weight, MIXER, o_pairs, linear), key, value


def mlp_block(
    g: GraphBuilder, prefix: str, x: ir.Value, weights: Weights, config: DecoderConfig, on: On, linear: StaticLinear
) -> ir.Value:
    """[1, S, H] -> [1, S, H]."""
    width, up_name, down_name = config.intermediate_size, f"{prefix}mlp.gate_up_proj", f"{prefix}mlp.down_proj"
    up_weight = weights.get("mlp.gate_up_proj.weight", 2 * width, config.hidden_size)
    gate_up = adapted(g, up_name, x, up_weight, FFN, pairs(on, up_name, config.attention), linear)
    gate, up = g.ops("Split", gate_up, outputs=2, axis=-1, num_outputs=2, name=f"{prefix}mlp/split")
    activated = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
    down_weight = weights.get("mlp.down_proj.weight", config.hidden_size, width)
    return adapted(g, down_name, activated, down_weight, FFN, pairs(on, down_name, config.attention), linear)


def pairs(on: On, target: str, attention: AttentionConfig) -> dict[str, tuple[LoraPair, float]]:
    """By adapter name the delta of a linear and its weight, where there is one."""
    found = ((adapter.name, adapter.pair(target), weight) for adapter, weight in on)
    return {name: (padded_pair(pair, target, attention), weight) for name, pair, weight in found if pair is not None}


def adapted(
    g: GraphBuilder,
    name: str,
    x: ir.Value,
    weight: Weight,
    role: str,
    deltas: Mapping[str, tuple[LoraPair, float]],
    linear: StaticLinear,
) -> ir.Value:
    """``x @ weight.T`` and the deltas: [..., K] -> [..., N]; names of weights are those of the gated graph."""
    y = linear(g, name, x, weight, role)
    for who, (pair, factor) in deltas.items():
        inner = linear(g, f"{name}.lora_A.{who}", x, pair.a, ADAPTER)
        if factor != 1.0:
            inner = g.op("Mul", inner, g.constant(float(factor)))
        y = g.op("Add", y, linear(g, f"{name}.lora_B.{who}", inner, pair.b, ADAPTER), name=f"{name}/{who}")
    return y
