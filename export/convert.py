"""The journey on one screen: read a checkpoint, build the graphs, quantise on the way, write the bundle."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

import palmtop
from palmtop.errors import BundleError, CheckpointError, InputError
from palmtop.runtime.bundle import Bundle, sha256_of
from palmtop.runtime.genai_config import GENAI_CONFIG_FILE, genai_config
from palmtop.runtime.machine import rss_bytes
from palmtop.runtime.manifest import (
    MANIFEST_FILE,
    AdapterSpec,
    DecoderSpec,
    EncoderSpec,
    FileSpec,
    Manifest,
    Route,
)

from .arch import Model, find
from .checkpoint import Checkpoint
from .graph import conformer, siglip
from .graph.builder import GraphBuilder, WeightSink
from .graph.decoder import DecoderPrecision, build_decoder
from .graph.linear import Precision, Precisions
from .graph.lora import Adapter
from .journal import Journal
from .parts import count_parts
from .progress import Meter, Progress
from .recipe import CALIBRATED, METHODS, Recipe
from .tokenizer_files import write_tokenizer
from .weight import Weight, Weights
from .weight_file import WeightFile
from .workers import Workers, plan_workers
from .write import journal_path, refuse_target, written_beside

if TYPE_CHECKING:
    from .plan import Plan, Planned
    from .plan.request import Request

DECODER_FILE, VISION_FILE, AUDIO_FILE = "decoder.onnx", "vision.onnx", "audio.onnx"
QUALITY_FILE, PLAN_FILE = "quality.json", "plan.json"


def export_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    overwrite: bool = False,
    verify: bool = False,
    request: Request | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    ram_bytes: int | None = None,
    threads: int | None = None,
) -> Path:
    """Export a checkpoint folder to a bundle folder.

    Killed at any moment it leaves no half bundle; called again with the same arguments it goes on from the tensors
    that are written already.

    Args:
        source: folder with config.json, safetensors shards and tokenizer.
        target: the bundle to write; it appears whole or not at all.
        recipe: choices; None takes the defaults.
        overwrite: replace a target that exists.
        verify: compare the bundle with the checkpoint when it is written, and keep the numbers in quality.json.
        request: a size or a loss to meet, a plan to replay, samples to calibrate on.
        on_plan: given the plan that is followed, before anything is written.
        progress: called after each read and each tensor.
        ram_bytes: limit for the memory of this process; None takes what speed asks for (a few hundred MB).
        threads: None takes every core.

    Returns:
        The bundle's path.

    Raises:
        CheckpointError: the checkpoint lacks something or contradicts itself.
        UnsupportedModelError: no architecture file for its model_type.
        InputError: the target exists or cannot be written, the recipe asks for an adapter that is not there, or
            the memory limit is too low.
        BundleError: the bundle failed its proof; it is not kept.
    """
    recipe = recipe or Recipe()
    checkpoint = Checkpoint(source)
    model = find(str(checkpoint.config.get("model_type"))).read_model(checkpoint, recipe.context)
    workers = plan_workers(ram_bytes, rss_bytes() or 0, threads)
    tell = _teller(progress, ram_bytes)
    meter = Meter(checkpoint.size_bytes, tell)
    refuse_target(Path(target), overwrite=overwrite, keep=Path(source))  # before hours of planning
    step = _step_teller(tell, checkpoint.size_bytes)
    with _planned(checkpoint, model, recipe, request, step, ram_bytes) as planned:
        if planned is not None and on_plan is not None:
            on_plan(planned.plan)
        checkpoint.report_reads(meter.read)
        job = _job(checkpoint, recipe, request, planned)
        with written_beside(Path(target), overwrite=overwrite, keep=Path(source), job=job) as folder:
            making = Making(workers=workers, meter=meter, journal=Journal(journal_path(folder)))
            manifest = write_bundle(folder, checkpoint, model, recipe, making, planned)
            if verify:
                checkpoint.report_reads(None)
                _prove(folder, manifest, checkpoint, workers, ram_bytes)
    return Path(target)


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


def make_plan(
    source: str | os.PathLike[str],
    recipe: Recipe,
    request: Request,
    report: Callable[[str], None] | None = None,
    ram_bytes: int | None = None,
) -> Plan:
    """The plan that an export with this request would follow; writes no bundle."""
    from .plan.prepare import prepared

    checkpoint = Checkpoint(source)
    model = find(str(checkpoint.config.get("model_type"))).read_model(checkpoint, recipe.context)
    with prepared(checkpoint, model, recipe, request, report, ram_bytes) as planned:
        return planned.plan


@contextmanager
def _planned(
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    request: Request | None,
    report: Callable[[str], None] | None,
    ram_bytes: int | None,
) -> Iterator[Planned | None]:
    """The plan of an export that has one, or whose method needs statistics."""
    if request is None and recipe.method not in CALIBRATED:
        yield None
        return
    from .plan.prepare import prepared
    from .plan.request import Request

    with prepared(checkpoint, model, recipe, request or Request(), report, ram_bytes) as planned:
        yield planned


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
    graphs, hashes = [], {}
    for part in export_parts(model):
        with WeightFile(
            folder, f"weights/{part}.bin", workers=making.workers, journal=making.journal, meter=making.meter
        ) as sink:
            graph = build_graphs(model, recipe, part, sink, planned)
        hashes[sink.location] = sink.sha256
        ir.save(graph, folder / f"{part}.onnx")
        graphs.append((part, graph))
    manifest = expected_manifest(checkpoint, model, recipe, making.workers)
    config = genai_config(manifest.decoder, model.processor.text)
    (folder / GENAI_CONFIG_FILE).write_text(json.dumps(config, indent=1), "utf-8")
    write_tokenizer(checkpoint.path, folder, model.chat_template)
    if planned is not None:
        planned.plan.write(folder / PLAN_FILE)
    parts = count_parts(graphs, [a.name for a in adapters])
    manifest = replace(manifest, parts=parts, files=list_files(folder, hashes))
    write_manifest(folder, manifest)
    return manifest


def expected_manifest(checkpoint: Checkpoint, model: Model, recipe: Recipe, workers: Workers | None = None) -> Manifest:
    """What the manifest says before there are files: everything that follows from checkpoint and recipe."""
    source_sha256 = checkpoint.sha256(workers)
    return Manifest(
        model=str(checkpoint.config.get("_name_or_path") or checkpoint.path.resolve().name),
        architecture=model.architecture,
        source_sha256=source_sha256,
        adapter_mode=recipe.adapter_mode,
        processor=model.processor,
        decoder=_decoder_spec(model),
        vision=_vision_spec(model),
        audio=_audio_spec(model),
        adapters=tuple(
            AdapterSpec(name=a.name, rank=a.rank, alpha=a.alpha, gate=gate, base_sha256=source_sha256)
            for gate, a in enumerate(gated_adapters(model, recipe))
        ),
        routes=_routes(model, recipe),
        parts=(),
        recipe=recipe.to_dict(),
        files={},
        palmtop=palmtop.__version__,
    )


def _prove(folder: Path, manifest: Manifest, checkpoint: Checkpoint, workers: Workers, ram_bytes: int | None) -> None:
    """Verify a bundle that is still being written, and keep what was measured in it."""
    from .verify import verify

    quality = verify(Bundle(folder, manifest), checkpoint, workers=workers, ram_bytes=ram_bytes)
    if not quality.passed:
        failed = next(c for c in quality.checks if not c.passed)
        raise BundleError(f"the exported bundle failed its proof: {failed.name}: {failed.detail}")
    (folder / QUALITY_FILE).write_text(json.dumps(quality.to_dict(), indent=1), "utf-8")
    hashes = {name: spec.sha256 for name, spec in manifest.files.items()}
    write_manifest(folder, replace(manifest, files=list_files(folder, hashes)))


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


def list_files(folder: Path, hashes: Mapping[str, str] | None = None) -> dict[str, FileSpec]:
    """Size and hash of every file in a bundle folder but the manifest; hashes that are known are not made again."""
    known, files = hashes or {}, {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST_FILE:
            name = path.relative_to(folder).as_posix()
            files[name] = FileSpec(size_bytes=path.stat().st_size, sha256=known.get(name) or sha256_of(path))
    return files


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write bundle.json."""
    (folder / MANIFEST_FILE).write_text(manifest_text(manifest), "utf-8")


