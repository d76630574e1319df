"""What verification measures, as values: checks that pass or fail, and numbers per mode, adapter and tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One claim and whether it holds.

    Attributes:
        name: what was checked, naming the adapter, tensor or mode.
        passed: the verdict.
        value: what was measured.
        limit: what it was compared with.
        detail: one sentence for a reader who did not write the exporter.
    """

    name: str
    passed: bool
    value: float
    limit: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How close two sets of logits are.

    Attributes:
        positions: rows compared.
        mean_kl: mean of KL(reference || bundle) in nats.
        max_kl: worst row.
        top1: share of rows whose most likely token is the same.
        max_abs: largest difference of a logit, as a share of the reference's range.
    """

    positions: int
    mean_kl: float
    max_kl: float
    top1: float
    max_abs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The whole verdict; ``quality.json`` is its ``to_dict``.

    Attributes:
        checks: what was claimed and whether it holds.
        modes: agreement of logits by mode of input.
        adapters: how each adapter acts, against the float model.
        tensors: signal-to-noise ratio by stored tensor.
        encoders: signal-to-noise ratio of media features by mode, in decibels.
        weight_bytes: of the bundle's graphs and weights.
        accuracy: right answers of float model and bundle by mode; only for a report.
        worst: prompts on which they part most; likewise.
        neighbours: other bundles of the checkpoint, with bytes and divergence; likewise.
        kv_cache: what a quantised cache costs against a float one, by mode and by length of a text.
        skipped: what could not be measured, and why.
        seconds: what it took.
    """

    checks: tuple[Check, ...]
    modes: dict[str, Agreement]
    adapters: dict[str, dict[str, float]]
    tensors: dict[str, dict[str, float]]
    skipped: tuple[str, ...]
    seconds: float
    encoders: dict[str, float] = field(default_factory=dict)
    kv_cache: dict[str, Any] = field(default_factory=dict)
    weight_bytes: int = 0
    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)
    worst: list[dict[str, Any]] = field(default_factory=list)
    neighbours: list[dict[str, Any]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Every check holds."""
        return all(c.passed for c in self.checks)

    @property
    def mean_kl(self) -> float | None:
        """Of the modes, each with the same weight; None where logits were not compared."""
        return float(np.mean([a.mean_kl for a in self.modes.values()])) if self.modes else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"passed": self.passed, "mean_kl": self.mean_kl, **asdict(self)}


def agreement(reference: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    """Compare two [T, V] sets of logits."""
    divergence = kl(reference, found)
    spread = float(np.ptp(reference)) or 1.0
    return Agreement(
        positions=len(reference),
        mean_kl=float(divergence.mean()),
        max_kl=float(divergence.max()),
        top1=float((reference.argmax(-1) == found.argmax(-1)).mean()),
        max_abs=float(np.abs(reference - found).max()) / spread,
    )


def kl(reference: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """[T] KL(reference || found) in nats of two [T, V] sets of logits."""
    p, q = log_softmax(reference), log_softmax(found)
    return np.asarray((np.exp(p) * (p - q)).sum(-1).clip(0))


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of two arrays as vectors; 0 when one is zero."""
    norm = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float((a.astype(np.float64) * b).sum()) / norm if norm > 0 else 0.0


def snr_db(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Signal-to-noise ratio of an array in decibels."""
    noise = float(((reference - found).astype(np.float64) ** 2).sum())
    return ratio_db(float((reference.astype(np.float64) ** 2).sum()), noise)


def ratio_db(signal: float, noise: float) -> float:
    """In decibels; capped at 200, where float32 ends, and -200 for what is not a number or not there."""
    if not np.isfinite(signal) or not np.isfinite(noise):
        return -200.0
    if noise <= signal * 1e-20:
        return 200.0
    return float(10 * np.log10(signal / noise)) if signal > 0 else -200.0


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """[T, V] log probabilities of [T, V] logits."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
