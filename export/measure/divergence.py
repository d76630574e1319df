"""How far two distributions or arrays are apart: KL divergence, top-1, cosine, signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