def manifest_text(manifest: Manifest) -> str:
    """What bundle.json says."""
    return json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False)


def export_parts(model: Model) -> list[str]:
    """Names of the graphs a model needs: "decoder", then "vision" and "audio" where it has them."""
    there = {"decoder": True, "vision": model.vision is not None, "audio": model.audio is not None}
    return [part for part, needed in there.items() if needed]


def build_graphs(model: Model, recipe: Recipe, part: str, sink: WeightSink, planned: Planned | None = None) -> ir.Model:
    """Build one graph, its big weights going to the sink as they are read; a plan goes before the recipe."""
    weights = merged_weights(model, recipe)
    g = GraphBuilder(part, sink)
    if part == "decoder":
        level, method = recipe.accuracy_level, METHODS[recipe.method]
        linears = Precision(scheme=recipe.decoder_scheme, accuracy_level=level, quantizer=method)
        head = Precision(scheme=recipe.head_scheme, accuracy_level=level, quantizer=method)
        precision = DecoderPrecision(linears=linears, head=head, adapters=linears)
        if planned is not None:
            precision = DecoderPrecision(*(planned.precision(part, default) for default in (linears, head, linears)))
        build_decoder(g, weights, model.decoder, gated_adapters(model, recipe), precision)
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


def gated_adapters(model: Model, recipe: Recipe) -> tuple[Adapter, ...]:
    """The adapters that get a gate in the decoder."""
    return model.adapters if recipe.adapter_mode == "gated" else ()


