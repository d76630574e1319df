"""Vision graph: a SigLIP NaViT tower, 2x2 pooling and the projector into the text model.

The HD arrangement of tiles is not part of it: the projector works row by row, so the runtime arranges rows after it
(``palmtop.runtime.processor.images.dynamic_hd.feature_order``) and the graph needs no image sizes.

Reference: transformers 5.23, models/phi4_multimodal/modeling_phi4_multimodal.py, Phi4MultimodalVisionModel
and Phi4MultimodalImageEmbedding, with eager attention. (With SDPA a batch of fully valid tiles gets no mask
there, and ``is_causal = True`` then makes attention causal: a slip of the port, 4.57 too, not of upstream.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import StateDict, from_array
from palmtop.export.graph.activation import activation, gelu
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import ENCODER
from palmtop.export.graph.building.source import BuildContext
from palmtop.export.graph.linear import FLOAT, Precisions, float_array, linear
from palmtop.runtime.bundle.processor_config import ProcessorSpec
from palmtop.runtime.processor.images.patch_positions import position_table

from .encoder_block import ENCODERS, attention, layer_norm, module_linear, query_key_value, static_attention
from .vision_config import VisionConfig

CHANNELS = 3
HIDDEN = -1e30  # a score that softmax turns into 0, with room below for the head's own part
TOWER = "image_embed.img_processor."
BROKEN_ROWS, SAFE_ROWS = 16, 24
"""HTP 2.51 multiplies exactly 16 rows of a LayerNorm wrongly (docs/npu.md): masked rows are added to them."""


@dataclass(frozen=True, slots=True)
class Siglip:
    """Vision encoder graph (``source.EncoderSource``).

    Attributes:
        config: sizes of the tower.
    """

    config: VisionConfig

    def bytes_per_item(self, processor: ProcessorSpec) -> int:
        """Approximate bytes of memory for one tile during a run.

        Twice the live bytes at the widest place: the reference model's tile has 108 MB, and a process grows by 150 to
        270 MB, because glibc keeps freed memory until ``runtime/media/encoder_runner.py`` returns it (onnxruntime 1.31,
        x86-64).
        """
        config = self.config
        return 2 * 4 * config.patches**2 * (2 * config.intermediate_size + 16 * config.hidden_size)

    def build(self, g: GraphBuilder, context: BuildContext) -> None:
        """Add the whole vision graph.

        Inputs: ``pixel_values`` float32 [N, 3, C, C]; ``patch_mask`` bool [N, P, P], a rectangle at the top left.
        Outputs: ``tile_features`` float32 [N, p, p, H]; ``separators`` float32 [2, H], the end of a row of
        patches and the border between the tiles and the global view.

        Args:
            g: an empty graph.
            context: its precision applies to the linear layers; the patch convolution, norms and positions stay
                float32.

        Raises:
            CheckpointError: a weight is missing, misshapen or not finite.
            UnsupportedModelError: the activation is not known.
        """
        config, precision = self.config, context.precision.linears
        side, patches, pooled = config.image_size, config.patches, config.pooled
        pixels = g.input("pixel_values", ir.DataType.FLOAT, ["N", CHANNELS, side, side])
        mask = g.input("patch_mask", ir.DataType.BOOL, ["N", patches, patches])
        weights = context.weights.within(ENCODERS)
        tower = weights.within(TOWER)

        hidden = embeddings(g, tower.within("embeddings."), config, pixels, _position_ids(g, config, mask))
        columns = _hiding_columns(g, config, mask)

        def attend(g: GraphBuilder, weights: StateDict, x: ir.Value) -> ir.Value:
            return _attend(g, weights, config, x, columns, precision)

        for index in range(config.layers_run):
            hidden = layer(g, tower.within(f"encoder.layers.{index}."), config, hidden, attend, precision)
        projected = project_rows(g, weights, config, hidden, precision)
        first, last, end = g.constant([0]), g.constant([-2]), g.constant([np.iinfo(np.int64).max])
        tiles = g.op(
            "Reshape",
            g.op("Slice", projected, first, last, first),
            g.constant([-1, pooled, pooled, config.output_size]),
        )
        g.output(tiles, "tile_features", ir.DataType.FLOAT, ["N", pooled, pooled, config.output_size])
        g.output(g.op("Slice", projected, last, end, first), "separators", ir.DataType.FLOAT, [2, config.output_size])

    def static_lengths(self, name: str, processor: ProcessorSpec) -> dict[str, int]:
        """Return the length of the one graph: one tile a run."""
        return {name: rows_of(self.config)}

    def build_static(self, g: GraphBuilder, weights: StateDict, length: int) -> None:
        """Add the graph of fixed shapes, float32: one tile a run, positions and mask computed outside.

        NPUs have no operators for counting a mask and looking up trained positions by it; the processor's kind
        (``palmtop.runtime.processor.images.static_image_feeds``) does this. Inputs: ``patches`` [1, R, 3*c*c], the
        pixels of each patch; ``position_ids`` int32 [1, R]; ``key_bias`` [1, 1, 1, R], 0 for a valid patch and a
        masking number for others. Outputs: ``tile_features`` [p*p, H], ``separators`` [2, H].

        Args:
            g: an empty graph.
            weights: weights of the whole model.
            length: R, rows of the tower (``rows_of``).
        """
        config, rows, weights = self.config, length, weights.within(ENCODERS)
        count, pooled = config.patches**2, config.pooled**2
        pixels = g.input("patches", ir.DataType.FLOAT, [1, rows, CHANNELS * config.patch_size**2])
        ids = g.input("position_ids", ir.DataType.INT32, [1, rows])
        bias = g.input("key_bias", ir.DataType.FLOAT, [1, 1, 1, rows])
        tower = weights.within(TOWER)

        def attend(g: GraphBuilder, weights: StateDict, x: ir.Value) -> ir.Value:
            return static_attention(g, weights, x, config.num_attention_heads, rows, config.hidden_size, [bias])

        hidden = _static_embeddings(g, tower.within("embeddings."), config, pixels, ids)
        for index in range(config.layers_run):
            hidden = layer(g, tower.within(f"encoder.layers.{index}."), config, hidden, attend, FLOAT)
        if rows > count:
            hidden = g.op("Slice", hidden, g.constant([0]), g.constant([count]), g.constant([1]))
        projected = project_rows(g, weights, config, hidden, FLOAT)  # [p*p + 2, H]
        tiles, separators = g.ops("Split", projected, g.constant([pooled, 2]), outputs=2, axis=0)
        g.output(tiles, "tile_features", ir.DataType.FLOAT, [pooled, config.output_size])
        g.output(separators, "separators", ir.DataType.FLOAT, [2, config.output_size])


def rows_of(config: VisionConfig) -> int:
    """Return R, the rows of a graph of fixed shapes: the patches of a tile, or more if that number is broken."""
    return SAFE_ROWS if config.patches**2 == BROKEN_ROWS else config.patches**2


def embeddings(g: GraphBuilder, weights: StateDict, config: VisionConfig, pixels: ir.Value, ids: ir.Value) -> ir.Value:
    """Embed pixels [N, 3, C, C] with positions [N, P*P] on the trained grid -> [N, P*P, h]."""
    flat = g.op(
        "Reshape", patch_maps(g, weights, config, pixels), g.constant([0, config.hidden_size, config.patches**2])
    )
    embedded = g.op("Transpose", flat, perm=[0, 2, 1])  # [N, P*P, h]
    return g.op("Add", embedded, positions(g, weights, config, ids))


def patch_maps(g: GraphBuilder, weights: StateDict, config: VisionConfig, pixels: ir.Value) -> ir.Value:
    """Embed the patches of pixels [N, 3, h, w] -> [N, H, rows, columns]."""
    patch = config.patch_size
    kernel = weights.get("patch_embedding.weight", config.hidden_size, CHANNELS, patch, patch)
    bias = weights.get("patch_embedding.bias", config.hidden_size)
    return g.op(
        "Conv",
        pixels,
        g.weight(kernel.name, float_array(kernel)),
        g.weight(bias.name, float_array(bias)),
        strides=[patch, patch],
    )


def positions(g: GraphBuilder, weights: StateDict, config: VisionConfig, ids: ir.Value) -> ir.Value:
    """Look up the trained positions with ids [...] -> [..., H]."""
    table = weights.get("position_embedding.weight", config.patches**2, config.hidden_size)
    return g.op("Gather", g.weight(table.name, float_array(table)), ids)


def _static_embeddings(
    g: GraphBuilder, weights: StateDict, config: VisionConfig, patches: ir.Value, ids: ir.Value
) -> ir.Value:
    """Embed pixels [1, R, 3*c*c] with positions [1, R] on the trained grid -> [1, R, h].

    A kernel as large as its stride is a linear layer, without a change of layout.
    """
    h, size = config.hidden_size, CHANNELS * config.patch_size**2
    kernel = weights.get("patch_embedding.weight", h, CHANNELS, config.patch_size, config.patch_size)
    matrix = from_array(kernel.name, float_array(kernel).reshape(h, size))
    bias = weights.get("patch_embedding.bias", h)
    embedded = linear(g, kernel.name.removesuffix(".weight"), patches, matrix, FLOAT, ENCODER, bias)
    return g.op("Add", embedded, positions(g, weights, config, ids))


def _position_ids(g: GraphBuilder, config: VisionConfig, mask: ir.Value) -> ir.Value:
    """Position ids [N, P*P] int64; 0 for masked patches."""
    patches = config.patches
    table = g.weight("position_table", position_table(patches))
    counted = g.op("Cast", mask, to=int(ir.DataType.INT64))

    def places(axis: int) -> ir.Value:  # along height (1) or width (2), counted on the first line of the other axis
        across = g.op("Gather", counted, g.constant(np.array(0, np.int64)), axis=3 - axis)  # [N, P]
        return g.op("Gather", table, g.op("ReduceSum", across, g.constant([1]), keepdims=0))  # [N, P]

    rows = g.op("Unsqueeze", g.op("Mul", places(1), g.constant([patches])), g.constant([2]))
    columns = g.op("Unsqueeze", places(2), g.constant([1]))
    ids = g.op("Mul", g.op("Add", rows, columns), counted)  # [N, P, P]
    return g.op("Reshape", ids, g.constant([0, patches * patches]))


def _hiding_columns(g: GraphBuilder, config: VisionConfig, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
    """One more column for every head of the queries and of the keys, [N, P*P, heads, 1] each.

    Their product is 0 for a valid key and masks an invalid one: a mask inside the dot product, because with a mask
    input the attention kernel holds all scores at once (67 MB a tile in the reference model).
    """
    whole = g.constant([1, 1, config.num_attention_heads, 1])
    flat = g.op("Reshape", mask, g.constant([0, -1, 1, 1]))
    keys = g.op("Expand", g.op("Where", flat, g.constant(0.0), g.constant(HIDDEN)), whole)
    return g.op("Add", g.op("Mul", keys, g.constant(0.0)), g.constant(1.0)), keys


def layer(
    g: GraphBuilder,
    weights: StateDict,
    config: VisionConfig,
    x: ir.Value,
    attend: Callable[[GraphBuilder, StateDict, ir.Value], ir.Value],
    precision: Precisions,
) -> ir.Value:
    """Add one layer of the tower, [N, P*P, h] -> [N, P*P, h].

    Args:
        g: the graph.
        weights: weights of the layer.
        config: sizes of the tower.
        x: hidden states.
        attend: attention on normalised states, given the weights of its module.
        precision: precision of the linear layers.
    """
    h, f, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
    mixed = attend(g, weights.within("self_attn."), layer_norm(g, weights, "layer_norm1", x, h, eps))
    x = g.op("Add", x, module_linear(g, weights, "self_attn.out_proj", mixed, (h, h), precision))
    normed = layer_norm(g, weights, "layer_norm2", x, h, eps)
    wide = module_linear(g, weights, "mlp.fc1", normed, (f, h), precision)
    wide = activation(config.hidden_act, "vision_config: hidden_act")(g, wide)
    return g.op("Add", x, module_linear(g, weights, "mlp.fc2", wide, (h, f), precision))


def _attend(
    g: GraphBuilder,
    weights: StateDict,
    config: VisionConfig,
    x: ir.Value,
    columns: tuple[ir.Value, ir.Value],
    precision: Precisions,
) -> ir.Value:
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    q, k, v = query_key_value(g, weights, x, config.hidden_size, precision)

    def widened(x: ir.Value, column: ir.Value) -> ir.Value:  # [N, P*P, heads * size] -> [.., heads * (size + 1)]
        by_head = g.op("Reshape", x, g.constant([0, 0, heads, size]))
        return g.op("Reshape", g.op("Concat", by_head, column, axis=-1), g.constant([0, 0, heads * (size + 1)]))

    return attention(g, widened(q, columns[0]), widened(k, columns[1]), v, heads, scale=size**-0.5)


def project_rows(
    g: GraphBuilder, weights: StateDict, config: VisionConfig, hidden: ir.Value, precision: Precisions
) -> ir.Value:
    """Pool and project [N, P*P, h] -> [N*p*p + 2, H], the two separators last."""
    h = config.hidden_size
    ends = [
        weights.get("image_embed.sub_img_feature_extensor", 1, 1, 1, h),
        weights.get("image_embed.global_img_feature_extensor", 1, 1, h),
    ]
    separators = g.weight("image_embed.separators", np.concatenate([float_array(e).reshape(1, h) for e in ends]))
    rows = g.op("Concat", _pool(g, config, hidden), separators, axis=0)
    return _project(g, weights, config, rows, precision)


def _pool(g: GraphBuilder, config: VisionConfig, hidden: ir.Value) -> ir.Value:
    """Pool [N, P*P, h] -> [N*p*p, h], the mean of each 2x2; an odd grid is extended by reflection, right and below."""
    patches, pooled, h = config.patches, config.pooled, config.hidden_size
    grid = g.op("Reshape", hidden, g.constant([-1, patches, patches, h]))
    if patches % 2:
        grid = g.op("Pad", grid, g.constant([0, 0, 0, 0, 0, 1, 1, 0]), mode="reflect")
    split = g.op("Reshape", grid, g.constant([-1, 2, pooled, 2, h]))  # [N*p, 2, p, 2, h]
    mean = g.op("ReduceMean", split, g.constant([1, 3]), keepdims=0)
    return g.op("Reshape", mean, g.constant([-1, h]))


def _project(
    g: GraphBuilder, weights: StateDict, config: VisionConfig, rows: ir.Value, precision: Precisions
) -> ir.Value:
    """Project [R, h] -> [R, H]."""
    h, wide = config.hidden_size, config.output_size
    up = module_linear(g, weights, "image_embed.img_projection_up", rows, (wide, h), precision)
    return module_linear(g, weights, "image_embed.img_projection_down", gelu(g, up), (wide, wide), precision)
