"""Verification: comparison of a bundle with its checkpoint, and of its adapters with their originals.

Six checks. Tensors: the stored tensors equal the checkpoint's, up to quantisation. Logits: the bundle's decoder agrees
with a float32 one on packaged questions of every mode. Rounding: with float activations the decoder computes what its
own stored weights give in the exporter's float graph. Adapters: each gate, under its name in the manifest, changes the
logits as that adapter changes the float model. Off: with every gate zero the logits equal, bit for bit, those of a
decoder without adapters. Blends: half of an adapter plus half of its twin equals the adapter. This exporter builds the
float32 model from the checkpoint, a layer at a time; tests, and ``independent``, compare its graphs with transformers.
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
from palmtop.export.bundle.bundle_writer import WriteJob
from palmtop.export.bundle.manifest_builder import expected_manifest
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.kv.stored_cache import stored_cache
from palmtop.export.measure.decoder_prompts import Question, SampleReader, chosen_questions
from palmtop.export.measure.divergence import Agreement, agreement
from palmtop.export.measure.float_reference import FloatReference, as_float
from palmtop.export.recipe import Recipe
from palmtop.export.verify.judging.graph_checks import compare_graphs
from palmtop.export.verify.judging.independent import Prompt, judge_reference, read_media, routed
from palmtop.export.verify.judging.independent import Reference as Independent
from palmtop.export.verify.judging.manifest_checks import same_manifest, wrong_checkpoint
from palmtop.export.verify.judging.tensor_checks import compare_tensors, judge_tensors
from palmtop.export.verify.judging.transformers_reference import transformers_reference
from palmtop.export.verify.judging.verdict import judge_modes
from palmtop.quantize.workers import Workers, plan_workers
from palmtop.runtime.bundle.opening import Bundle, open_bundle
from palmtop.runtime.memory.machine import available_memory, rss_bytes
from palmtop.runtime.processor import Processor

from . import adapters as proofs
from .adapters import Loras
from .baselines import neighbours, plain_rounding, weight_bytes
from .comparison import Decoders, Divergence, Reference, compared_answers, encoders_snr
from .greedy_answers import Compared, accuracy, most_divergent, worst
from .kv_loss import cache_loss, judge_cache
from .logits import Comparison, float_model, plain_decoder
from .page.media import thumbnails
from .quality import Check, Quality
from .questions import ask
from .rounded_weights import judge_rounded, rounded_decoder
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
        bundle: the opened bundle.
        checkpoint: the checkpoint that it should have been made from.
        items: number of packaged questions of each mode.
        answers: whether whole answers and other bundles of the checkpoint are compared too, for the report.
        report: called with a sentence on each step.
        loras: PEFT folders of added adapters, by name; one without a folder is not compared with its float original.
        workers: threads and blocks.
        ram_bytes: memory limit of this process; checks that do not fit are left out, and named.
        samples: file of JSON lines to ask instead of packaged questions.
        on_note: called with each sentence that a user must know about how the checkpoint was read (``Model.notes``).
        independent: whether the exporter's float graphs are compared with transformers as well.

    Returns:
        Checks and numbers; a bad bundle raises nothing, its checks fail.

    Raises:
        BundleError: a graph of the bundle cannot be loaded or lacks what its manifest names.
        CheckpointError: the checkpoint cannot be read.
        InputError: the checkpoint is of another model or not supported by transformers, or a sample does not fit it.
        RuntimeMissingError: transformers or torch is requested and not installed.
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
    other = None
    if independent:
        other = transformers_reference(checkpoint.path, model.architecture, _parameters(checkpoint))
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
    if reason := _not_comparable(graph_checks, tensors):
        return _summed_up(started, checks, tensors, kv_cache={}, skipped=(*skipped, reason))
    kv_cache: dict[str, Any] = {}
    if bundle.manifest.decoder.kv_bits != 32:
        tell("KV cache")
        loss = cache_loss(bundle, items, tell, samples)
        checks += judge_cache(loss)
        kv_cache = loss.to_dict()
    with tempfile.TemporaryDirectory(prefix="palmtop-verify-") as temporary:
        folder = Path(temporary)
        tell("float reference")
        own, as_gated = float_model(model, recipe, loras, bundle)
        reference = FloatReference(folder / "float", checkpoint, own, as_gated, workers=workers, laid_open=False)
        common = [mode for mode in bundle.manifest.modes if mode in reference.manifest.routes]
        questions = [question for question in questions if question[0] in common]
        asked, is_limited = ask(bundle, reference, questions, _parameters(checkpoint), tell)
        if is_limited:
            count = len(asked) / max(1, len({each.mode for each in asked}))
            skipped += (f"logits: of the large model {count:.2g} questions of each mode were compared",)
        logits = Comparison(bundle, reference, asked, is_limited=is_limited)
        plain = plain_decoder(bundle, model, recipe, workers) if bundle.manifest.adapters else None
        logits.run(plain, tell)
        modes = {mode: _mode_agreement(logits, mode) for mode in dict.fromkeys(each.mode for each in asked)}
        losses = logits.losses()
        rounded = partial(_plain_losses, folder / "rounded", checkpoint, model, recipe, logits, workers, tell)
        checks += judge_modes(modes, losses, recipe, rounded)
        if min(recipe.bits, recipe.bits_of_head) < 32:
            checks += _as_rounded(bundle, model, recipe, workers, logits, tell)
        if other is not None:
            tell("transformers")
            checks += _against_reference(other, bundle, recipe, questions, logits)
        adapters = {a.name: proofs.measure(logits, a.name) for a in bundle.manifest.adapters}
        on_own_base: dict[str, dict[str, float]] = {}
        if (doubtful := proofs.doubtful(adapters)) and min(recipe.bits, recipe.bits_of_head) < 32:
            graph, gates = rounded_decoder(bundle, own, as_gated, workers, float_adapters=True)
            both = logits.effects(graph, gates, doubtful, tell)
            on_own_base = {name: proofs.measure(logits, name, both) for name in doubtful}
            for name, numbers in on_own_base.items():
                adapters[name] |= {f"{key}_on_rounded_base": value for key, value in numbers.items()}
        checks += proofs.judge(adapters | on_own_base)
        checks += proofs.off_is_base(logits)
        checks += proofs.blending(logits)
        compared: list[Compared] = []
        others: list[dict[str, Any]] = []
        if answers and (reason := _too_large(checkpoint, ram_bytes)):
            skipped += (reason,)
        elif answers:
            compared, others = _whole_answers(
                folder, checkpoint, model, recipe, bundle, workers, loras, questions, tell
            )
    return replace(
        _summed_up(started, checks, tensors, modes=modes, adapters=adapters, kv_cache=kv_cache, skipped=skipped),
        encoders=encoders_snr([each.pair for each in asked]),
        losses=losses,
        weight_bytes=weight_bytes(bundle.path),
        accuracy=accuracy(compared),
        worst=worst(compared),
        media=[thumbnails(each.messages) for each in most_divergent(compared)],
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
    """Reason why a float32 model does not fit on this machine together with the bundle; None if it fits."""
    needed = 2 * 4 * sum(int(np.prod(checkpoint.shape(n) or ())) for n in checkpoint.names)  # mapped and prepacked
    free = available_memory()
    if ram_bytes is not None:
        left = max(0, ram_bytes - (rss_bytes() or 0))
        free = left if free is None else min(free, left)
    if free is None or needed <= free:
        return None
    return (
        f"whole answers: two decoders need about {needed / 1e9:.1f} GB, there are {free / 1e9:.1f} GB left;"
        " logits were compared"
    )


def _not_comparable(graphs: list[Check], tensors: dict[str, Likeness]) -> str | None:
    """Reason why the bundle is not run: a failed check of a graph or a tensor's shape, with which kernels may crash."""
    if wrong := [check for check in graphs if not check.passed]:
        return f"logits and adapters: '{wrong[0].name}' failed, so the bundle was not run"
    missing = [name for name, likeness in tensors.items() if likeness is MISSING]
    if not missing:
        return None
    return f"logits and adapters: {len(missing)} stored tensors are missing or of another shape, such as '{missing[0]}'"


