"""Checks of every adapter of a bundle: gate, effect, agreement with the float LoRA, off, and blending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.adapters.adapter_source import fitted_pairs, read_peft
from palmtop.export.adapters.graph import DecoderGraph
from palmtop.export.arch import Model
from palmtop.export.checkpoint.lazy_tensor import LazyTensor
from palmtop.export.checkpoint.lora import Adapter
from palmtop.export.measure.divergence import cosine, kl, ratio_db, snr_db
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import Bundle

from .logits import TWIN, Comparison, Of
from .quality import Check
from .tensors import MISSING, Likeness

MIN_EFFECT_COSINE = 0.6  # cosine of the change of logits with the float model's; measured 0.9 and more at 4 bits
EFFECT_RATIO = (0.7, 1.4)  # range of the ratio of their sizes
MATCH_SHARE = 0.5  # share of the effect's KL allowed between bundle and float model with the adapter on
MATCH_NOISE = 2.0  # factor of the KL that quantisation of the base costs without any adapter
STEPS = 2  # first tokens of an answer: on later ones the damage of any adapter is similar
MAX_BLEND = 1e-3  # share of the logits' range: sums in another order
MAX_BLEND_OF_EFFECT = 0.05  # share of the change that the adapter makes: a quantised cache rounds at other places

Loras = Mapping[str, Path]
"""PEFT folders of added adapters, by their names in the bundle."""


def given_adapters(model: Model, loras: Loras) -> dict[str, Adapter]:
    """Return the originals of the bundle's adapters: the checkpoint's, and those whose folders are given."""
    return {a.name: a for a in model.adapters} | {name: read_peft(path, name) for name, path in loras.items()}


def added_without_source(manifest: Manifest, loras: Loras) -> list[str]:
    """Return the names of added adapters whose folders are not given."""
    return [a.name for a in manifest.adapters if a.file is not None and a.name not in loras]


def names(manifest: Manifest, given: Mapping[str, Adapter], unknown: Sequence[str]) -> list[Check]:
    """Check that the manifest's adapters are the given ones, with their rank and alpha."""
    checks = []
    for spec in manifest.adapters:
        if spec.name in unknown:
            continue
        adapter = given.get(spec.name)
        rank = 0 if adapter is None else adapter.rank
        if adapter is not None and spec.file is not None:
            rank = spec.rank  # composed of separate projections; the stored tensors are compared one by one
        same = adapter is not None and (rank, adapter.alpha) == (spec.rank, spec.alpha)
        expected = "none" if adapter is None else f"rank {rank}, alpha {adapter.alpha:g}"
        checks.append(
            Check(
                name=f"adapter {spec.name}: rank and alpha",
                passed=same,
                value=float(spec.rank),
                limit=float(rank),
                detail=f"bundle has rank {spec.rank}, alpha {spec.alpha:g}; checkpoint has {expected}",
            )
        )
    return checks


def gate_wiring(bundle: Bundle) -> list[Check]:
    """Check that the graph reads each adapter's gate at the index in the manifest."""
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


def compare_added(bundle: Bundle, loras: Loras) -> dict[str, Likeness]:
    """Compare the stored tensors of added adapters with their PEFT folders."""
    graph = DecoderGraph(bundle.file(bundle.manifest.decoder.file))
    attention = graph.heads(bundle.manifest.decoder)
    found = {}
    for name, path in loras.items():
        pairs, stored = fitted_pairs(read_peft(path, name), graph, attention), graph.deltas(name)
        for linear in pairs.keys() | stored.keys():
            for part in "AB":
                if linear not in pairs or linear not in stored:
                    likeness = MISSING
                else:
                    pair, delta = pairs[linear], stored[linear]
                    weight, matrix = (pair.a, delta.a) if part == "A" else (pair.b, delta.b)
                    bits = 32 if matrix.scheme is None else matrix.scheme.bits
                    likeness = _likeness(weight, matrix.array(), bits)
                found[f"decoder: {linear}.lora_{part}.{name}"] = likeness
    return found


def _likeness(weight: LazyTensor, found: NDArray[np.float32], bits: int) -> Likeness:
    if weight.shape != found.shape:
        return MISSING
    expected = weight.array()
    noise = float(np.square(expected - found, dtype=np.float64).sum())
    return Likeness(ratio_db(float(np.square(expected, dtype=np.float64).sum()), noise), bits)


