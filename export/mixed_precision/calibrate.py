"""Second moments of the inputs of every linear layer, from a float model and samples, one layer at a time.

A layer's moments are written to disk before the next layer runs. Base layers get every mode in equal shares; an adapter
gets the modes that switch it on; an encoder gets its own media.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palmtop.export.measure.float_reference import FloatReference, feature_rows
from palmtop.export.measure.layerwise import Live
from palmtop.export.measure.samples import MediaInput, Sample
from palmtop.export.measure.stages import Linear
from palmtop.quantize.statistics import Moments, Statistics

from .allocation import file_stem

Report = Callable[[str], None]


class StatisticsFolder:
    """Statistics on disk, by part and linear."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
    model: FloatReference, samples: Sequence[Sample], folder: StatisticsFolder, report: Report | None = None
) -> None:
    """Run samples through a float model and store the second moments of every linear layer's inputs.

    Args:
        model: the float model.
        samples: samples of every mode to be served.
        folder: folder for the statistics.
        report: called with a sentence on each step.
    """
    tell = report or (lambda _: None)
    features: dict[int, NDArray[np.float32]] = {}
    for part in ("vision", "audio"):
        media = {id(m): m for sample in samples for m in sample.media if m.part == part}
        if media:
            tell(f"{part} encoder")
            features |= _calibrate_encoder(model, part, media, folder)
    tell("decoder")
    _calibrate_decoder(model, samples, features, folder)


def _calibrate_encoder(
    model: FloatReference, part: str, media: dict[int, MediaInput], folder: StatisticsFolder
) -> dict[int, NDArray[np.float32]]:
    """Feature rows of every image or sound, by its identity."""
    lives: list[Live] = [dict(feeds) for item in media.values() for feeds in item.feeds]
    collected = _Collected(part, folder)

    def tap(linear: Linear, run: int, entered: NDArray[np.float32]) -> None:
        collected.add(linear.name, "", entered)

    model.walk(part, lives, [None] * len(lives), tap, collected.close)
    return feature_rows(media, lives)


def _calibrate_decoder(
    model: FloatReference,
    samples: Sequence[Sample],
    features: dict[int, NDArray[np.float32]],
    folder: StatisticsFolder,
) -> None:
    lives = [model.decoder_inputs(s, [features[id(m)] for m in s.media]) for s in samples]
    collected = _Collected("decoder", folder)

    def tap(linear: Linear, run: int, entered: NDArray[np.float32]) -> None:
        collected.add(linear.name, samples[run].mode, entered)

    model.walk("decoder", lives, [s.positions for s in samples], tap, collected.close)


class _Collected:
    """Moments of the linears of one stage, a set for every mode."""

    def __init__(self, part: str, folder: StatisticsFolder) -> None:
        self._part, self._folder = part, folder
        self._moments: dict[str, dict[str, Moments]] = {}

    def add(self, name: str, mode: str, entered: NDArray[np.float32]) -> None:
        """Add the inputs of a linear, [..., K], for a mode."""
        by_mode = self._moments.setdefault(name, {})
        by_mode.setdefault(mode, Moments(entered.shape[-1])).add(entered)

    def close(self) -> None:
        """Write the stage's statistics and free them."""
        for name, by_mode in self._moments.items():
            whole = next(iter(by_mode.values())).statistics()
            for number, moments in enumerate(list(by_mode.values())[1:], 2):  # running mean over modes
                other = moments.statistics()
                mean = whole.moments + (other.moments - whole.moments) / np.float32(number)
                whole = Statistics(mean, whole.count + other.count)
            self._folder.keep(f"{self._part}: {name}", whole)
        self._moments.clear()
