"""Windows of a long sound file, cut at quiet moments; at most one window is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.processor.shown import shown

from .sound_file import MAX_RATE_HZ, MIN_RATE_HZ, MIN_SOUND_S, SILENCE, warn_of_silence
from .stream import SoundStream

QUIET_S = 0.2  # seconds of the pause that is searched for
SEARCHED_SHARE = 0.25  # share of a window, at its end, in which the cut may be


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Window:
    """A part of a recording.

    Attributes:
        start_s: start of the part in seconds.
        end_s: end of the part in seconds.
        total_s: length of the recording in seconds, counted or stated; length so far if only decoding can tell.
        samples: [N] float32 samples, mono.
        rate_hz: samples per second.
    """

    start_s: float
    end_s: float
    total_s: float
    samples: NDArray[np.float32]
    rate_hz: int


def read_windows(source: Path | bytes, window_s: float) -> Iterator[Window]:
    """Yield windows of a sound file, each of at most ``window_s`` seconds, cut at the quietest moment near its end.

    Args:
        source: a path, or the bytes of a file.
        window_s: longest window in seconds.

    Raises:
        InputError: the file is missing, not a sound, incomplete, or has samples that are not finite.
    """
    name = shown(source, "sound")
    with SoundStream(source, name) as stream:
        rate = stream.rate_hz
        if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise InputError(f"{name}: the rate is {rate} Hz, expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
        done, wanted, ended, loudest = 0, int(window_s * rate), False, 0.0
        held = np.zeros(0, np.float32)
        while not ended:
            while len(held) < wanted and not ended:
                block = stream.read(wanted - len(held))
                held = np.concatenate([held, block])
                ended = not len(block)
                loudest = max(loudest, float(np.abs(block).max(initial=0.0)))
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
        if loudest < SILENCE:
            warn_of_silence(name)


def quiet_place(samples: NDArray[np.float32], rate_hz: int) -> int:
    """Return the middle of the quietest ``QUIET_S`` seconds in the last quarter of a window.

    Args:
        samples: [N] samples of the window.
        rate_hz: samples per second.
    """
    start = int(len(samples) * (1 - SEARCHED_SHARE))
    length = max(1, min(int(QUIET_S * rate_hz), len(samples) - start))
    energy = np.concatenate([[0.0], np.cumsum(samples[start:].astype(np.float64) ** 2)])
    sums = energy[length:] - energy[:-length]
    return start + int(sums.argmin()) + length // 2
