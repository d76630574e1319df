"""Export of a checkpoint in order: read, build graphs, quantise, write the bundle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import palmtop
from palmtop.errors import BundleError, CheckpointError, InputError
from palmtop.export.bundle.atomic_directory import journal_path, refuse_target, written_beside
from palmtop.export.bundle.bundle_writer import WriteJob, write_bundle
from palmtop.export.bundle.journal import Journal, code_sha256
from palmtop.export.bundle.manifest_builder import QUALITY_FILE, list_files, write_manifest
from palmtop.export.bundle.progress import Meter, Progress, step_teller, teller
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.graph.moe.mixture import MixtureOfExperts
from palmtop.export.providers.target_graphs import target_graphs
from palmtop.quantize.workers import Workers, plan_workers
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.bundle.option_checks import check_threads
from palmtop.runtime.memory.machine import rss_bytes

from .arch import Model, read_model
from .cost.estimate import Cost, estimate, refuse_full_disk
from .kv import cache_for, scale_bytes
from .recipe import CALIBRATED, Recipe

if TYPE_CHECKING:
    from palmtop.export.mixed_precision.allocation import BitAllocation, Planned
    from palmtop.export.mixed_precision.budget import Request


def export_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    overwrite: bool = False,
    verify: bool = False,
    request: Request | None = None,
    on_plan: Callable[[BitAllocation], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_target: Callable[[str], None] | None = None,
    on_cost: Callable[[Cost], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    ram_bytes: int | None = None,
    threads: int | None = None,
) -> Path:
    """Export a checkpoint to a bundle folder.

    Killed at any moment, it leaves no incomplete bundle; called again with the same arguments, it continues after the
    tensors that are already written.

    Args:
        source: folder with config.json, safetensors shards and tokenizer, or a GGUF file.
        target: path of the bundle; it appears whole or not at all.
        recipe: export options; None takes the defaults.
        overwrite: whether an existing bundle is replaced.
        verify: whether the bundle is compared with the checkpoint after writing; the numbers are kept in quality.json.
        request: size or loss to meet, plan to replay, samples to calibrate on (weights and KV cache).
        on_plan: called with the plan before anything is written.
        on_note: called with each sentence that a user must know about how the checkpoint was read (``Model.notes``).
        on_target: called with a sentence on the node placement of each set of graphs for another execution provider.
        on_cost: called with the estimated cost before anything is computed.
        progress: called after each read and each tensor.
        ram_bytes: memory limit of this process in bytes; None takes what is fastest (a few hundred MB).
        threads: number of threads; None takes every core.

    Returns:
        The path of the bundle.

    Raises:
        CheckpointError: the checkpoint lacks a part or contradicts itself.
        UnsupportedModelError: no architecture file for its model_type.
        InputError: the target exists, cannot be written or does not fit on its disk, the recipe names a missing
            adapter, or the memory limit is too low.
        RuntimeMissingError: the target's compiler is not installed.
        BundleError: the bundle is wrong by its verification; it is not kept.
    """
    check_threads(threads)
    checkpoint, model, recipe = _open(source, recipe or Recipe())
    if on_note is not None:
        is_planned = request is not None and (request.plan is not None or request.is_solved)
        grids = [] if is_planned else checkpoint.grid_notes(recipe.decoder_scheme, recipe.head_scheme)
        for note in (*model.notes, *grids):
            on_note(note)
    workers = plan_workers(ram_bytes, rss_bytes() or 0, threads)
    tell = teller(progress, ram_bytes)
    meter = Meter(checkpoint.size_bytes, tell)
    refuse_target(Path(target), overwrite=overwrite, keep=Path(source))  # before hours of planning
    refuse_full_disk(checkpoint, recipe, request, Path(target))
    if on_cost is not None:
        on_cost(estimate(checkpoint, model, recipe, request, target=Path(target), verify=verify, threads=threads))
    step = step_teller(tell, checkpoint.size_bytes)
    graphs = target_graphs(recipe, step)  # also before planning: the target's compiler may be missing
    with _planned(checkpoint, model, recipe, request, step, ram_bytes) as planned:
        if planned is not None and on_plan is not None:
            on_plan(planned.plan)
        if planned is not None and on_note is not None:
            for note in planned.notes:
                on_note(note)
        cache = None if planned is None else planned.cache
        if cache is None:
            cache = cache_for(checkpoint, model, recipe, None if request is None else request.samples, step)
        checkpoint.report_reads(meter.read)
        job = _job(checkpoint, recipe, request, planned)
        with written_beside(Path(target), overwrite=overwrite, keep=Path(source), job=job) as folder:
            making = WriteJob(workers=workers, meter=meter, journal=Journal(journal_path(folder)), target=graphs)
            manifest = write_bundle(folder, checkpoint, model, recipe, making, planned, cache)
            if graphs is not None and on_target is not None:
                for sentence in graphs.summary:
                    on_target(sentence)
            if verify:
                checkpoint.report_reads(None)
                _prove(folder, manifest, checkpoint, workers, ram_bytes, progress)
    return Path(target)


def make_plan(
    source: str | os.PathLike[str],
    recipe: Recipe,
    request: Request,
    report: Callable[[str], None] | None = None,
    ram_bytes: int | None = None,
    on_cost: Callable[[Cost], None] | None = None,
) -> BitAllocation:
    """Return the plan that an export with this request would follow; writes no bundle."""
    from palmtop.export.mixed_precision.prepare import prepared

    checkpoint, model, recipe = _open(source, recipe)
    if on_cost is not None:
        on_cost(estimate(checkpoint, model, recipe, request, target=None, verify=False))
    asked = request.leaving(scale_bytes(model, recipe.kv))
    with prepared(checkpoint, model, recipe, asked, report, ram_bytes) as planned:
        return planned.plan


def _open(source: str | os.PathLike[str], recipe: Recipe) -> tuple[Checkpoint, Model, Recipe]:
    """Return checkpoint, model, and the recipe with its context set.

    Raises:
        CheckpointError: as for reading, or an adapter of the recipe is missing.
    """
    checkpoint = open_checkpoint(source)
    model = read_model(checkpoint, recipe)
    recipe = recipe.with_context(model.decoder.max_tokens)
    if recipe.adapter_mode == "gated" and model.missing_adapters:
        name = model.missing_adapters[0]
        raise CheckpointError(
            f"{checkpoint.path}: has no {name} adapter, neither in its tensors nor in a folder '{name}-lora', expected"
            " the one that its encoder was trained with; --adapters none exports without"
        )
    networks = [layer.ffn for layer in model.decoder.layers if isinstance(layer.ffn, MixtureOfExperts)]
    if recipe.target == "qnn" and networks:
        raise InputError(
            f"target is 'qnn' for a model of {networks[0].experts} experts, expected no target: its graphs of fixed"
            " shapes would compute every expert for every token"
        )
    return checkpoint, model, recipe


@contextmanager
def _planned(
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    request: Request | None,
    report: Callable[[str], None] | None,
    ram_bytes: int | None,
) -> Iterator[Planned | None]:
    """Return the plan of an export that has one, or whose method needs statistics; otherwise None."""
    is_asked = request is not None and (request.plan is not None or request.is_solved)
    if not is_asked and recipe.method not in CALIBRATED:
        yield None
        return
    from palmtop.export.mixed_precision.budget import Request
    from palmtop.export.mixed_precision.prepare import prepared

    asked = (request or Request()).leaving(scale_bytes(model, recipe.kv))
    with prepared(checkpoint, model, recipe, asked, report, ram_bytes, with_cache=True) as planned:
        yield planned


def _prove(
    folder: Path,
    manifest: Manifest,
    checkpoint: Checkpoint,
    workers: Workers,
    ram_bytes: int | None,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Verify a bundle before it is moved into place, and store the measurements in it."""
    from .verify import verify

    def tell(step: str) -> None:
        if progress is not None:
            progress(Progress(step, checkpoint.size_bytes, checkpoint.size_bytes, len(checkpoint.names)))

    quality = verify(Bundle(folder, manifest), checkpoint, workers=workers, ram_bytes=ram_bytes, report=tell)
    if quality.verdict == "failed":
        failed = next(c for c in quality.checks if not c.passed and not c.is_loss)
        raise BundleError(f"the exported bundle failed its verification: {failed.name}: {failed.detail}")
    (folder / QUALITY_FILE).write_text(json.dumps(quality.to_dict(), indent=1), "utf-8")
    hashes = {name: spec.sha256 for name, spec in manifest.files.items()}
    write_manifest(folder, replace(manifest, files=list_files(folder, hashes)))


def _job(checkpoint: Checkpoint, recipe: Recipe, request: Request | None, planned: Planned | None) -> str:
    """Return a key that is equal for exports that write the same bytes: checkpoint, recipe, plan, exporter."""
    names: list[object] = [checkpoint.mark(), recipe.to_dict(), palmtop.__version__, code_sha256()]
    samples = None if request is None else request.samples_mark()
    if planned is not None:
        names.append([planned.plan.to_dict(), samples])
    if recipe.kv != 32:
        names.append(["kv", samples])
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:12]
