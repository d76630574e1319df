"""``--target qnn``: graphs of fixed shapes, calibrated, quantised and compiled for a SoC, beside the bundle's own."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from palmtop.errors import InputError
from palmtop.export.arch import Model
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.bundle.shared_weights import SharedWeights
from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.graph.building.builder import GraphBuilder, WeightSink
from palmtop.export.graph.building.mark import HEAD
from palmtop.export.graph.linear import GraphPrecision
from palmtop.export.measure.samples import SampleReader, packaged_questions
from palmtop.export.providers.fixed_shape.graphs import embedding_graph, write_float_graphs
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import sha256_of
from palmtop.runtime.bundle.targets import HIDDEN, StaticRoute, StaticSpec, TargetSpec
from palmtop.runtime.providers.placed import hash_of_files, source_of
from palmtop.runtime.providers.plugins import SHOWN_NODES, compiler_versions

from .calibrate import Calibrated, DecoderCalibration, EncoderCalibration, calibrate
from .compile import PROVIDER, Compiled, binary_of, compile_graphs, require_compiler
from .fusion import fuse_rms_norms
from .qdq import WeightBits, add_qdq

ITEMS = 8  # samples of each mode for calibration
ENCODER_BITS, HEAD_BITS = 8, 8
EMBEDDING_FILE = f"{PROVIDER}_embedding.onnx"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class QnnTarget:
    """Manifest entries and compiled graphs of a QNN target.

    Attributes:
        targets: manifest entries, one per SoC.
        compiled: every graph with its nodes and SNR, by SoC.
    """

    targets: tuple[TargetSpec, ...]
    compiled: Mapping[str, tuple[Compiled, ...]]


@dataclass(frozen=True, slots=True)
class QnnGraphs:
    """Writer of the graphs of ``--target qnn`` (``bundle_writer.TargetGraphs``).

    Attributes:
        recipe: recipe with this target.
        report: called with each step, because compiling takes minutes.
        summary: sentences on the written graphs, one for each SoC.
    """

    recipe: Recipe
    report: Report | None = None
    summary: list[str] = field(default_factory=list)

    def beside_decoder(
        self, folder: Path, model: Model, weights: StateDict, precision: GraphPrecision, sink: WeightSink
    ) -> tuple[TargetSpec, ...]:
        """Write the embedding's graph: the look-up stays on the CPU, on the bytes of the bundle's decoder."""
        ir.save(embedding_graph(model, weights, sink, precision.head), folder / EMBEDDING_FILE)
        return ()

    def after_graphs(
        self, folder: Path, model: Model, weights: StateDict, manifest: Manifest
    ) -> tuple[TargetSpec, ...]:
        """Calibrate, quantise and compile (``write_qnn``)."""
        written = write_qnn(folder, model, weights, self.recipe, manifest, self.report)
        self.summary.extend(summary(soc, compiled) for soc, compiled in written.compiled.items())
        return written.targets


def write_qnn(
    folder: Path, model: Model, weights: StateDict, recipe: Recipe, manifest: Manifest, report: Report | None = None
) -> QnnTarget:
    """Write sources and binaries of the target.

    The float graphs are kept beside the bundle meanwhile: 4 bytes for each weight.

    Args:
        folder: folder of the bundle, with its other files and ``EMBEDDING_FILE``.
        model: the model to export.
        weights: weights of the model, or with adapters merged into them.
        recipe: recipe with this target.
        manifest: manifest of the bundle so far.
        report: called with each step.

    Raises:
        RuntimeMissingError: the provider's package is not installed.
        InputError: the model has no encoders and the decoder is not requested.
        BundleError: the compiler does not support a graph, or its outputs are wrong.
    """
    require_compiler()
    tell = report or (lambda step: None)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.float-") as work:
        floats = Path(work)
        tell("building float graphs")
        encoders = _float_encoders(floats, model, weights)
        spec = _float_decoder(floats, replace(model, weights=weights), recipe)
        tell("calibrating")
        measured = EncoderCalibration({name: floats / f"{name}.onnx" for name in encoders}, model.processor)
        decoder = DecoderCalibration(floats, spec, manifest)
        modes = tuple(mode for mode in manifest.modes if manifest.has_encoders(mode))
        reader = SampleReader(folder, manifest)
        questions = packaged_questions(modes, ITEMS, is_general=reader.is_general)
        if not calibrate((reader.read(question) for question in questions), measured, decoder):
            raise InputError("target qnn: there is nothing to calibrate with, expected a model that serves a mode")
        samples: dict[str, Calibrated] = {}
        for name in encoders:
            tell(f"quantising {name}")
            _quantise(floats / f"{name}.onnx", folder, name, measured.found[name], lambda _: ENCODER_BITS)
            samples[f"{PROVIDER}_{name}.onnx"] = measured.found[name]
        samples |= _quantise_decoder(floats, folder, decoder, model, recipe)
    targets, compiled = [], {}
    for soc in recipe.socs:
        target = _target(soc, encoders, spec)
        count = len(target.encoders) + (0 if target.decoder is None else 2 * len(target.decoder.routes))
        numbers = itertools.count(1)

        def compiling(file: str, soc: str = soc, count: int = count, numbers: Iterator[int] = numbers) -> None:
            tell(f"compiling for {soc}: graph {next(numbers)} of {count}, {file}")

        done = [
            each
            for file in target.encoders.values()
            for each in compile_graphs(folder, {source_of(target, file): file}, soc, samples, compiling, share=False)
        ]
        routes = () if target.decoder is None else target.decoder.routes
        shared = {source_of(target, file): file for route in routes for file in (route.prefill, route.decode)}
        done += compile_graphs(folder, shared, soc, samples, compiling, share=True)
        hashes = {source_of(target, file): sha256_of(folder / source_of(target, file)) for file in target.files}
        versions = compiler_versions(PROVIDER) | {"sources": hash_of_files(hashes, target)}
        targets.append(replace(target, versions=versions))
        compiled[soc] = tuple(done)
    return QnnTarget(tuple(targets), compiled)


def summary(soc: str, compiled: Sequence[Compiled]) -> str:
    """Return a sentence on the nodes of a SoC's graphs on the provider and on the CPU."""
    nodes, on_cpu = sum(each.nodes for each in compiled), [node for each in compiled for node in each.on_cpu]
    measured = [each.snr_db for each in compiled if each.snr_db is not None]
    worst = f"; at least {min(measured):.1f} dB from float32's outputs" if measured else ""
    names = f" ({', '.join(on_cpu[:SHOWN_NODES])}{', ...' if len(on_cpu) > SHOWN_NODES else ''})" if on_cpu else ""
    return (
        f"{len(compiled)} graphs for {PROVIDER} on {soc}: {nodes} nodes on {PROVIDER}, {len(on_cpu)} on the CPU{names},"
        f" where the lookup of the embedding stays by design{worst}"
    )


