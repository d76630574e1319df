"""The vision graph of fixed shapes: one tile a run, positions and mask computed outside.

The layers are ``export.graph.siglip``'s. What the NPU has no operators for, counting a mask and looking up trained
positions by it, is done by ``palmtop.runtime.providers.static_inputs``.
"""

from __future__ import annotations

import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import Weights, from_array
from palmtop.export.graph.builder import GraphBuilder
from palmtop.export.graph.linear import FLOAT, float_array, linear
from palmtop.export.graph.mark import ENCODER
from palmtop.export.graph.siglip import CHANNELS, TOWER, VisionConfig, layer, project_rows

from .attention import static_attention

BROKEN_ROWS, SAFE_ROWS = 16, 24
"""HTP 2.51 multiplies exactly 16 rows of a LayerNorm wrongly (found here, docs/npu.md): hidden rows join them."""


def rows_of(config: VisionConfig) -> int:
    """R, rows the tower works on: the patches of a tile, and more where that number is broken."""
    return SAFE_ROWS if config.patches**2 == BROKEN_ROWS else config.patches**2


def build_static_vision(g: GraphBuilder, weights: Weights, config: VisionConfig) -> None:
    """Add the whole graph, float32.

    Inputs: ``patches`` [1, R, 3*c*c], the pixels of each patch; ``position_ids`` int32 [1, R]; ``key_bias``
    [1, 1, 1, R], 0 for a patch that is seen and a number that hides it (``runtime.static_inputs``) for one that is
    not. Outputs: ``tile_features`` [p*p, H], ``separators`` [2, H].

    Args:
        g: an empty graph.
        weights: seen from ``model.embed_tokens_extend.``.
        config: sizes.

    Raises:
        CheckpointError: a weight is missing, misshapen or not finite.
        UnsupportedModelError: the activation is not known.
    """
    count, rows, pooled = config.patches**2, rows_of(config), config.pooled**2
    pixels = g.input("patches", ir.DataType.FLOAT, [1, rows, CHANNELS * config.patch_size**2])
    ids = g.input("position_ids", ir.DataType.INT32, [1, rows])
    bias = g.input("key_bias", ir.DataType.FLOAT, [1, 1, 1, rows])
    tower = weights.within(TOWER)

    def attend(g: GraphBuilder, weights: Weights, x: ir.Value) -> ir.Value:
        heads, size = config.num_attention_heads, config.hidden_size
        return static_attention(g, weights, x, heads, rows, size, FLOAT, [bias])

    hidden = _embeddings(g, tower.within("embeddings."), config, pixels, ids)
    for index in range(config.layers_run):
        hidden = layer(g, tower.within(f"encoder.layers.{index}."), config, hidden, attend, FLOAT)
    if rows > count:
        hidden = g.op("Slice", hidden, g.constant([0]), g.constant([count]), g.constant([1]))
    projected = project_rows(g, weights, config, hidden, FLOAT)  # [p*p + 2, H]
    tiles, separators = g.ops("Split", projected, g.constant([pooled, 2]), outputs=2, axis=0)
    g.output(tiles, "tile_features", ir.DataType.FLOAT, [pooled, config.output_size])
    g.output(separators, "separators", ir.DataType.FLOAT, [2, config.output_size])


def _embeddings(g: GraphBuilder, weights: Weights, config: VisionConfig, patches: ir.Value, ids: ir.Value) -> ir.Value:
    """[1, R, 3*c*c] pixels and [1, R] places on the trained grid -> [1, R, h].

    A kernel as large as its stride is a linear layer, and needs no change of layout.
    """
    h, size, count = config.hidden_size, CHANNELS * config.patch_size**2, config.patches**2
    kernel = weights.get("patch_embedding.weight", h, CHANNELS, config.patch_size, config.patch_size)
    matrix = from_array(kernel.name, float_array(kernel).reshape(h, size))
    bias = weights.get("patch_embedding.bias", h)
    embedded = linear(g, kernel.name.removesuffix(".weight"), patches, matrix, FLOAT, ENCODER, bias)
    table = weights.get("position_embedding.weight", count, h)
    return g.op("Add", embedded, g.op("Gather", g.weight(table.name, float_array(table)), ids))
