"""Nothing is believed: compare a bundle with the checkpoint it was made of, and its adapters with themselves.

Four proofs. Tensors: what the bundle stores is what the checkpoint holds, up to quantisation. Logits: the
bundle's decoder agrees with a float32 one on packaged questions of every mode. Adapters: each gate, under the
name the manifest gives it, changes the logits the way that adapter changes the float model. Off: with every
gate zero the logits equal, bit for bit, those of a bundle that was exported without adapters.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from palmtop.export.arch import Model, find
from palmtop.export.checkpoint import Checkpoint
from palmtop.export.convert import PLAN_FILE, build_graphs, expected_manifest, export_parts
from palmtop.export.plan import Planned
from palmtop.export.recipe import Recipe
from palmtop.export.tokenizer_files import CHAT_TEMPLATE_FILE
from palmtop.runtime.bundle import Bundle
from palmtop.runtime.machine import available_memory
from palmtop.runtime.manifest import Manifest

from .answers import accuracy, worst
from .decoders import STEPS, Decoders, Divergence, Question, Reference, compared_answers, encoders_snr
from .neighbours import neighbours, weight_bytes
from .probe import ProbeInput
from .quality import Agreement, Check, Quality, agreement, cosine, kl, snr_db
from .samples import SampleReader, packaged_messages
from .stored import AsStored
from .tensors import ComparingSink, Likeness

MIN_TENSOR_SNR_DB = {2: 5.0, 4: 12.0, 8: 30.0, 32: 120.0}  # a halved tensor has 6 dB, a foreign one about 0
MIN_EFFECT_COSINE = 0.6  # of the change of logits, against the float model's; measured 0.9 and more at 4 bits
EFFECT_RATIO = (0.7, 1.4)  # of its size
MAX_LOGIT_SHARE = {4: 0.5, 8: 0.2, 32: 1e-3}  # largest difference of a logit, of the range

Report = Callable[[str], None]


def verify(
    bundle: Bundle,
    checkpoint: Checkpoint,
    *,
    items: int = 4,
    answers: bool = False,
    report: Report | None = None,
) -> Quality:
    """Compare a bundle with its checkpoint.

    Args:
        bundle: an open bundle.
        checkpoint: what it should have been made of.
        items: packaged questions of each mode.
        answers: compare whole answers and other bundles of the checkpoint too, for a page to read.
        report: told what is being done.

    Returns:
        Checks and numbers; nothing is raised for a bad bundle, its checks fail.

    Raises:
        BundleError: a graph of the bundle cannot be loaded or lacks what its manifest names.
        CheckpointError: the checkpoint cannot be read.
    """
    started = time.perf_counter()
    tell = report or (lambda _: None)
    recipe = Recipe.from_dict(bundle.manifest.recipe)
    model = find(str(checkpoint.config.get("model_type"))).read_model(checkpoint, recipe.context)
    checks = _same_manifest(bundle, checkpoint, model, recipe)
    checks += _names(bundle.manifest, model)
    checks += _gate_wiring(bundle)
    tell("tensors")
    tensors = _compare_tensors(bundle, model, recipe)
    checks += _judge_tensors(tensors)
    if reason := _too_large(checkpoint):
        return _summed_up(started, checks, tensors, skipped=(reason,))
    with tempfile.TemporaryDirectory(prefix="palmtop-verify-") as temporary:
        tell("float reference")
        reference = _make_reference(Path(temporary), checkpoint, model, recipe, _planned(bundle))
        tell("logits")
        decoders = Decoders(bundle, reference)
        questions, readers = _questions(bundle, reference, items)
        pairs = [(readers[0].read(mode, m), readers[1].read(mode, m)) for mode, m, _ in questions]
        modes = {
            m: _mode_agreement(decoders, m, [p for p in pairs if p[0].mode == m]) for m in _common(bundle, reference)
        }
        checks += _judge_modes(modes, recipe)
        tell("adapters")
        adapters = {a.name: _adapter_effect(decoders, a.name, pairs) for a in bundle.manifest.adapters}
        checks += _judge_adapters(adapters)
        checks += _off_is_base(decoders, pairs)
        quality = _summed_up(started, checks, tensors, modes=modes, adapters=adapters)
        quality = replace(quality, encoders=encoders_snr(pairs), weight_bytes=weight_bytes(bundle.path))
        if not answers:
            return quality
        tell("answers")
        compared = [
            compared_answers(decoders, readers[0], p, question) for p, question in zip(pairs, questions, strict=True)
        ]
        tell("neighbours")
        others = neighbours(Path(temporary), checkpoint, model, recipe, Divergence(decoders, questions, pairs))
        seconds = round(time.perf_counter() - started, 2)
        return replace(quality, accuracy=accuracy(compared), worst=worst(compared), neighbours=others, seconds=seconds)


def _summed_up(
    started: float,
    checks: list[Check],
    tensors: dict[str, Likeness],
    *,
    modes: dict[str, Agreement] | None = None,
    adapters: dict[str, dict[str, float]] | None = None,
    skipped: tuple[str, ...] = (),
) -> Quality:
    return Quality(
        checks=tuple(checks),
        modes=modes or {},
        adapters=adapters or {},
        tensors={k: {"snr_db": round(v.snr_db, 2), "bits": v.bits} for k, v in tensors.items()},
        skipped=skipped,
        seconds=round(time.perf_counter() - started, 2),
    )


def _too_large(checkpoint: Checkpoint) -> str | None:
    """Why a float32 model cannot stand beside the bundle on this machine, or None when it can."""
    needed = 2 * 4 * sum(int(np.prod(checkpoint.shape(n) or ())) for n in checkpoint.names)  # mapped and prepacked
    free = available_memory()
    if free is None or needed <= free:
        return None
    return (
        f"logits and adapters: a float32 reference needs about {needed / 1e9:.1f} GB, this machine has"
        f" {free / 1e9:.1f} GB left; tensors were compared"
    )


def _names(manifest: Manifest, model: Model) -> list[Check]:
    """The manifest's adapters are the checkpoint's, with their rank and alpha."""
    checks = []
    there = {a.name: a for a in model.adapters}
    for spec in manifest.adapters:
        adapter = there.get(spec.name)
        same = adapter is not None and (adapter.rank, adapter.alpha) == (spec.rank, spec.alpha)
        expected = "none" if adapter is None else f"rank {adapter.rank}, alpha {adapter.alpha:g}"
        checks.append(
            Check(
                name=f"adapter {spec.name}: rank and alpha",
                passed=same,
                value=float(spec.rank),
                limit=float(adapter.rank) if adapter else 0.0,
                detail=f"bundle has rank {spec.rank}, alpha {spec.alpha:g}; checkpoint has {expected}",
            )
        )
    return checks


def _same_manifest(bundle: Bundle, checkpoint: Checkpoint, model: Model, recipe: Recipe) -> list[Check]:
    """What the manifest says beside weights is what this checkpoint and recipe give."""
    manifest = bundle.manifest
    expected = expected_manifest(checkpoint, model, recipe)
    template = bundle.file(CHAT_TEMPLATE_FILE).read_text("utf-8")
    pairs: dict[str, tuple[object, object]] = {
        "routes": (manifest.routes, expected.routes),
        "processor": (manifest.processor, expected.processor),
        "decoder": (manifest.decoder, expected.decoder),
        "source hash": (manifest.source_sha256, expected.source_sha256),
        "chat template": (template, model.chat_template),
    }
    return [
        Check(
            name=f"manifest: {name}",
            passed=found == wanted,
            value=float(found == wanted),
            limit=1.0,
            detail="as the checkpoint says" if found == wanted else f"found {found!s:.200}, expected {wanted!s:.200}",
        )
        for name, (found, wanted) in pairs.items()
    ]


def _gate_wiring(bundle: Bundle) -> list[Check]:
    """The graph slices each adapter's gate at the index that the manifest gives it."""
    graph = ir.load(bundle.file(bundle.manifest.decoder.file)).graph
    starts = {n.name: n.inputs[1] for n in graph if n.op_type == "Slice" and (n.name or "").startswith("gates/")}
    checks = []
    for adapter in bundle.manifest.adapters:
        start = starts.get(f"gates/{adapter.name}")
        index = -1 if start is None or start.const_value is None else int(start.const_value.numpy()[0])
        checks.append(
            Check(
                name=f"adapter {adapter.name}: gate",
                passed=index == adapter.gate,
                value=float(index),
                limit=float(adapter.gate),
                detail=f"the graph reads gate {index}, the manifest says {adapter.gate}",
            )
        )
    return checks