def _parameters(checkpoint: Checkpoint) -> int:
    return sum(int(np.prod(checkpoint.shape(name) or ())) for name in checkpoint.names)


def _plain_losses(
    folder: Path,
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    logits: Comparison,
    workers: Workers,
    tell: Report,
) -> dict[str, float]:
    """KL by mode of plain rounding to 4 bits in groups of 32, with activations in float32."""
    rounded = plain_rounding(recipe)
    other = FloatReference(folder, checkpoint, model, rounded, workers=workers, laid_open=False, is_quantized=True)
    return logits.loss_of(other, tell)


def _as_rounded(
    bundle: Bundle, model: Model, recipe: Recipe, workers: Workers, logits: Comparison, tell: Report
) -> list[Check]:
    """Whether the bundle's decoder computes what its own stored weights give in the exporter's float graph."""
    graph, manifest = rounded_decoder(bundle, model, recipe, workers)
    expected = logits.of_graph(graph, manifest, tell, "rounded weights")
    found = [logits.float_activations(place) for place in range(len(logits.asked))]
    return judge_rounded([asked.mode for asked in logits.asked], expected, found)


def _against_reference(
    other: Independent, bundle: Bundle, recipe: Recipe, questions: list[Question], logits: Comparison
) -> list[Check]:
    """The float graphs' logits beside those of an independent implementation, which reads the media itself."""
    processor = Processor(bundle.manifest.processor, bundle.path)
    messages = {mode: iter([m for other_mode, m, _ in questions if other_mode == mode]) for mode, _, _ in questions}
    pairs = []
    for place, asked in enumerate(logits.asked):  # of each mode the first questions, in order
        own = asked.pair[0]
        prompt = Prompt(
            mode=asked.mode,
            ids=own.input_ids,
            tokens=asked.tokens,
            places=own.media_places,
            media=read_media(processor, next(messages[asked.mode])),
        )
        is_gated = recipe.adapter_mode == "gated" and bool(bundle.manifest.adapters)
        weights = routed(asked.mode, recipe.merge, is_gated=is_gated)
        pairs.append((prompt, weights, logits.exact(place, logits.weights_of(asked.mode))))
    return judge_reference(other, pairs)


