"""Distances between distributions or arrays: KL divergence, top-1 agreement, cosine, signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20  # numbers in float64 at a time: 200 rows of 200,000 are 320 MB, several times over


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of two sets of logits.

    Attributes:
        positions: number of rows compared.
        mean_kl: mean of KL(reference || bundle) in nats.
        max_kl: KL of the worst row.
        top1: share of rows with the same most probable token.
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
    """Return KL(reference || found) in nats, [T], of two [T, V] sets of logits; a few rows in float64 at a time."""
    rows = max(1, BLOCK // max(1, reference.shape[-1]))
    found_kl = np.empty(len(reference))
    for start in range(0, len(reference), rows):
        p, q = (log_softmax(logits[start : start + rows]) for logits in (reference, found))
        found_kl[start : start + rows] = (np.exp(p) * (p - q)).sum(-1).clip(0)
    return found_kl


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the cosine of two arrays as vectors; 0 when one is zero."""
    norm = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float((a.astype(np.float64) * b).sum()) / norm if norm > 0 else 0.0


def snr_db(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the signal-to-noise ratio of an array in decibels."""
    noise = float(((reference - found).astype(np.float64) ** 2).sum())
    return ratio_db(float((reference.astype(np.float64) ** 2).sum()), noise)


def ratio_db(signal: float, noise: float) -> float:
    """Return a ratio in decibels, at most 200, where float32 ends; -200 for values that are missing or not a number."""
    if not np.isfinite(signal) or not np.isfinite(noise):
        return -200.0
    if noise <= signal * 1e-20:
        return 200.0
    return float(10 * np.log10(signal / noise)) if signal > 0 else -200.0


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log probabilities, [T, V], of [T, V] logits."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
