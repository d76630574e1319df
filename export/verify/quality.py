"""Results of a verification: checks that pass or fail, and numbers per mode, adapter and tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from palmtop.export.measure.divergence import Agreement

from .page.media import Thumbnail


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check and its result.

    Attributes:
        name: subject of the check, with the adapter, tensor or mode.
        passed: whether it holds.
        value: measured value.
        limit: limit that it was compared with.
        detail: one sentence for a user.
        is_loss: whether a failure means a right bundle with a large loss, not a wrong one.
    """

    name: str
    passed: bool
    value: float
    limit: float
    detail: str
    is_loss: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Result of a verification; ``quality.json`` is its ``to_dict``.

    Attributes:
        checks: all checks with their results.
        modes: agreement of logits by mode of input.
        adapters: effect of each adapter, compared with the float model.
        tensors: signal-to-noise ratio by stored tensor.
        encoders: signal-to-noise ratio of media features by mode, in decibels.
        weight_bytes: bytes of the bundle's graphs and weights.
        accuracy: right answers of float model and bundle by mode; only for a report.
        worst: prompts with the largest divergence; only for a report.
        media: pictures and sounds of the ``worst`` prompts, in their order; not in ``to_dict``.
        neighbours: other bundles of the checkpoint, with bytes and divergence; only for a report.
        losses: KL in nats by mode, of the weights alone and of 8-bit activations on top of them.
        kv_cache: loss of a quantised cache against a float one, by mode and by length of a text.
        skipped: measurements that were left out, with the reason.
        seconds: duration of the verification.
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
    media: list[tuple[Thumbnail, ...]] = field(default_factory=list)
    neighbours: list[dict[str, Any]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(c.passed for c in self.checks)

    @property
    def verdict(self) -> str:
        """One of "passed", "failed" and "lossy", a right bundle whose answers are much worse than the model's."""
        failed = [c for c in self.checks if not c.passed]
        return "passed" if not failed else "lossy" if all(c.is_loss for c in failed) else "failed"

    @property
    def summary(self) -> str:
        """The verdict as a sentence."""
        wrong = [c.name for c in self.checks if not c.passed and not c.is_loss]
        lost = [c.name.partition(":")[0] for c in self.checks if not c.passed and c.is_loss]
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            return f"failed: the bundle is not what its checkpoint and recipe give: '{wrong[0]}'{more}"
        if lost:
            return f"lossy: the bundle is its checkpoint's, but expect other and worse answers ({', '.join(lost)})"
        return f"passed: all {len(self.checks)} checks hold"

    @property
    def mean_kl(self) -> float | None:
        """Mean KL of the modes, each with the same weight; None if logits were not compared."""
        return float(np.mean([a.mean_kl for a in self.modes.values()])) if self.modes else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        numbers = asdict(replace(self, media=[]))
        del numbers["media"]
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "summary": self.summary,
            "mean_kl": self.mean_kl,
            **numbers,
        }
