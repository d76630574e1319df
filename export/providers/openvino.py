"""The decoder for OpenVINO: static graphs whose INT4 weights are the bundle's own bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from palmtop.export.arch import Model
from palmtop.export.bundle.manifest_builder import served_routes
from palmtop.export.checkpoint.lazy_tensor import Weights
from palmtop.export.graph.builder import WeightSink
from palmtop.export.graph.linear import GraphPrecision
from palmtop.export.providers.fixed_shape.dequantized import BLOCKWISE_OPSET, dequantized_linear
from palmtop.export.providers.fixed_shape.graphs import mixes, write_graphs
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import Manifest, Route
from palmtop.runtime.bundle.targets import TargetSpec

PROVIDER = "openvino"


@dataclass(frozen=True, slots=True)
class OpenVinoGraphs:
    """Writes the graphs of ``--target openvino`` (``bundle_writer.TargetGraphs``).

    Attributes:
        recipe: with this target.
        summary: what was written.
    """

    recipe: Recipe
    summary: list[str] = field(default_factory=list)

    def beside_decoder(
        self, folder: Path, model: Model, weights: Weights, precision: GraphPrecision, sink: WeightSink
    ) -> tuple[TargetSpec, ...]:
        """Write all of them: they name the decoder's own bytes."""
        routes = served_routes(model, self.recipe)
        target = write_openvino(folder, model, self.recipe, weights, routes, precision, sink)
        self.summary.append(
            f"{len(target.files)} graphs for {PROVIDER}, which compiles them when they are loaded: palmtop inspect"
            f" BUNDLE --provider {PROVIDER} counts the nodes that it takes and those that stay on the CPU"
        )
        return (target,)

    def after_graphs(self, folder: Path, model: Model, weights: Weights, manifest: Manifest) -> tuple[TargetSpec, ...]:
        """Nothing more."""
        return ()


def write_openvino(
    folder: Path,
    model: Model,
    recipe: Recipe,
    weights: Weights,
    routes: dict[str, Route],
    precision: GraphPrecision,
    sink: WeightSink,
) -> TargetSpec:
    """Write the graphs beside the bundle's own.

    The encoders need no graphs of their own: OpenVINO's CPU device runs the bundle's as they are.

    Args:
        folder: of the bundle; the graphs name their weights relative to it.
        model: what is exported.
        recipe: with this target.
        weights: the model's own, or with adapters merged into them.
        routes: of the manifest.
        precision: as the bundle's decoder has it.
        sink: what the bundle's decoder was written to (``SharedWeights``): its weights are not written again.

    Returns:
        The manifest's entry.
    """
    decoder = write_graphs(
        folder,
        model,
        weights,
        sink,
        dequantized_linear(precision),
        precision.head,
        mixes(routes, model.adapters if recipe.adapter_mode == "gated" else ()),
        context=recipe.context_of_target,
        chunk=recipe.chunk,
        prefix=f"{PROVIDER}_",
        opset=BLOCKWISE_OPSET,
        is_apart=True,
    )
    versions = {"onnx_opset": str(BLOCKWISE_OPSET)}
    return TargetSpec(provider=PROVIDER, soc=None, versions=versions, decoder=decoder, encoders={})
