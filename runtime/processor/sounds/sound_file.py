"""Decoder of sound files of any rate, channel count and sample format to mono samples at the model's rate.

Channels are averaged and then resampled (soxr, high quality), in that order, as ``librosa.load`` does.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.shown import shown

from .stream import EXPECTED, SoundStream

__all__ = ["EXPECTED", "MAX_RATE_HZ", "MIN_RATE_HZ", "MIN_SOUND_S", "load_audio", "read_sound", "resample"]

MIN_SOUND_S = 0.02
MAX_SAMPLES = 1 << 27
"""Most mono samples at either rate: 512 MB, 46 minutes at 48 kHz, 2 h 20 min at 16 kHz."""
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
BLOCK_SAMPLES = 1 << 18
SILENCE = 1e-3
"""Loudest sample of a silent sound: 60 dB below full scale, as from a muted microphone."""
logger = logging.getLogger(__name__)


def load_audio(
    source: str | Path | bytes | tuple[NDArray[Any], int], rate_hz: int, between: Between = go_on
) -> NDArray[np.float32]:
    """Decode a sound and resample it to a rate.

    Args:
        source: a path, the bytes of a file, or (samples, rate in Hz); samples are [N] or [N, channels],
            floats of -1..1 or integers over their type's range.
        rate_hz: requested rate in samples per second.
        between: called between two blocks that are decoded or resampled; may raise to stop.

    Returns:
        The samples, [M] float32, mono.

    Raises:
        InputError: as for ``read_sound``.
    """
    samples, rate = read_sound(source, rate_hz, between)
    return resample(samples, rate, rate_hz, between)


def read_sound(
    source: str | Path | bytes | tuple[NDArray[Any], int], rate_hz: int, between: Between = go_on
) -> tuple[NDArray[np.float32], int]:
    """Decode a sound at its own rate.

    All existing samples are decoded, whatever length the file states. A sound counts as cut if it is more than 0.1 s
    shorter than stated, or if it is Ogg without the mark on its last page; a cut is not visible in an MP3 or a piped
    FLAC without a stated length.

    Args:
        source: as for ``load_audio``.
        rate_hz: rate of the later resampling; limits the length.
        between: called between two blocks that are decoded; may raise to stop.

    Returns:
        The samples, [N] float32, mono, and their rate in Hz.

    Raises:
        InputError: the sound is missing, empty, cut, not a sound, shorter than 20 ms, longer than ``MAX_SAMPLES``, or
            has samples that are not finite.
    """
    if isinstance(source, tuple):
        name = "sound array"
        array, rate = _array_and_rate(source, name)
        _check_size(len(array), rate, rate_hz, name)
        samples = _from_array(array)
    elif not isinstance(source, (str, Path, bytes)):
        raise InputError(f"sound: found {type(source).__name__}, expected a path, bytes, or (samples, rate in Hz)")
    else:
        name = shown(source, "sound")
        samples, rate = _decode(source, rate_hz, name, between)
    finite = np.isfinite(samples)
    if not finite.all():
        place = int(np.argmin(finite))
        raise InputError(f"{name}: sample {place} ({place / rate:.3f} s) is NaN or infinite, expected finite samples")
    if len(samples) < MIN_SOUND_S * rate:
        length_ms = 1000 * len(samples) / rate
        raise InputError(f"{name}: the sound lasts {length_ms:.1f} ms, expected at least {1000 * MIN_SOUND_S:.0f} ms")
    if not isinstance(source, tuple) and float(np.abs(samples).max()) < SILENCE:
        warn_of_silence(name)
    return samples, rate


def warn_of_silence(name: str) -> None:
    """Log that a whole recording is silent: what a model says about it is made up."""
    logger.warning("palmtop: %s: the recording is silent (no sample above -60 dB of full scale)", name)


def _decode(source: str | Path | bytes, rate_hz: int, name: str, between: Between) -> tuple[NDArray[np.float32], int]:
    """Return mono samples at the file's own rate, and that rate."""
    with SoundStream(source, name) as stream:
        rate = stream.rate_hz
        _check_size(stream.frames, rate, rate_hz, name)
        blocks, done = [], 0
        while len(block := stream.read(BLOCK_SAMPLES)):
            between()
            done += len(block)
            _check_size(done, rate, rate_hz, name)  # a stream may state no length
            blocks.append(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), rate


def _array_and_rate(source: tuple[Any, ...], name: str) -> tuple[NDArray[Any], int]:
    """Return samples, [N] or [N, channels], and rate after checking both."""
    if len(source) != 2 or not isinstance(source[0], np.ndarray):
        found = ", ".join(type(part).__name__ for part in source)
        raise InputError(f"{name}: found ({found}), expected (samples as an array, rate in Hz)")
    samples, rate = source
    is_number = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
    if not is_number or not np.isfinite(float(rate)) or rate != int(rate):
        raise InputError(f"{name}: the rate is {str(rate)[:60]}, expected a whole number of Hz")
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        found = f"{samples.dtype} {list(samples.shape)}"
        raise InputError(f"{name}: the samples are {found}, expected numbers of shape [N] or [N, channels]")
    if samples.ndim == 2 and samples.shape[1] == 0:
        raise InputError(f"{name}: the samples are {list(samples.shape)}, expected at least one channel")
    return samples, int(rate)


def _from_array(samples: NDArray[Any]) -> NDArray[np.float32]:
    if samples.dtype.kind != "f":
        limits = np.iinfo(samples.dtype)
        middle = 0 if limits.min < 0 else limits.max // 2 + 1
        samples = (samples.astype(np.float64) - middle) / (limits.max - middle + 1)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    return samples.astype(np.float32)


def _check_size(samples: int, rate: int, rate_hz: int, name: str) -> None:
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise InputError(f"{name}: the rate is {rate} Hz, expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
    if max(samples, samples * rate_hz // rate) > MAX_SAMPLES:
        most = MAX_SAMPLES / max(rate, rate_hz)
        raise InputError(f"{name}: the sound lasts {samples / rate:.0f} s at {rate} Hz, expected at most {most:.0f} s")


def resample(samples: NDArray[np.float32], rate: int, rate_hz: int, between: Between) -> NDArray[np.float32]:
    """Resample as ``librosa.resample`` with soxr_hq does: same library, block by block, same length."""
    if rate == rate_hz:
        return samples
    import soxr

    stream = soxr.ResampleStream(rate, rate_hz, 1, dtype="float32", quality="HQ")
    result = np.zeros(-(-len(samples) * rate_hz // rate), np.float32)
    done = 0
    for start in range(0, len(samples), BLOCK_SAMPLES):
        between()
        stop = start + BLOCK_SAMPLES
        block = stream.resample_chunk(samples[start:stop], last=stop >= len(samples))[: len(result) - done]
        result[done : done + len(block)] = block
        done += len(block)
    return result