def _compare_tensors(bundle: Bundle, model: Model, recipe: Recipe) -> dict[str, Likeness]:
    """By stored tensor, over all three graphs."""
    found: dict[str, Likeness] = {}
    as_float = replace(recipe, bits=32, head_bits=None, encoder_bits=None)
    for part in export_parts(model):
        sink = ComparingSink(bundle.file(f"{part}.onnx"))
        build_graphs(model, as_float, part, sink)
        found |= {f"{part}: {name}": likeness for name, likeness in sink.found.items()}
    return found


def _judge_tensors(tensors: dict[str, Likeness]) -> list[Check]:
    """One check a group of tensors, naming the one that is furthest below what its bits allow."""
    groups: dict[str, list[tuple[float, str, Likeness]]] = {}
    for name, likeness in tensors.items():
        part, tensor = name.split(": ", 1)
        adapter = tensor.rsplit(".", 1)[-1] if ".lora_" in tensor else None
        margin = likeness.snr_db - MIN_TENSOR_SNR_DB[likeness.bits]
        groups.setdefault(f"adapter {adapter}" if adapter else part, []).append((margin, tensor, likeness))
    checks = []
    for group, values in groups.items():
        margin, tensor, worst = min(values, key=lambda v: v[0])
        checks.append(
            Check(
                name=f"{group}: stored tensors",
                passed=margin >= 0,
                value=round(worst.snr_db, 2),
                limit=MIN_TENSOR_SNR_DB[worst.bits],
                detail=f"least exact of {len(values)} tensors is '{tensor}' with {worst.snr_db:.1f} dB"
                f" at {worst.bits} bits",
            )
        )
    return checks