def _decoder_spec(model: Model) -> DecoderSpec:
    decoder, spec = model.decoder, model.processor
    media = [part.token_id for part in (spec.image, spec.audio) if part is not None]
    if any(not 0 <= i < decoder.vocab_size for i in (*media, *spec.text.eos_ids)):
        raise CheckpointError(
            f"config.json: vocab_size is {decoder.vocab_size}, expected more than the special token ids"
            f" {sorted({*media, *spec.text.eos_ids})}"
        )
    return DecoderSpec(
        file=DECODER_FILE,
        vocab_size=decoder.vocab_size,
        hidden_size=decoder.hidden_size,
        num_layers=decoder.num_layers,
        num_heads=decoder.attention.num_heads,
        num_kv_heads=decoder.attention.num_kv_heads,
        head_size=decoder.attention.cache_head_size,
        context_length=decoder.context,
        original_context=model.original_context,
        sampled_never=tuple(media),
    )


def _vision_spec(model: Model) -> EncoderSpec | None:
    if model.vision is None:
        return None
    return EncoderSpec(file=VISION_FILE, bytes_per_item=siglip.activation_bytes(model.vision))


def _audio_spec(model: Model) -> EncoderSpec | None:
    if model.audio is None or model.processor.audio is None:
        return None
    size_bytes = conformer.activation_bytes(model.audio, model.processor.audio.window_steps)
    return EncoderSpec(file=AUDIO_FILE, bytes_per_item=size_bytes)


def _routes(model: Model, recipe: Recipe) -> dict[str, Route]:
    """The model's routes; without gates only the modes whose adapters are in the base, rather than wrong answers."""
    if recipe.adapter_mode == "gated":
        return model.routes
    return {
        mode: Route(adapters={}, audio_projector=route.audio_projector)
        for mode, route in model.routes.items()
        if route.adapters.keys() <= recipe.merge.keys()
    }


def _teller(progress: Callable[[Progress], None] | None, ram_bytes: int | None) -> Callable[[Progress], None] | None:
    """Passes progress on, and stops when the process has outgrown its limit after all."""
    if ram_bytes is None:
        return progress

    def tell(where: Progress) -> None:
        used = rss_bytes() or 0
        if used > ram_bytes:
            raise InputError(
                f"ram is {ram_bytes / 1e6:.0f} MB, but '{where.step}' needs {used / 1e6:.0f} MB; expected more"
            )
        if progress is not None:
            progress(where)

    return tell


def _step_teller(tell: Callable[[Progress], None] | None, total_bytes: int) -> Callable[[str], None] | None:
    """Tells what planning is at, before anything is counted."""
    return None if tell is None else lambda step: tell(Progress(step, 0, total_bytes, 0))


def _job(checkpoint: Checkpoint, recipe: Recipe, request: Request | None, planned: Planned | None) -> str:
    """The same for two exports that would write the same bytes: of this checkpoint, recipe, plan and exporter."""
    code = hashlib.sha256()
    for module in ("palmtop.export", "palmtop.quantize"):
        for root in importlib.import_module(module).__path__:
            for file in sorted(Path(root).rglob("*.py")):
                code.update(file.read_bytes())
    names: list[object] = [checkpoint.mark(), recipe.to_dict(), palmtop.__version__, code.hexdigest()]
    if planned is not None:
        samples = None if request is None else request.samples_mark()
        names.append([planned.plan.to_dict(), samples])
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:12]
