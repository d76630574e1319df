"""From a model to the files of its bundle: graphs with their weights, tokenizer, configuration, plan and manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from palmtop.errors import InputError
from palmtop.export.arch import Model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import Weight, Weights
from palmtop.export.checkpoint.tokenizer_files import write_tokenizer
from palmtop.export.graph import conformer, siglip
from palmtop.export.graph.builder import GraphBuilder, WeightSink
from palmtop.export.graph.decoder import DecoderPrecision, build_decoder
from palmtop.export.graph.linear import Precision, Precisions
from palmtop.export.providers.fixed_shape.graphs import embedding_graph
from palmtop.export.providers.fixed_shape.shared_weights import SharedWeights
from palmtop.export.providers.openvino import write_openvino
from palmtop.export.recipe import METHODS, Recipe
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.genai_config import GENAI_CONFIG_FILE, genai_config
from palmtop.runtime.bundle.manifest import Manifest

from .external_data import WeightFile
from .journal import Journal
from .manifest_builder import (
    PLAN_FILE,
    QNN_EMBEDDING_FILE,
    expected_manifest,
    gated_adapters,
    list_files,
    served_routes,
    write_manifest,
)
from .progress import Meter
from .storage_summary import count_parts

if TYPE_CHECKING:
    from palmtop.export.mixed_precision.allocation import Planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How a bundle's files are written, whatever is in them.

    Attributes:
        workers: threads and blocks.
        meter: counts what is read and written.
        journal: what an earlier try has written; None writes everything.
    """

    workers: Workers = field(default_factory=Workers)
    meter: Meter = field(default_factory=Meter)
    journal: Journal | None = None


def write_bundle(
    folder: Path,
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    making: Making | None = None,
    planned: Planned | None = None,
) -> Manifest:
    """Write every file of a bundle into a folder that is empty, or that an earlier try has begun."""
    making = making or Making()
    adapters = gated_adapters(model, recipe)
    graphs, hashes, targets = [], {}, []
    for part in export_parts(model):
        with WeightFile(
            folder, f"weights/{part}.bin", workers=making.workers, journal=making.journal, meter=making.meter
        ) as file:
            sink = SharedWeights(file)
            graph = build_graphs(model, recipe, part, sink, planned)
            if part == "decoder" and recipe.target is not None:
                precision, base = _decoder_precision(recipe, planned), merged_weights(model, recipe)
                if recipe.target == "qnn":  # the lookup stays on the CPU, on the bytes of the bundle's own decoder
                    ir.save(embedding_graph(model, base, sink, precision.head), folder / QNN_EMBEDDING_FILE)
                else:
                    routes = served_routes(model, recipe)
                    targets.append(write_openvino(folder, model, recipe, base, routes, precision, sink))
        hashes[file.location] = file.sha256
        ir.save(graph, folder / f"{part}.onnx")
        graphs.append((part, graph))
    manifest = expected_manifest(checkpoint, model, recipe, making.workers)
    config = genai_config(manifest.decoder, model.processor.text)
    (folder / GENAI_CONFIG_FILE).write_text(json.dumps(config, indent=1), "utf-8")
    write_tokenizer(checkpoint, folder, model.chat_template)
    if planned is not None:
        planned.plan.write(folder / PLAN_FILE)
    parts = count_parts(graphs, [a.name for a in adapters])
    if recipe.target == "qnn":
        from palmtop.export.providers.qnn.target import write_qnn

        targets += write_qnn(folder, model, merged_weights(model, recipe), recipe, manifest).targets
    manifest = replace(manifest, parts=parts, files=list_files(folder, hashes), targets=tuple(targets))
    write_manifest(folder, manifest)
    return manifest


def merged_weights(model: Model, recipe: Recipe) -> Weights:
    """The model's weights with the recipe's adapters folded into the base.

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

    def find_merged(name: str) -> Weight:
        weight = model.weights.find(name)
        for adapter, amount in recipe.merge.items():
            pair = by_name[adapter].pair(name.removesuffix(".weight"))
            if pair is not None:
                weight = weight.plus_product(pair.b, pair.a, amount)
        return weight

    return Weights(find_merged)


def export_parts(model: Model) -> list[str]:
    """Names of the graphs a model needs: "decoder", then "vision" and "audio" where it has them."""
    there = {"decoder": True, "vision": model.vision is not None, "audio": model.audio is not None}
    return [part for part, needed in there.items() if needed]


def build_graphs(model: Model, recipe: Recipe, part: str, sink: WeightSink, planned: Planned | None = None) -> ir.Model:
    """Build one graph, its big weights going to the sink as they are read; a plan goes before the recipe."""
    weights = merged_weights(model, recipe)
    g = GraphBuilder(part, sink)
    if part == "decoder":
        precision = _decoder_precision(recipe, planned)
        build_decoder(g, weights, model.decoder, gated_adapters(model, recipe), precision, recipe.draft_rows)
        return g.model()
    # The encoders' activations have outliers that int8 activations would clip: they compute in float32.
    own = Precision(scheme=recipe.encoder_scheme, quantizer=METHODS[recipe.method])
    encoders: Precisions = own if planned is None else planned.precision(part, own)
    towers = weights.within("embed_tokens_extend.")
    if part == "vision" and model.vision is not None:
        siglip.build_vision(g, towers, model.vision, encoders)
    elif part == "audio" and model.audio is not None:
        conformer.build_audio(g, towers, model.audio, encoders)
    return g.model()


def _decoder_precision(recipe: Recipe, planned: Planned | None) -> DecoderPrecision:
    level, method = recipe.accuracy_level, METHODS[recipe.method]
    linears = Precision(scheme=recipe.decoder_scheme, accuracy_level=level, quantizer=method)
    head = Precision(scheme=recipe.head_scheme, accuracy_level=level, quantizer=method)
    if planned is None:
        return DecoderPrecision(linears=linears, head=head, adapters=linears)
    return DecoderPrecision(*(planned.precision("decoder", default) for default in (linears, head, linears)))
