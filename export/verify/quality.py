"""What verification measures, as values: checks that pass or fail, and numbers per mode, adapter and tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from palmtop.export.measure.divergence import Agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One claim and whether it holds.

    Attributes:
        name: what was checked, naming the adapter, tensor or mode.
        passed: the verdict.
        value: what was measured.
        limit: what it was compared with.
        detail: one sentence for a reader who did not write the exporter.
        is_loss: when it fails the bundle is a right one that loses much, not a wrong one.
    """

    name: str
    passed: bool
    value: float
    limit: float
    detail: str
    is_loss: bool = False


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
        losses: KL in nats by mode, of the weights alone and of 8-bit activations on top of them.
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
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
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
    def verdict(self) -> str:
        """One of "passed", "failed" and "lossy", a right bundle that loses more than it had to."""
        failed = [c for c in self.checks if not c.passed]
        return "passed" if not failed else "lossy" if all(c.is_loss for c in failed) else "failed"

    @property
    def mean_kl(self) -> float | None:
        """Of the modes, each with the same weight; None where logits were not compared."""
        return float(np.mean([a.mean_kl for a in self.modes.values()])) if self.modes else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"passed": self.passed, "verdict": self.verdict, "mean_kl": self.mean_kl, **asdict(self)}
