"""Limits that a user sets for a plan. Values, checked on creation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from palmtop.errors import InputError

from .allocation import BitAllocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Limits of a plan: at most one of size, loss and plan file, and a speed.

    Attributes:
        size_bytes: most bytes of the whole bundle without ``quality.json``.
        loss: highest mean KL divergence over the modes, in nats.
        speed: lowest speed of the decoder's matrices in tokens of text per second; alone, or with a size or a loss.
        plan: plan to replay.
        samples: file of JSON lines; None for the packaged samples.
        items: number of packaged samples of each mode.
    """

    size_bytes: int | None = None
    loss: float | None = None
    speed: float | None = None
    plan: BitAllocation | None = None
    samples: Path | None = None
    items: int = 96

    def __post_init__(self) -> None:
        given = [name for name in ("size_bytes", "loss", "plan") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} are given, expected one of size, loss and plan file")
        if self.loss is not None and not 0 < self.loss < float("inf"):
            raise InputError(f"loss is {self.loss}, expected a positive number of nats")
        if self.speed is not None and not 0 < self.speed < float("inf"):
            raise InputError(f"speed is {self.speed}, expected a positive number of tokens a second")
        if self.speed is not None and self.plan is not None:
            raise InputError("speed and plan are given, expected one of them: a plan file says every scheme")

    def samples_mark(self) -> list[object]:
        """Return a hash that is equal for requests with the same calibration samples.

        Raises:
            InputError: the file cannot be read.
        """
        if self.samples is None:
            return [None, self.items]
        try:
            return [hashlib.sha256(self.samples.read_bytes()).hexdigest(), self.items]
        except OSError as error:
            raise InputError(f"{self.samples}: cannot be read ({error.strerror}), expected lines of JSON") from error

    def leaving(self, size_bytes: int) -> Request:
        """Return the request minus bytes that are added to the bundle and not covered by a plan."""
        if self.size_bytes is None:
            return self
        return replace(self, size_bytes=max(0, self.size_bytes - size_bytes))

    @property
    def is_solved(self) -> bool:
        """Whether a plan has to be solved for."""
        return self.size_bytes is not None or self.loss is not None or self.speed is not None
