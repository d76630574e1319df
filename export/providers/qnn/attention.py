"""Softmax attention of an encoder in plain operators, for graphs of fixed shapes."""

from __future__ import annotations

import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import Weights
from palmtop.export.graph.builder import GraphBuilder
from palmtop.export.graph.linear import Precisions, linear
from palmtop.export.graph.mark import ENCODER


def static_attention(
    g: GraphBuilder,
    weights: Weights,
    x: ir.Value,
    heads: int,
    rows: int,
    hidden_size: int,
    precision: Precisions,
    biases: list[ir.Value],
) -> ir.Value:
    """Project, mix: [1, S, h] -> [1, S, h].

    Args:
        g: the graph.
        weights: the attention module's.
        x: normalised states.
        heads: number of heads.
        rows: S.
        hidden_size: h.
        precision: of the linear layers.
        biases: added to the scores one after the other, each broadcast to [1, heads, S, S].
    """
    size = hidden_size // heads

    def by_head(part: str, perm: list[int], factor: float = 1.0) -> ir.Value:
        weight, bias = (
            weights.get(f"{part}_proj.{kind}", *shape).scaled(factor)
            for kind, shape in (("weight", (hidden_size, hidden_size)), ("bias", (hidden_size,)))
        )
        y = linear(g, weight.name.removesuffix(".weight"), x, weight, precision, ENCODER, bias)
        return g.op("Transpose", g.op("Reshape", y, g.constant([1, rows, heads, size])), perm=perm)

    # The scale is in the query's weights: a product less, whose result would be rounded once more.
    query = by_head("q", [0, 2, 1, 3], size**-0.5)
    scores = g.op("MatMul", query, by_head("k", [0, 2, 3, 1]))  # [1, heads, S, S]
    for bias in biases:
        scores = g.op("Add", scores, bias)
    mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), by_head("v", [0, 2, 1, 3]))
    return g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.constant([1, rows, hidden_size]))
