"""A long sound file as windows, cut where it is quiet; never more than one window in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.processor.shown import shown

from .sound_file import MAX_RATE_HZ, MIN_RATE_HZ, MIN_SOUND_S
from .stream import SoundStream

QUIET_S = 0.2  # length of the pause that is looked for
SEARCHED_SHARE = 0.25  # of a window, at its end, in which the cut may lie


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Window:
    """A part of a recording.

    Attributes:
        start_s: where it begins.
        end_s: where it ends.
        total_s: length of the recording, as counted or stated; what was heard so far if only decoding tells.
        samples: [N] float32, mono.
        rate_hz: of the samples.
    """

    start_s: float
    end_s: float
    total_s: float
    samples: NDArray[np.float32]
    rate_hz: int


def read_windows(source: Path | bytes, window_s: float) -> Iterator[Window]:
    """Cut a sound file into windows of at most ``window_s`` seconds, each after the quietest moment near its end.

    Args:
        source: a path, or the bytes of a file.
        window_s: longest window, seconds.

    Raises:
        InputError: the file is missing, no sound, broken off, or holds samples that are not finite.
    """
    name = shown(source, "sound")
    with SoundStream(source, name) as stream:
        rate = stream.rate_hz
        if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise InputError(f"{name}: the rate is {rate} Hz, expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
        done, wanted, ended = 0, int(window_s * rate), False
        held = np.zeros(0, np.float32)
        while not ended:
            while len(held) < wanted and not ended:
                block = stream.read(wanted - len(held))
                held = np.concatenate([held, block])
                ended = not len(block)
            if not np.isfinite(held).all():
                raise InputError(f"{name}: a sample after {done / rate:.1f} s is not finite")
            cut = len(held) if ended else quiet_place(held, rate)
            if cut >= MIN_SOUND_S * rate:
                yield Window(
                    start_s=done / rate,
                    end_s=(done + cut) / rate,
                    total_s=max(stream.frames, done + len(held)) / rate,
                    samples=held[:cut],
                    rate_hz=rate,
                )
            done, held = done + cut, held[cut:].copy()


def quiet_place(samples: NDArray[np.float32], rate_hz: int) -> int:
    """The middle of the quietest ``QUIET_S`` in the last quarter of a window.

    Args:
        samples: [N].
        rate_hz: their rate.
    """
    start = int(len(samples) * (1 - SEARCHED_SHARE))
    length = max(1, min(int(QUIET_S * rate_hz), len(samples) - start))
    energy = np.concatenate([[0.0], np.cumsum(samples[start:].astype(np.float64) ** 2)])
    sums = energy[length:] - energy[:-length]
    return start + int(sums.argmin()) + length // 2
