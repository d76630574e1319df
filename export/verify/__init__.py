"""Nothing is believed: compare a bundle with the checkpoint it was made of, and its adapters with themselves.

Five proofs. Tensors: what the bundle stores is what the checkpoint holds, up to quantisation. Logits: the
bundle's decoder agrees with a float32 one on packaged questions of every mode. Adapters: each gate, under the
name the manifest gives it, changes the logits the way that adapter changes the float model. Off: with every
gate zero the logits equal, bit for bit, those of a bundle that was exported without adapters.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from palmtop.errors import InputError
from palmtop.export.adapters.install import add_adapter
from palmtop.export.arch import Model, read_model
from palmtop.export.bundle.bundle_writer import Making
from palmtop.export.bundle.manifest_builder import PLAN_FILE, expected_manifest
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.kv.stored_cache import stored_cache
from palmtop.export.measure.decoder_prompts import Question, SampleReader, chosen_questions
from palmtop.export.measure.divergence import Agreement, agreement
from palmtop.export.mixed_precision.allocation import Planned
from palmtop.export.recipe import Recipe
from palmtop.export.verify.judging.graph_checks import compare_graphs
from palmtop.export.verify.judging.manifest_checks import same_manifest, wrong_checkpoint
from palmtop.export.verify.judging.tensor_checks import compare_tensors, judge_tensors
from palmtop.export.verify.judging.transformers_reference import TransformersReference, judge_reference
from palmtop.export.verify.judging.verdict import judge_modes
from palmtop.quantize.workers import Workers, plan_workers
from palmtop.runtime.bundle.opening import Bundle, open_bundle
from palmtop.runtime.memory.machine import available_memory, rss_bytes

from . import adapters as proofs
from .adapters import Loras
from .baselines import neighbours, plain_bundle, weight_bytes
from .comparison import Decoders, Divergence, Pair, Reference, compared_answers, encoders_snr
from .greedy_answers import accuracy, worst
from .kv_loss import cache_loss, judge_cache
from .quality import Check, Quality
from .stored_precision import AsStored
from .tensors import MISSING, Likeness

Report = Callable[[str], None]


def verify(
    bundle: Bundle,
    checkpoint: Checkpoint,
    *,
    items: int = 4,
    answers: bool = False,
    report: Report | None = None,
    loras: Loras | None = None,
    workers: Workers | None = None,
    ram_bytes: int | None = None,
    samples: Path | None = None,
    independent: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> Quality:
    """Compare a bundle with its checkpoint.

    Args:
        bundle: an open bundle.
        checkpoint: what it should have been made of.
        items: packaged questions of each mode.
        answers: compare whole answers and other bundles of the checkpoint too, for a page to read.
        report: told what is being done.
        loras: PEFT folders of adapters that were added, by name; one without folder is not compared with its float
            original.
        workers: threads and blocks.
        ram_bytes: limit for the memory of this process; what does not fit is left out, and named.
        samples: lines of JSON to ask in place of packaged questions.
        on_note: given each sentence that a user must know of how the checkpoint was read (``Model.notes``).
        independent: hold the float graphs, which this exporter builds, against transformers as well.

    Returns:
        Checks and numbers; nothing is raised for a bad bundle, its checks fail.

    Raises:
        BundleError: a graph of the bundle cannot be loaded or lacks what its manifest names.
        CheckpointError: the checkpoint cannot be read.
        InputError: the checkpoint is another model's or none that transformers runs, or a sample does not fit it.
        RuntimeMissingError: transformers or torch is wanted and not installed.
    """
    started = time.perf_counter()
    tell = report or (lambda _: None)
    recipe = Recipe.from_dict(bundle.manifest.recipe)
    model = read_model(checkpoint, recipe)
    if on_note is not None:
        for note in model.notes:
            on_note(note)
    workers = workers or plan_workers(ram_bytes, rss_bytes() or 0)
    expected = expected_manifest(checkpoint, model, recipe, workers)
    if foreign := wrong_checkpoint(bundle.manifest, expected):
        raise InputError(f"{bundle.path}: {foreign}, expected the checkpoint {checkpoint.path} to be its source")
    questions = chosen_questions(bundle, items, samples)
    other = TransformersReference(checkpoint.path, model.architecture) if independent else None
    checks = same_manifest(bundle, checkpoint, model, expected)
    cache = stored_cache(bundle.file(bundle.manifest.decoder.file), bundle.manifest.decoder)
    graph_checks, other_version = compare_graphs(bundle, model, recipe, cache)
    checks += graph_checks
    loras = loras or {}
    unknown = proofs.added_without_source(bundle.manifest, loras)
    checks += proofs.names(bundle.manifest, proofs.given_adapters(model, loras), unknown)
    checks += proofs.gate_wiring(bundle)
    tell("tensors")
    tensors = compare_tensors(bundle, model, recipe, workers) | proofs.compare_added(bundle, loras)
    checks += judge_tensors(tensors)
    skipped: tuple[str, ...] = tuple(
        f"adapter {name}: was added; to compare it with its original name the folder: --lora {name}=PEFT_FOLDER"
        for name in unknown
    ) + tuple(other_version)
    kv_cache: dict[str, Any] = {}
    if bundle.manifest.decoder.kv_bits != 32:
        tell("KV cache")
        loss, shortened = cache_loss(bundle, items, tell, ram_bytes)
        checks += judge_cache(loss) if loss else []
        kv_cache, skipped = loss.to_dict() if loss else {}, (*skipped, *filter(None, [shortened]))
    if reason := _not_comparable(graph_checks, tensors) or _too_large(checkpoint, ram_bytes):
        return _summed_up(started, checks, tensors, kv_cache=kv_cache, skipped=(*skipped, reason))
    with tempfile.TemporaryDirectory(prefix="palmtop-verify-") as temporary:
        tell("float reference")
        reference = _make_reference(Path(temporary), checkpoint, model, recipe, loras, bundle, workers)
        tell("logits")
        decoders = Decoders(bundle, reference)
        readers = _readers(bundle, reference)
        questions = [q for q in questions if q[0] in _common(bundle, reference)]
        pairs = [(readers[0].read(mode, m), readers[1].read(mode, m)) for mode, m, _ in questions]
        modes = {
            m: _mode_agreement(decoders, m, [p for p in pairs if p[0].mode == m])
            for m in dict.fromkeys(exact.mode for exact, _ in pairs)
        }
        if other is not None:
            tell("transformers")
            prompts = [(pair[0].input_ids, decoders.answer(pair[0], {})) for pair in pairs]
            gates = decoders.gates(decoders.float_manifest, {})
            logits = [decoders.exact.logits(p[0], gates, t[1]) for p, t in zip(pairs, prompts, strict=True)]
            checks.append(judge_reference(other, prompts, logits))
        losses = decoders.losses(pairs)
        checks += judge_modes(
            modes,
            losses,
            recipe,
            partial(_plain_losses, Path(temporary), checkpoint, model, recipe, decoders, questions, pairs),
        )
        tell("adapters")
        adapters = {a.name: proofs.measure(decoders, a.name, pairs) for a in bundle.manifest.adapters}
        checks += proofs.judge(adapters)
        checks += proofs.off_is_base(decoders, pairs)
        compared, others = [], []
        if answers:
            tell("answers")
            compared = [
                compared_answers(decoders, readers[0], p, question)
                for p, question in zip(pairs, questions, strict=True)
            ]
            tell("neighbours")
            divergence = Divergence(decoders, questions, pairs)
            others = neighbours(Path(temporary), checkpoint, model, recipe, divergence, Making(workers=workers))
            del divergence
        del decoders  # before more of them are loaded
        tell("blends")
        checks += proofs.blending(bundle, Bundle(reference.float_folder, reference.float_manifest), pairs)
    return replace(
        _summed_up(started, checks, tensors, modes=modes, adapters=adapters, kv_cache=kv_cache, skipped=skipped),
        encoders=encoders_snr(pairs),
        losses=losses,
        weight_bytes=weight_bytes(bundle.path),
        accuracy=accuracy(compared),
        worst=worst(compared),
        neighbours=others,
    )


def _summed_up(
    started: float,
    checks: list[Check],
    tensors: dict[str, Likeness],
    *,
    modes: dict[str, Agreement] | None = None,
    adapters: dict[str, dict[str, float]] | None = None,
    kv_cache: dict[str, Any],
    skipped: tuple[str, ...] = (),
) -> Quality:
    return Quality(
        checks=tuple(checks),
        modes=modes or {},
        adapters=adapters or {},
        tensors={k: {"snr_db": round(v.snr_db, 2), "bits": v.bits} for k, v in tensors.items()},
        kv_cache=kv_cache,
        skipped=skipped,
        seconds=round(time.perf_counter() - started, 2),
    )


def _too_large(checkpoint: Checkpoint, ram_bytes: int | None) -> str | None:
    """Why a float32 model cannot stand beside the bundle on this machine, or None when it can."""
    needed = 2 * 4 * sum(int(np.prod(checkpoint.shape(n) or ())) for n in checkpoint.names)  # mapped and prepacked
    free = available_memory()
    if ram_bytes is not None:
        left = max(0, ram_bytes - (rss_bytes() or 0))
        free = left if free is None else min(free, left)
    if free is None or needed <= free:
        return None
    return (
        f"logits and adapters: a float32 reference needs about {needed / 1e9:.1f} GB, there are"
        f" {free / 1e9:.1f} GB left; tensors were compared"
    )


def _not_comparable(graphs: list[Check], tensors: dict[str, Likeness]) -> str | None:
    """Why the bundle is not run: a graph or a tensor's shape is wrong, as its check says; kernels may even crash."""
    if wrong := [check for check in graphs if not check.passed]:
        return f"logits and adapters: '{wrong[0].name}' failed, so the bundle was not run"
    missing = [name for name, likeness in tensors.items() if likeness is MISSING]
    if not missing:
        return None
    return f"logits and adapters: {len(missing)} stored tensors are missing or of another shape, such as '{missing[0]}'"


