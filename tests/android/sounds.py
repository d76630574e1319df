"""Compressed sounds of several kinds, and their samples as a phone's decoder gives them: 16 bits, channels together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from palmtop.runtime.processor.sounds.sound_file import resample

RATE_HZ = 44100
KINDS = {"voice.ogg": ("OGG", "VORBIS"), "voice.mp3": ("MP3", "MPEG_LAYER_III"), "voice.flac": ("FLAC", "PCM_16")}
AAC = "voice.m4a"


def write_sounds(source: Path, folder: Path) -> list[Path]:
    """Write a recording as stereo ogg, mp3, flac and m4a, and beside each file what is decoded from it.

    Returns:
        The compressed files; NAME.pcm has rate and channels as two int32, then the int16 samples.
    """
    samples, rate_hz = soundfile.read(source, dtype="float32")
    left = resample(samples, rate_hz, RATE_HZ, lambda: None)
    right = 0.4 * np.roll(left, 700) + 0.01 * np.random.default_rng(5).standard_normal(len(left))
    stereo = np.stack([left, right.astype(np.float32)], axis=1)
    for name, (kind, subtype) in KINDS.items():
        soundfile.write(folder / name, stereo, RATE_HZ, format=kind, subtype=subtype)
    _write_aac(folder / AAC, stereo)
    files = [folder / name for name in (*KINDS, AAC)]
    for file in files:
        decoded = _read_aac(file) if file.name == AAC else soundfile.read(file, dtype="int16")[0]
        header = np.array([RATE_HZ, decoded.shape[1]], "<i4").tobytes()
        file.with_name(f"{file.name}.pcm").write_bytes(header + decoded.astype("<i2").tobytes())
    return files


def _write_aac(path: Path, stereo: NDArray[np.float32]) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=RATE_HZ, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(stereo.T), format="fltp", layout="stereo")
        frame.sample_rate = RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _read_aac(path: Path) -> NDArray[np.int16]:
    resampler = av.AudioResampler(format="s16")
    with av.open(str(path)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in frames])
