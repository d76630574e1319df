"""Embedding table, media rows by absolute position, and the head that may be the same table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.graph.building.builder import Blocks, GraphBuilder
from palmtop.export.graph.building.mark import HEAD, TABLE, Mark

from .linear import Precisions, QuantizedValues, finite, gather_quantized, linear, matmul_nbits, quantized

EMBEDDING = "embed_tokens"
EMBEDDING_WEIGHT = f"{EMBEDDING}.weight"


@dataclass(frozen=True, slots=True)
class Table:
    """Embedding table in the graph.

    Attributes:
        values: float [V, H] matrix, or the quantised initialisers.
        shape: size (V, H).
        is_tied: whether the head reads the same bytes.
    """

    values: ir.Value | QuantizedValues
    shape: tuple[int, int]
    is_tied: bool

    def rows(self, g: GraphBuilder, ids: ir.Value) -> ir.Value:
        """Add a look-up of rows, [B, S] -> [B, S, H]."""
        mark, name = Mark(TABLE, *self.shape, EMBEDDING), f"{EMBEDDING}.gather"
        if isinstance(self.values, QuantizedValues):
            return gather_quantized(g, name, self.values, ids, mark)
        return mark.put(g.op("Gather", self.values, ids, axis=0, name=name))

    def head(
        self,
        g: GraphBuilder,
        x: ir.Value,
        weights: StateDict,
        precision: Precisions,
        *,
        has_rows: bool = False,
    ) -> ir.Value:
        """Add the logits, [B, H] -> [B, V]; with ``has_rows`` [B, R, H] -> [B, R, V]."""
        if not self.is_tied:
            return linear(g, "lm_head", x, weights.get("lm_head.weight", *self.shape), precision, HEAD)
        mark = Mark(HEAD, *self.shape, EMBEDDING)
        if isinstance(self.values, QuantizedValues):
            return mark.put(matmul_nbits(g, x, self.values, precision.of(EMBEDDING).accuracy_level, "lm_head"))
        if not has_rows:
            return mark.put(g.op("Gemm", x, self.values, transB=1, name="lm_head"))
        flat = g.op("Reshape", x, g.constant([-1, self.shape[1]]))  # Gemm supports matrices only
        logits = mark.put(g.op("Gemm", flat, self.values, transB=1, name="lm_head"))
        outer = g.op("Shape", x, start=0, end=2)
        return g.op("Reshape", logits, g.op("Concat", outer, g.constant([self.shape[0]]), axis=0))


def add_table(
    g: GraphBuilder, weights: StateDict, vocab_size: int, hidden_size: int, is_tied: bool, precision: Precisions
) -> Table:
    """Read and store the embedding at the head's precision; if tied, both use one set of bytes."""
    weight = weights.get(f"{EMBEDDING}.weight", vocab_size, hidden_size)
    own = precision.of(EMBEDDING)
    if own.scheme is None:
        blocks = Blocks(
            lambda: (finite(weight, block) for block in weight.blocks()),
            lambda start, stop: finite(weight, weight.rows(start, stop)),
        )
        values = g.streamed_weight(f"{EMBEDDING}.weight", weight.shape, np.dtype(np.float32), blocks)
        return Table(values, (vocab_size, hidden_size), is_tied)
    return Table(quantized(g, EMBEDDING, weight, own), (vocab_size, hidden_size), is_tied)


def embed(
    g: GraphBuilder,
    table: Table,
    input_ids: ir.Value,
    positions: ir.Value,
    hidden_size: int,
    *,
    has_media: bool,
) -> ir.Value:
    """Add embeddings of the tokens, with media rows at the positions of ``media_index``.

    ``media_index`` [L] is looked up by absolute position (0 = text, k = row k-1 of ``media_features`` [M, H]), so
    chunked prefill, rewinding and media in later turns need no special case.
    """
    tokens = table.rows(g, input_ids)
    if not has_media:
        return tokens
    media_index = g.input("media_index", ir.DataType.INT64, ["context"])
    media_features = g.input("media_features", ir.DataType.FLOAT, ["media_rows", hidden_size])
    row = g.op("Gather", media_index, positions, axis=0, name="media/row")  # [B, S]
    is_media = g.op("Greater", row, g.constant(np.array(0)))
    place = g.op("Max", g.op("Sub", row, g.constant(np.array(1))), g.constant(np.array(0)))
    features = g.op("Gather", media_features, place, axis=0, name="media/features")  # [B, S, H]
    return g.op("Where", g.op("Unsqueeze", is_media, g.constant([2])), features, tokens, name="media/merge")
