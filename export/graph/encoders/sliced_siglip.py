"""Vision graph for views of any shape: a SigLIP tower with positions given from outside, then a resampler.

The views of one run have one size, so that no patch is padding and attention needs no mask; the runtime makes such
batches (``palmtop.runtime.processor.images.slices``).

Reference: modeling_navit_siglip.py and resampler.py beside the checkpoints of MiniCPM-V 2.6, 4.0 and 4.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from palmtop.errors import UnsupportedModelError
from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.source import BuildContext
from palmtop.runtime.bundle.processor_config import ProcessorSpec, SlicesSpec

from .encoder_block import attention, layer_norm, query_key_value
from .resampler import Resampler
from .siglip import CHANNELS, layer, patch_maps, positions
from .vision_config import VisionConfig

TOWER, RESAMPLER = "vpm.", "resampler."  # prefixes of the checkpoint's names


@dataclass(frozen=True, slots=True)
class SlicedSiglip:
    """Vision encoder graph (``source.EncoderSource``).

    Attributes:
        config: sizes of the tower; its ``image_size`` gives the trained positions.
        resampler: the resampler behind it.
    """

    config: VisionConfig
    resampler: Resampler

    @property
    def names(self) -> set[str]:
        """Names of the tensors that the graph reads."""
        block = ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
        block += [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
        modules = ["embeddings.patch_embedding", "post_layernorm"]
        modules += [f"encoder.layers.{i}.{name}" for i in range(self.config.layers_run) for name in block]
        names = {f"{TOWER}{module}.{kind}" for module in modules for kind in ("weight", "bias")}
        names |= {f"{RESAMPLER}{name}" for name in self.resampler.names}
        return names | {f"{TOWER}embeddings.position_embedding.weight"}

    def bytes_per_item(self, processor: ProcessorSpec) -> int:
        """Approximate bytes of memory for one view during a run: twice the live bytes at the widest place."""
        config, spec = self.config, processor.image
        assert isinstance(spec, SlicesSpec)  # the architecture made both
        widest = max(2 * config.intermediate_size + 16 * config.hidden_size, 6 * self.resampler.output_size)
        return 2 * 4 * spec.max_patches * widest

    def build(self, g: GraphBuilder, context: BuildContext) -> None:
        """Add the whole vision graph.

        Inputs: ``pixel_values`` float32 [N, 3, h, w], sides of whole patches; ``position_ids`` int64 [P], the trained
        position of each patch of such a view, in rows. Output: ``image_features`` float32 [N, Q, D].

        Args:
            g: an empty graph.
            context: its precision applies to the linear layers; the patch convolution, norms and positions stay
                float32.

        Raises:
            CheckpointError: a weight is missing, misshapen or not finite.
            UnsupportedModelError: the activation is not known.
        """
        config, precision = self.config, context.precision.linears
        pixels = g.input("pixel_values", ir.DataType.FLOAT, ["N", CHANNELS, "height", "width"])
        ids = g.input("position_ids", ir.DataType.INT64, ["P"])
        tower = context.weights.within(TOWER)
        hidden, grid = _embeddings(g, tower.within("embeddings."), config, pixels, ids)

        def attend(g: GraphBuilder, weights: StateDict, x: ir.Value) -> ir.Value:
            query, key, value = query_key_value(g, weights, x, config.hidden_size, precision)
            return attention(g, query, key, value, config.num_attention_heads)

        for index in range(config.layers_run):
            hidden = layer(g, tower.within(f"encoder.layers.{index}."), config, hidden, attend, precision)
        hidden = layer_norm(g, tower, "post_layernorm", hidden, config.hidden_size, config.layer_norm_eps)
        found = self.resampler.emit(g, context.weights.within(RESAMPLER), hidden, grid, precision)
        sizes = self.resampler.queries, self.resampler.output_size
        g.output(found, "image_features", ir.DataType.FLOAT, ["N", *sizes])

    def static_lengths(self, name: str, processor: ProcessorSpec) -> dict[str, int]:
        """Return the number of patches of the one graph that fixed shapes would need."""
        assert isinstance(processor.image, SlicesSpec)  # the architecture made both
        return {name: processor.image.max_patches}

    def build_static(self, g: GraphBuilder, weights: StateDict, length: int) -> None:
        """Refuse: views have many shapes, and no graph of one shape serves them.

        Raises:
            UnsupportedModelError: always.
        """
        raise UnsupportedModelError(
            "the vision encoder takes views of many shapes, which a graph of fixed shapes does not: expected another"
            " target than qnn"
        )


def _embeddings(
    g: GraphBuilder, weights: StateDict, config: VisionConfig, pixels: ir.Value, ids: ir.Value
) -> tuple[ir.Value, tuple[ir.Value, ir.Value]]:
    """Embed [N, 3, h, w] with positions [P] -> [N, P, h]; and the numbers of rows and columns of patches."""
    maps = patch_maps(g, weights, config, pixels)
    rows, columns = (g.op("Squeeze", g.op("Shape", maps, start=axis, end=axis + 1), g.constant([0])) for axis in (2, 3))
    flat = g.op("Transpose", g.op("Reshape", maps, g.constant([0, config.hidden_size, -1])), perm=[0, 2, 1])
    return g.op("Add", flat, positions(g, weights, config, ids)), (rows, columns)