def _mode_agreement(logits: Comparison, mode: str) -> Agreement:
    places, weights = logits.places(mode), logits.weights_of(mode)
    return agreement(
        np.concatenate([logits.exact(place, weights) for place in places]),
        np.concatenate([logits.found(place, weights) for place in places]),
    )


def _whole_answers(
    folder: Path,
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    bundle: Bundle,
    workers: Workers,
    loras: Loras,
    questions: list[Question],
    tell: Report,
) -> tuple[list[Compared], list[dict[str, Any]]]:
    """Compare whole answers of both models and other bundles, with decoders that are loaded whole."""
    from palmtop.export.bundle.bundle_writer import write_bundle

    tell("answers")
    place = folder / "whole"
    place.mkdir()
    write_bundle(place, checkpoint, model, as_float(recipe))
    for name, path in loras.items():
        add_adapter(place, path, name)
    reference = Reference(place, open_bundle(place, hashes=False).manifest)
    decoders = Decoders(bundle, reference)
    readers = SampleReader(place, reference.float_manifest), SampleReader(bundle.path, bundle.manifest)
    pairs = [(readers[0].read(mode, m), readers[1].read(mode, m)) for mode, m, _ in questions]
    compared = [
        compared_answers(decoders, readers[0], pair, question) for pair, question in zip(pairs, questions, strict=True)
    ]
    tell("neighbours")
    divergence = Divergence(decoders, questions, pairs)
    return compared, neighbours(folder, checkpoint, model, recipe, divergence, WriteJob(workers=workers))