def _planned(bundle: Bundle) -> Planned | None:
    """The bundle's codes where another export would need its plan, statistics and all, to come to the same."""
    return AsStored(bundle.path) if PLAN_FILE in bundle.manifest.files else None


def _make_reference(
    folder: Path, checkpoint: Checkpoint, model: Model, recipe: Recipe, planned: Planned | None
) -> Reference:
    from palmtop.export.convert import write_bundle

    float_folder, plain_folder = folder / "float", folder / "plain"
    for each in (float_folder, plain_folder):
        each.mkdir()
    as_float = replace(recipe, bits=32, head_bits=None, encoder_bits=None)
    float_manifest = write_bundle(float_folder, checkpoint, model, as_float)
    plain = replace(recipe, adapters="none") if recipe.adapter_mode == "gated" else recipe
    plain_manifest = write_bundle(plain_folder, checkpoint, model, plain, planned)
    return Reference(float_folder, float_manifest, plain_folder, plain_manifest)


def _questions(
    bundle: Bundle, reference: Reference, items: int
) -> tuple[list[Question], tuple[SampleReader, SampleReader]]:
    """Packaged questions, and readers of them with the float encoders and with the bundle's."""
    exact = SampleReader(reference.float_folder, reference.float_manifest)
    found = SampleReader(bundle.path, bundle.manifest)
    return list(packaged_messages(_common(bundle, reference), items)), (exact, found)


def _common(bundle: Bundle, reference: Reference) -> list[str]:
    """Modes that both serve; other differences of the routes are a check of their own."""
    return [mode for mode in bundle.manifest.modes if mode in reference.float_manifest.routes]


def _mode_agreement(decoders: Decoders, mode: str, pairs: list[tuple[ProbeInput, ProbeInput]]) -> Agreement:
    weights = decoders.float_manifest.routes[mode].adapters if decoders.manifest.adapters else {}
    exact, found = [], []
    for pair in pairs:
        tokens = decoders.exact.greedy(pair[0], decoders.gates(decoders.float_manifest, weights), STEPS)
        e, f = decoders.both(pair, weights, tokens)
        exact.append(e)
        found.append(f)
    return agreement(np.concatenate(exact), np.concatenate(found))