def measure(logits: Comparison, name: str, models: tuple[Of, Of] | None = None) -> dict[str, float]:
    """Measure how the adapter changes the logits, compared with the float model's change if it has the adapter.

    Args:
        logits: logits of the comparison.
        name: name of the adapter.
        models: logits of two other decoders instead of the float model's and the bundle's.
    """
    compared = name in logits.originals
    of_exact, of_found = models or (logits.exact, logits.found)
    rows: dict[str, list[NDArray[np.float32]]] = {key: [] for key in ("eoff", "foff", "eon", "fon")}
    for place in logits.acting(name):
        for key, weights in (("off", {}), ("on", {name: 1.0})):
            rows[f"e{key}"].append(of_exact(place, weights if compared else {})[:STEPS])
            rows[f"f{key}"].append(of_found(place, weights)[:STEPS])
    eoff, foff, eon, fon = (np.concatenate(value) for value in rows.values())
    if not compared:
        return {"effect_kl": float(kl(fon, foff).mean()), "changed": float(np.abs(fon - foff).max())}
    exact, found = eon - eoff, fon - foff
    size = float(np.linalg.norm(exact))
    return {
        "effect_kl": float(kl(eon, eoff).mean()),
        "match_kl": float(kl(eon, fon).mean()),
        "base_kl": float(kl(eoff, foff).mean()),
        "cosine": cosine(exact, found),
        "ratio": float(np.linalg.norm(found)) / size if size > 0 else 0.0,
        "snr_db": snr_db(exact, found),
    }


def doubtful(adapters: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the adapters of the float model whose effect in the bundle differs from their effect there.

    Rounding of the base may be the reason: noise as large as the effect alone turns its cosine into 0.58.
    """
    return [
        name
        for name, numbers in adapters.items()
        if "cosine" in numbers and not all(check.passed for check in judge({name: numbers}))
    ]


def judge(adapters: Mapping[str, Mapping[str, float]]) -> list[Check]:
    """Check that each adapter has an effect, and that of its float original."""
    checks = []
    low, high = EFFECT_RATIO
    for name, numbers in adapters.items():
        if "cosine" not in numbers:
            checks.append(
                Check(
                    name=f"adapter {name}: changes the logits",
                    passed=numbers["changed"] > 0,
                    value=round(numbers["changed"], 6),
                    limit=0.0,
                    detail=f"largest change of a logit is {numbers['changed']:.4g}, base to adapter is KL"
                    f" {numbers['effect_kl']:.3f}",
                )
            )
            continue
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
        limit = max(MATCH_SHARE * numbers["effect_kl"], MATCH_NOISE * numbers["base_kl"])
        checks.append(
            Check(
                name=f"adapter {name}: logits of the float base with the float LoRA",
                passed=numbers["match_kl"] <= max(limit, 1e-6),
                value=round(numbers["match_kl"], 6),
                limit=round(limit, 6),
                detail=f"KL {numbers['match_kl']:.4f} from the float model with the adapter on; without any adapter it"
                f" is {numbers['base_kl']:.4f}, and {numbers['effect_kl']:.4f} lie between off and on",
            )
        )
    return checks


def off_is_base(logits: Comparison) -> list[Check]:
    """Check that with every gate 0 the logits equal those of a bundle without adapters, bit for bit."""
    if not logits.manifest.adapters:
        return []
    worst, places = 0.0, logits.off_places
    for place in places:
        off, plain = logits.found(place, {}), logits.plain(place)
        if not np.array_equal(off, plain):  # NaN is not equal either
            worst = max(worst, float(np.nan_to_num(np.abs(off - plain), nan=np.inf).max()))
    return [
        Check(
            name="adapters off: equal to the bundle without adapters",
            passed=worst == 0.0,
            value=worst,
            limit=0.0,
            detail=f"largest difference over {len(places)} questions is {worst:g}, expected 0 bit for bit",
        )
    ]


def blending(logits: Comparison) -> list[Check]:
    """Check that half of an adapter plus half of its twin equals the adapter, in both models."""
    checks = []
    own = [adapter.name for adapter in logits.manifest.adapters]
    for names, of, blended, label in (
        (logits.originals, logits.exact, logits.exact, "float32"),
        (own, logits.on_float_activations, logits.found, "bundle"),
    ):
        for number, name in enumerate(names):
            places, halves = logits.blended(), {name: 0.5, f"{TWIN}-{number}": 0.5}
            once = np.concatenate([of(place, {name: 1.0}) for place in places])
            twice = np.concatenate([blended(place, halves) for place in places])
            off = np.concatenate([of(place, {}) for place in places])
            spread = float(np.ptp(once)) or 1.0
            share, effect = float(np.abs(once - twice).max()) / spread, float(np.abs(once - off).max()) / spread
            limit = max(MAX_BLEND, MAX_BLEND_OF_EFFECT * effect)
            checks.append(
                Check(
                    name=f"adapter {name}: 0.5 + 0.5 is 1, {label}",
                    passed=share <= limit,  # false for NaN
                    value=round(share, 9),
                    limit=limit,
                    detail=f"largest difference is {share:.2g} of the logit range, the adapter changes {effect:.2g};"
                    f" KL {float(kl(once, twice).max()):.2g} nats at most",
                )
            )
    return checks
