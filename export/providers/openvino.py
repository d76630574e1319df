"""Decoder graphs for OpenVINO: fixed shapes, with INT4 weights on the bundle's own bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from palmtop.export.arch import Model
from palmtop.export.bundle.manifest_builder import served_routes
from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.graph.building.builder import WeightSink
from palmtop.export.graph.linear import GraphPrecision
from palmtop.export.providers.fixed_shape.dequantized import BLOCKWISE_OPSET, dequantized_linear
from palmtop.export.providers.fixed_shape.graphs import mixes, write_graphs
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import Manifest, Route
from palmtop.runtime.bundle.targets import TargetSpec

PROVIDER = "openvino"


@dataclass(frozen=True, slots=True)
class OpenVinoGraphs:
    """Writer of the graphs of ``--target openvino`` (``bundle_writer.TargetGraphs``).

    Attributes:
        recipe: recipe with this target.
        summary: sentences on the written graphs.
    """

    recipe: Recipe
    summary: list[str] = field(default_factory=list)

    def beside_decoder(
        self, folder: Path, model: Model, weights: StateDict, precision: GraphPrecision, sink: WeightSink
    ) -> tuple[TargetSpec, ...]:
        """Write all of them: they refer to the decoder's bytes."""
        routes = served_routes(model, self.recipe)
        target = write_openvino(folder, model, self.recipe, weights, routes, precision, sink)
        self.summary.append(
            f"{len(target.files)} graphs for {PROVIDER}, which compiles them when they are loaded: palmtop inspect"
            f" BUNDLE --provider {PROVIDER} counts the nodes that it takes and those that stay on the CPU"
        )
        return (target,)

    def after_graphs(
        self, folder: Path, model: Model, weights: StateDict, manifest: Manifest
    ) -> tuple[TargetSpec, ...]:
        """Do nothing: all graphs are written."""
        return ()


def write_openvino(
    folder: Path,
    model: Model,
    recipe: Recipe,
    weights: StateDict,
    routes: dict[str, Route],
    precision: GraphPrecision,
    sink: WeightSink,
) -> TargetSpec:
    """Write the graphs beside the bundle's own.

    The encoders need no separate graphs: OpenVINO's CPU device runs the bundle's.

    Args:
        folder: folder of the bundle; the graphs name their weights relative to it.
        model: the model to export.
        recipe: recipe with this target.
        weights: weights of the model, or with adapters merged into them.
        routes: routes of the manifest.
        precision: precision of the bundle's decoder.
        sink: weight sink of the bundle's decoder (``SharedWeights``): its weights are not written again.

    Returns:
        The entry of the manifest.
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