def _judge_modes(modes: dict[str, Agreement], recipe: Recipe) -> list[Check]:
    limit = MAX_LOGIT_SHARE[min(recipe.bits, recipe.bits_of_head, recipe.bits_of_encoders)]
    return [
        Check(
            name=f"{mode}: logits",
            passed=bool(a.max_abs <= limit),  # false for NaN
            value=round(a.max_abs, 6),
            limit=limit,
            detail=f"KL {a.mean_kl:.4f} nats, {a.top1:.0%} same top token over {a.positions} positions;"
            f" largest difference is {a.max_abs:.2%} of the logit range",
        )
        for mode, a in modes.items()
    ]


def _adapter_effect(decoders: Decoders, name: str, pairs: list[tuple[ProbeInput, ProbeInput]]) -> dict[str, float]:
    """How the adapter changes the logits, against how it changes the float model's."""
    exact_changes, found_changes, effect, match = [], [], [], []
    for pair in pairs:
        tokens = decoders.exact.greedy(pair[0], decoders.gates(decoders.float_manifest, {}), 2)
        exact_off, found_off = decoders.both(pair, {}, tokens)
        exact_on, found_on = decoders.both(pair, {name: 1.0}, tokens)
        exact_changes.append(exact_on - exact_off)
        found_changes.append(found_on - found_off)
        effect.append(kl(exact_on, exact_off))
        match.append(kl(exact_on, found_on))
    exact, found = np.concatenate(exact_changes), np.concatenate(found_changes)
    size = float(np.linalg.norm(exact))
    return {
        "effect_kl": float(np.concatenate(effect).mean()),
        "match_kl": float(np.concatenate(match).mean()),
        "cosine": cosine(exact, found),
        "ratio": float(np.linalg.norm(found)) / size if size > 0 else 0.0,
        "snr_db": snr_db(exact, found),
    }


def _judge_adapters(adapters: dict[str, dict[str, float]]) -> list[Check]:
    checks = []
    low, high = EFFECT_RATIO
    for name, numbers in adapters.items():
        checks.append(
            Check(
                name=f"adapter {name}: changes the logits as in the checkpoint",
                passed=numbers["cosine"] >= MIN_EFFECT_COSINE,
                value=round(numbers["cosine"], 4),
                limit=MIN_EFFECT_COSINE,
                detail=f"cosine of the change is {numbers['cosine']:.3f};"
                f" base to adapter is KL {numbers['effect_kl']:.3f}, adapter to bundle KL {numbers['match_kl']:.3f}",
            )
        )
        checks.append(
            Check(
                name=f"adapter {name}: as strong as in the checkpoint",
                passed=low <= numbers["ratio"] <= high,
                value=round(numbers["ratio"], 4),
                limit=high if numbers["ratio"] > 1 else low,
                detail=f"the change is {numbers['ratio']:.2f} times the checkpoint's, expected {low} to {high}",
            )
        )
    return checks


def _off_is_base(decoders: Decoders, pairs: list[tuple[ProbeInput, ProbeInput]]) -> list[Check]:
    if not decoders.manifest.adapters:
        return []
    worst = 0.0
    for _, found in pairs:
        tokens = np.arange(3, dtype=np.int64)
        off = decoders.found.logits(found, decoders.gates(decoders.manifest, {}), tokens)
        plain = decoders.plain.logits(found, np.zeros(0, np.float32), tokens)
        if not np.array_equal(off, plain):  # NaN is not equal either
            worst = max(worst, float(np.nan_to_num(np.abs(off - plain), nan=np.inf).max()))
    return [
        Check(
            name="adapters off: equal to the bundle without adapters",
            passed=worst == 0.0,
            value=worst,
            limit=0.0,
            detail=f"largest difference over {len(pairs)} questions is {worst:g}, expected 0 bit for bit",
        )
    ]