def size_bytes(folder: Path, target: TargetSpec) -> dict[str, int]:
    """Return the total bytes of a target's binaries."""
    names = (binary_of(file) for file in target.files)
    return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}


def _float_encoders(floats: Path, model: Model, weights: StateDict) -> list[str]:
    """Write the float encoders of fixed shapes; return their names."""
    names = []
    for part, encoder in model.encoders.items():
        with ExternalData(floats, f"weights/{part}.bin") as file:
            sink = SharedWeights(file)
            for name, length in encoder.static_lengths(part, model.processor).items():
                g = GraphBuilder(name, sink)
                encoder.build_static(g, weights, length)
                ir.save(g.model(), floats / f"{name}.onnx")
                names.append(name)
    return names


def _float_decoder(floats: Path, model: Model, recipe: Recipe) -> StaticSpec:
    context = recipe.context_of_target
    spec = write_float_graphs(floats, model, context=context, chunk=recipe.chunk)
    for route in spec.routes:
        for file in (route.prefill, route.decode):
            graph = ir.load(floats / file)
            fuse_rms_norms(graph)
            ir.save(graph, floats / file)
    return replace(spec, masked=HIDDEN)


def _quantise(source: Path, folder: Path, name: str, found: Calibrated, bits: WeightBits) -> None:
    model = ir.load(source)
    with ExternalData(folder, f"weights/{PROVIDER}-{name}.bin") as sink:
        add_qdq(model, found.ranges, bits, sink)
    ir.save(model, folder / f"{PROVIDER}_{name}.onnx")


def _quantise_decoder(
    floats: Path, folder: Path, decoder: DecoderCalibration, model: Model, recipe: Recipe
) -> dict[str, Calibrated]:
    """Quantise all routes and roles on one set of weights; return the measured runs by source."""
    layers = range(model.decoder.num_layers)
    same = {f"past_{kind}.{layer}": f"present_{kind}.{layer}" for kind in ("key", "value") for layer in layers}
    linear_bits = 8 if recipe.bits == 32 else recipe.bits
    head_bits = HEAD_BITS if recipe.head_bits in (None, 32) else int(recipe.head_bits or HEAD_BITS)
    samples = {}
    with ExternalData(folder, f"weights/{PROVIDER}-decoder.bin") as file:
        sink = SharedWeights(file)
        for name, found in decoder.found.items():
            graph = ir.load(floats / name)
            add_qdq(graph, found.ranges, lambda role: head_bits if role == HEAD else linear_bits, sink, same)
            ir.save(graph, folder / f"{PROVIDER}_{name}")
            samples[f"{PROVIDER}_{name}"] = found
    return samples


def _target(soc: str, encoders: list[str], spec: StaticSpec) -> TargetSpec:
    prefix = f"{PROVIDER}-{soc}_"
    routes = tuple(
        StaticRoute(adapters=route.adapters, prefill=f"{prefix}{route.prefill}", decode=f"{prefix}{route.decode}")
        for route in spec.routes
    )
    return TargetSpec(
        provider=PROVIDER,
        soc=soc,
        versions={},
        decoder=replace(spec, embedding=EMBEDDING_FILE, routes=routes),
        encoders={name: f"{prefix}{name}.onnx" for name in encoders},
    )
