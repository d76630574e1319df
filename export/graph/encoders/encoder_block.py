"""Parts of the blocks of both encoders: layer norm, linear with bias, attention over a whole window."""

from __future__ import annotations

import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict, stacked
from palmtop.export.graph.building.builder import MICROSOFT, GraphBuilder
from palmtop.export.graph.building.mark import ENCODER
from palmtop.export.graph.linear import FLOAT, Precisions, float_array, linear

ENCODERS = "embed_tokens_extend."  # prefix of both encoders' canonical names


def layer_norm(g: GraphBuilder, weights: StateDict, name: str, x: ir.Value, size: int, eps: float) -> ir.Value:
    """Add a LayerNorm over the last axis; ``name`` is the module's, such as ``layers.0.layer_norm1``."""
    scale, bias = (weights.get(f"{name}.{part}", size) for part in ("weight", "bias"))
    return g.op(
        "LayerNormalization",
        x,
        g.weight(scale.name, float_array(scale)),
        g.weight(bias.name, float_array(bias)),
        axis=-1,
        epsilon=eps,
    )


def module_linear(
    g: GraphBuilder,
    weights: StateDict,
    name: str,
    x: ir.Value,
    shape: tuple[int, int],
    precision: Precisions,
    factor: float = 1.0,
) -> ir.Value:
    """Add a linear module with a bias, times ``factor`` (folded into the weights); ``shape`` is [N, K]."""
    weight, bias = weights.get(f"{name}.weight", *shape), weights.get(f"{name}.bias", shape[0])
    if factor != 1.0:
        weight, bias = weight.scaled(factor), bias.scaled(factor)
    return linear(g, weight.name.removesuffix(".weight"), x, weight, precision, ENCODER, bias)


def query_key_value(
    g: GraphBuilder, weights: StateDict, x: ir.Value, size: int, precision: Precisions
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Add three projections of [..., h] as one fused linear; ``weights`` are those of the attention module."""

    def fused(part: str, *shape: int) -> LazyTensor:
        parts = [weights.get(f"{p}_proj.{part}", *shape) for p in "qkv"]
        return stacked(parts[0].name.replace("q_proj", "qkv_proj"), parts)

    weight, bias = fused("weight", size, size), fused("bias", size)
    qkv = linear(g, weight.name.removesuffix(".weight"), x, weight, precision, ENCODER, bias)
    query, key, value = g.ops("Split", qkv, outputs=3, axis=-1, num_outputs=3)
    return query, key, value


def attention(
    g: GraphBuilder,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    heads: int,
    *,
    scale: float = 0.0,
    bias: ir.Value | None = None,
) -> ir.Value:
    """Add softmax attention as one fused operator.

    Without a bias onnxruntime's CPU kernel never holds the [B, heads, S, S] scores at once.

    Args:
        g: the graph.
        query: [B, S, heads * d] queries.
        key: [B, S, heads * d] keys.
        value: [B, S, h] values.
        heads: number of heads.
        scale: factor of the scores; 0 means ``1 / sqrt(d)``.
        bias: [1, heads, S, S] float32, added to the scaled scores.

    Returns:
        The mixed values, [B, S, h].

    Source: onnxruntime ContribOperators.md, com.microsoft.MultiHeadAttention.
    """
    inputs = (query, key, value) if bias is None else (query, key, value, None, None, bias)
    return g.op("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=heads, scale=scale)


def static_attention(
    g: GraphBuilder,
    weights: StateDict,
    x: ir.Value,
    heads: int,
    rows: int,
    hidden_size: int,
    biases: list[ir.Value],
) -> ir.Value:
    """Add projections and attention in plain operators, with fixed shapes: [1, S, h] -> [1, S, h].

    Args:
        g: the graph.
        weights: weights of the attention module.
        x: normalised states.
        heads: number of heads.
        rows: S, number of rows.
        hidden_size: h, width of the states.
        biases: biases added to the scores one after the other, each broadcast to [1, heads, S, S].
    """
    size = hidden_size // heads

    def by_head(part: str, perm: list[int], factor: float = 1.0) -> ir.Value:
        weight, bias = (
            weights.get(f"{part}_proj.{kind}", *shape).scaled(factor)
            for kind, shape in (("weight", (hidden_size, hidden_size)), ("bias", (hidden_size,)))
        )
        y = linear(g, weight.name.removesuffix(".weight"), x, weight, FLOAT, ENCODER, bias)
        return g.op("Transpose", g.op("Reshape", y, g.constant([1, rows, heads, size])), perm=perm)

    # The scale is in the query's weights: one product less, whose result would be rounded once more.
    query = by_head("q", [0, 2, 1, 3], size**-0.5)
    scores = g.op("MatMul", query, by_head("k", [0, 2, 3, 1]))  # [1, heads, S, S]
    for bias in biases:
        scores = g.op("Add", scores, bias)
    mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), by_head("v", [0, 2, 1, 3]))
    return g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.constant([1, rows, hidden_size]))
