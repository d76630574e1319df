"""What the blocks of both encoders are made of: layer norm, biased linear, attention over a whole window."""

from __future__ import annotations

import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import Weight, Weights, stacked

from .builder import MICROSOFT, GraphBuilder
from .linear import Precisions, float_array, linear
from .mark import ENCODER


def layer_norm(g: GraphBuilder, weights: Weights, name: str, x: ir.Value, size: int, eps: float) -> ir.Value:
    """LayerNorm over the last axis; ``name`` is the module's, e.g. ``layers.0.layer_norm1``."""
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
    weights: Weights,
    name: str,
    x: ir.Value,
    shape: tuple[int, int],
    precision: Precisions,
    factor: float = 1.0,
) -> ir.Value:
    """A linear module with a bias, times ``factor`` (folded into the weights); ``shape`` is [N, K]."""
    weight, bias = weights.get(f"{name}.weight", *shape), weights.get(f"{name}.bias", shape[0])
    if factor != 1.0:
        weight, bias = weight.scaled(factor), bias.scaled(factor)
    return linear(g, weight.name.removesuffix(".weight"), x, weight, precision, ENCODER, bias)


def query_key_value(
    g: GraphBuilder, weights: Weights, x: ir.Value, size: int, precision: Precisions
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Three projections of [..., h] as one fused linear; ``weights`` is the attention module's."""

    def fused(part: str, *shape: int) -> Weight:
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
    """Softmax attention.

    Without a bias onnxruntime's CPU kernel never holds the [B, heads, S, S] scores at once.

    Args:
        g: the graph.
        query: [B, S, heads * d].
        key: [B, S, heads * d].
        value: [B, S, h].
        heads: number of heads.
        scale: of the scores; 0 means ``1 / sqrt(d)``.
        bias: [1, heads, S, S] float32, added to the scaled scores.

    Returns:
        [B, S, h].

    Source: onnxruntime ContribOperators.md, com.microsoft.MultiHeadAttention.
    """
    inputs = (query, key, value) if bias is None else (query, key, value, None, None, bias)
    return g.op("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=heads, scale=scale)
