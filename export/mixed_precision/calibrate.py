"""Second moments of the inputs of every linear layer, from a float model and samples, one layer at a time.

A layer's moments are written to disk before the next layer runs. Base layers get every mode in equal shares; an adapter
gets the modes that switch it on; an encoder gets its own media; an expert gets the tokens that it was
chosen for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palmtop.export.graph.building.mark import EXPERT
from palmtop.export.kv.calibrate import CacheObserver
from palmtop.export.measure.float_reference import FloatReference, Observer, is_used, media_of
from palmtop.export.measure.layerwise import Live
from palmtop.export.measure.samples import Sample
from palmtop.export.measure.stages import Stage
from palmtop.quantize.statistics import Moments, Statistics

from .allocation import file_stem

Report = Callable[[str], None]


FEWEST_TOKENS = 32  # of an expert: the moments of fewer say nothing about most pairs of its inputs


class StatisticsFolder:
    """Statistics on disk, by part and linear.

    Attributes:
        starved: tokens of each expert that received fewer than ``FEWEST_TOKENS``, by name; it has no statistics.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.starved: dict[str, int] = {}
        self._read = lru_cache(maxsize=1)(self._load)

    def keep(self, key: str, statistics: Statistics) -> None:
        """Write the statistics of ``part: linear``."""
        np.savez(self._path(key), moments=statistics.moments, count=statistics.count)

    def find(self, key: str) -> Statistics | None:
        """Read the statistics of ``part: linear``; None where it was never run."""
        return self._read(key)

    def _load(self, key: str) -> Statistics | None:
        if not self._path(key).is_file():
            return None
        with np.load(self._path(key)) as stored:
            return Statistics(stored["moments"], int(stored["count"]))

    def _path(self, key: str) -> Path:
        return self._folder / f"{file_stem(key)}.npz"


def calibrate(
    model: FloatReference,
    samples: Sequence[Sample],
    folder: StatisticsFolder,
    report: Report | None = None,
    cache: CacheObserver | None = None,
) -> None:
    """Run samples through a float model and store the second moments of every linear layer's inputs.

    Args:
        model: the float model.
        samples: samples of every mode to be served.
        folder: folder for the statistics.
        report: called with a sentence on each step.
        cache: observer of keys and values in the same walk, on its own runs.
    """
    tell = report or (lambda _: None)
    runs = [*samples, *(sample for sample, _ in (() if cache is None else cache.runs))]

    def observers(part: str) -> list[Observer]:
        own = sum(len(item.feeds) for item in media_of(samples, part).values())  # these come first
        return [_Collected(part, [""] * own, folder)]

    features = model.features(runs, observers, tell)
    lives = [model.decoder_inputs(s, [features[id(m)] for m in s.media]) for s in samples]
    positions: list[NDArray[np.int64] | None] = [s.positions for s in samples]
    watching: list[Observer] = [_Collected("decoder", [s.mode for s in samples], folder)]
    if cache is not None:
        watching.append(cache)
        lives += cache.join(model, samples, features)
        positions += [None] * (len(lives) - len(samples))
    model.walk("decoder", lives, positions, watching, tell)


class _Collected:
    """Moments of the linears of one stage, a set for every mode."""

    def __init__(self, part: str, modes: Sequence[str], folder: StatisticsFolder) -> None:
        """Set up the observer.

        Args:
            part: name of the graph.
            modes: mode of each of the first runs; further runs are not counted.
            folder: folder for the statistics.
        """
        self._part, self._modes, self._folder = part, modes, folder
        self._moments: dict[str, dict[str, Moments]] = {}
        self._experts: dict[str, str] = {}  # by linear

    def values(self, stage: Stage) -> list[str]:
        """Return the inputs of the stage's linears, and the conditions of their use."""
        return [name for linear in stage.linears for name in (linear.input, linear.condition) if name]

    def observe(self, run: int, stage: Stage, found: Live) -> None:
        """Add the inputs of every linear that the run uses."""
        if run >= len(self._modes):
            return
        for linear in stage.linears:
            if linear.input is not None and is_used(linear, found):
                entered = found[linear.input]
                if linear.role == EXPERT:
                    self._experts[linear.name] = linear.unit
                by_mode = self._moments.setdefault(linear.name, {})
                moments = by_mode.setdefault(self._modes[run], Moments(entered.shape[-1]))
                moments.add(entered.reshape(-1, entered.shape[-1]))

    def end_stage(self) -> None:
        """Write the stage's statistics and free them."""
        for name, by_mode in self._moments.items():
            whole = next(iter(by_mode.values())).statistics()
            for number, moments in enumerate(list(by_mode.values())[1:], 2):  # running mean over modes
                other = moments.statistics()
                mean = whole.moments + (other.moments - whole.moments) / np.float32(number)
                whole = Statistics(mean, whole.count + other.count)
            if name in self._experts and whole.count < FEWEST_TOKENS:
                self._folder.starved[self._experts[name]] = whole.count
            else:
                self._folder.keep(f"{self._part}: {name}", whole)
        self._moments.clear()
        self._experts.clear()


def starved_note(starved: Mapping[str, int]) -> str:
    """Return a sentence on the experts that received too few tokens of the samples, by name; empty without any."""
    if not starved:
        return ""
    shown = ", ".join(f"{name} ({count} tokens)" for name, count in list(starved.items())[:3])
    more = "" if len(starved) <= 3 else f" and {len(starved) - 3} more"
    return (
        f"experts that received fewer than {FEWEST_TOKENS} tokens of the samples are quantised without their"
        f" statistics: {shown}{more}"
    )
