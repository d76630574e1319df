"""Writer of a bundle's files from a model: graphs with their weights, tokenizer, configuration, plan and manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from palmtop.errors import InputError
from palmtop.export.arch import Model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict
from palmtop.export.checkpoint.tokenizer_files import write_tokenizer
from palmtop.export.graph.building.builder import GraphBuilder, WeightSink
from palmtop.export.graph.building.source import BuildContext
from palmtop.export.graph.kv_cache import FLOAT_CACHE, KvCache
from palmtop.export.graph.linear import GraphPrecision, Precision, Precisions
from palmtop.export.recipe import METHODS, Recipe
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.genai_config import GENAI_CONFIG_FILE, genai_config
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.targets import TargetSpec

from .external_data import ExternalData
from .journal import Journal
from .manifest_builder import PLAN_FILE, expected_manifest, gated_adapters, list_files, write_manifest
from .progress import Meter
from .shared_weights import SharedWeights
from .storage_summary import count_parts


class PlanFile(Protocol):
    """Interface of a plan that can be kept in the bundle."""

    def write(self, path: Path) -> None:
        """Write the plan to a file."""


class PlannedTensors(Protocol):
    """Bits and codes of tensors, set before the graphs are built (``mixed_precision.allocation.Planned``)."""

    @property
    def plan(self) -> PlanFile:
        """The plan of the tensors."""

    def precision(self, part: str, default: Precision) -> Precisions:
        """Return the precision of every linear layer of one graph."""


class TargetGraphs(Protocol):
    """Writer of graphs of fixed shapes for one execution provider, beside the bundle's own (``export/providers``)."""

    @property
    def summary(self) -> Sequence[str]:
        """Sentences on the written graphs and the placement of their nodes; complete after ``after_graphs``."""

    def beside_decoder(
        self, folder: Path, model: Model, weights: StateDict, precision: GraphPrecision, sink: WeightSink
    ) -> Sequence[TargetSpec]:
        """Write the graphs that share the decoder's weights, while their file is open.

        Args:
            folder: folder of the bundle.
            model: the model.
            weights: the model's own, or with adapters merged into them.
            precision: precision of the bundle's decoder.
            sink: weight sink of the decoder; weights of the same name are not written again.

        Returns:
            The entries of the manifest.
        """

    def after_graphs(self, folder: Path, model: Model, weights: StateDict, manifest: Manifest) -> Sequence[TargetSpec]:
        """Write files that need the finished graphs; the manifest lacks them yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteJob:
    """Options for writing the files of any bundle.

    Attributes:
        workers: threads and blocks.
        meter: counter of bytes read and written.
        journal: record of an earlier attempt; None writes everything.
        target: writer of graphs for another execution provider; None for none.
    """

    workers: Workers = field(default_factory=Workers)
    meter: Meter = field(default_factory=Meter)
    journal: Journal | None = None
    target: TargetGraphs | None = None


def write_bundle(
    folder: Path,
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    making: WriteJob | None = None,
    planned: PlannedTensors | None = None,
    cache: KvCache = FLOAT_CACHE,
) -> Manifest:
    """Write every file of a bundle into a folder that is empty, or that an earlier attempt has begun."""
    if cache.bits != recipe.kv:  # a bug of the caller: manifest and graph would differ
        raise ValueError(f"the cache has {cache.bits} bits, the recipe says {recipe.kv}")
    making = making or WriteJob()
    weights = merged_weights(model, recipe)
    graphs, hashes, targets = [], {}, list[TargetSpec]()
    for part, source in model.graphs.items():
        with ExternalData(
            folder, f"weights/{part}.bin", workers=making.workers, journal=making.journal, meter=making.meter
        ) as file:
            sink = SharedWeights(file)
            graph = build_graph(model, recipe, part, sink, planned, cache)
            if source is model.decoder and making.target is not None:
                precision = decoder_precision(recipe, planned)
                targets += making.target.beside_decoder(folder, model, weights, precision, sink)
        hashes[file.location] = file.sha256
        ir.save(graph, folder / f"{part}.onnx")
        graphs.append((part, graph))
    manifest = expected_manifest(checkpoint, model, recipe, making.workers)
    config = genai_config(manifest.decoder, model.processor.text)
    (folder / GENAI_CONFIG_FILE).write_text(json.dumps(config, indent=1), "utf-8")
    write_tokenizer(checkpoint, folder, model.chat_template)
    if planned is not None:
        planned.plan.write(folder / PLAN_FILE)
    parts = count_parts(graphs)
    if making.target is not None:
        targets += making.target.after_graphs(folder, model, weights, manifest)
    manifest = replace(manifest, parts=parts, files=list_files(folder, hashes), targets=tuple(targets))
    write_manifest(folder, manifest)
    return manifest


def merged_weights(model: Model, recipe: Recipe) -> StateDict:
    """Return the model's weights with the recipe's adapters merged into the base.

    Raises:
        InputError: the recipe names an adapter that the checkpoint does not have.
    """
    by_name = {a.name: a for a in model.adapters}
    for name in recipe.merge:
        if name not in by_name:
            raise InputError(
                f"adapters merges '{name}', expected one of {', '.join(by_name) or 'none: there are no adapters'}"
            )
    if not recipe.merge:
        return model.weights

    def find_merged(name: str) -> LazyTensor:
        weight = model.weights.find(name)
        for adapter, amount in recipe.merge.items():
            pair = by_name[adapter].pair(name.removesuffix(".weight"))
            if pair is not None:
                weight = weight.plus_product(pair.b, pair.a, amount)
        return weight

    return StateDict(find_merged)


def build_graph(
    model: Model,
    recipe: Recipe,
    part: str,
    sink: WeightSink,
    planned: PlannedTensors | None = None,
    cache: KvCache = FLOAT_CACHE,
) -> ir.Model:
    """Build one graph; its large weights are written to the sink as they are read. A plan overrides the recipe."""
    g = GraphBuilder(part, sink)
    is_decoder = model.graphs[part] is model.decoder
    context = BuildContext(
        weights=merged_weights(model, recipe),
        precision=decoder_precision(recipe, planned) if is_decoder else _encoder_precision(recipe, part, planned),
        tokens=model.tokens(recipe),
        adapters=gated_adapters(model, recipe),
        cache=cache,
        draft_rows=recipe.draft_rows,
    )
    model.graphs[part].build(g, context)
    return g.model()


def decoder_precision(recipe: Recipe, planned: PlannedTensors | None) -> GraphPrecision:
    """Return the precision of the decoder's matrices by a recipe or a plan."""
    level, method = accuracy_level_of("decoder", recipe), METHODS[recipe.method]
    linears = Precision(scheme=recipe.decoder_scheme, accuracy_level=level, quantizer=method)
    head = Precision(scheme=recipe.head_scheme, accuracy_level=level, quantizer=method)
    if planned is None:
        return GraphPrecision(linears=linears, head=head, adapters=linears)
    return GraphPrecision(*(planned.precision("decoder", default) for default in (linears, head, linears)))


def accuracy_level_of(part: str, recipe: Recipe) -> int:
    """Return the accuracy level of one graph's linear layers.

    Activations of encoders have outliers that int8 would clip, so encoders compute in float32.
    """
    return recipe.accuracy_level if part == "decoder" else 0


def _encoder_precision(recipe: Recipe, part: str, planned: PlannedTensors | None) -> GraphPrecision:
    """Precision of an encoder's matrices by a recipe or a plan."""
    level = accuracy_level_of(part, recipe)
    own = Precision(scheme=recipe.encoder_scheme, accuracy_level=level, quantizer=METHODS[recipe.method])
    linears: Precisions = own if planned is None else planned.precision(part, own)
    return GraphPrecision(linears=linears, head=linears, adapters=linears)