def _plain_losses(
    folder: Path,
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    decoders: Decoders,
    questions: list[Question],
    pairs: list[Pair],
) -> dict[str, float]:
    """KL by mode of plain rounding to 4 bits in groups of 32, its activations in float32."""
    manifest, place = plain_bundle(folder, checkpoint, model, recipe)
    return Divergence(decoders, questions, pairs).by_mode(place, manifest)


def _planned(bundle: Bundle) -> Planned | None:
    """The bundle's codes where another export would need its plan, statistics and all, to come to the same."""
    return AsStored(bundle.path) if PLAN_FILE in bundle.manifest.files else None


def _make_reference(
    folder: Path,
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    loras: Loras,
    bundle: Bundle,
    workers: Workers,
) -> Reference:
    from palmtop.export.bundle.bundle_writer import write_bundle

    planned, decoder = _planned(bundle), bundle.manifest.decoder
    cache = stored_cache(bundle.file(decoder.file), decoder)

    float_folder, plain_folder = folder / "float", folder / "plain"
    for each in (float_folder, plain_folder):
        each.mkdir()
    recipe = replace(recipe, target=None, soc=None)  # what is compared runs on the CPU
    as_float = replace(recipe, bits=32, head_bits=None, encoder_bits=None, kv=32)
    write_bundle(float_folder, checkpoint, model, as_float)
    for name, path in loras.items():
        add_adapter(float_folder, path, name)
    float_manifest = open_bundle(float_folder, hashes=False).manifest
    plain = replace(recipe, adapters="none") if recipe.adapter_mode == "gated" else recipe
    plain_manifest = write_bundle(plain_folder, checkpoint, model, plain, Making(workers=workers), planned, cache)
    return Reference(float_folder, float_manifest, plain_folder, plain_manifest)


def _readers(bundle: Bundle, reference: Reference) -> tuple[SampleReader, SampleReader]:
    """Of questions, with the float encoders and with the bundle's."""
    exact = SampleReader(reference.float_folder, reference.float_manifest)
    return exact, SampleReader(bundle.path, bundle.manifest)


def _common(bundle: Bundle, reference: Reference) -> list[str]:
    """Modes that both serve; other differences of the routes are a check of their own."""
    return [mode for mode in bundle.manifest.modes if mode in reference.float_manifest.routes]


def _mode_agreement(decoders: Decoders, mode: str, pairs: list[Pair]) -> Agreement:
    weights = decoders.float_manifest.routes[mode].adapters if decoders.manifest.adapters else {}
    exact, found = [], []
    for pair in pairs:
        tokens = decoders.answer(pair[0], weights)
        e, f = decoders.both(pair, weights, tokens)
        exact.append(e)
        found.append(f)
    return agreement(np.concatenate(exact), np.concatenate(found))
