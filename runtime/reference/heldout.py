"""Held-out items of the reference model's tasks, made from a seed without synthesizers, fonts or sklearn.

The packaged part is glyph sprites and spoken clips that were not used in training; composition is in `canvas.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.reference import held_out_path
from palmtop.runtime.reference.canvas import compose, draw_layout
from palmtop.runtime.reference.text_tasks import INSTRUCTION, QUESTIONS, answer_question, draw_task

Task = Literal["text", "image", "audio", "image+audio"]
TASKS: tuple[Task, ...] = ("text", "image", "audio", "image+audio")
RATE_HZ = 16000
HANDWRITTEN_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its only right answer."""

    task: Task
    messages: list[dict[str, Any]]
    """One user turn of content parts; images are uint8 [H, W, 3], audio is (float32 mono samples, Hz)"""
    expected: str
    group: str
    """Source of the material: `handwritten`, `font`, `espeak`, `flite/awb`, or the kind of text task"""


def held_out_items(task: Task, count: int, seed: int) -> Iterator[Item]:
    """Return `count` items of a task; the same arguments give the same items.

    Raises:
        ValueError: there is no such task.

    >>> next(held_out_items("text", 1, seed=0)).task
    'text'
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}, expected one of {', '.join(TASKS)}")
    rng = np.random.default_rng([seed, TASKS.index(task)])
    if task == "text":
        yield from _text_items(count, rng)
    elif task == "audio":
        yield from _audio_items(count, rng)
    else:
        for _ in range(count):
            yield _image_item(rng) if task == "image" else _image_audio_item(rng)


@dataclass(frozen=True, slots=True)
class Clip:
    """A packaged utterance and its text."""

    text: str
    expected: str
    synthesizer: str
    voice: str
    file: str
    start: int
    stop: int

    @property
    def group(self) -> str:
        """Name of the synthesizer; with its voice where the whole synthesizer is held out."""
        return f"flite/{self.voice}" if self.synthesizer == "flite" else self.synthesizer


@cache
def clips() -> tuple[Clip, ...]:
    """Return the index of the packaged utterances."""
    entries = json.loads((held_out_path() / "clips.json").read_text(encoding="utf-8"))
    return tuple(Clip(**entry) for entry in entries)


def samples(clip: Clip) -> NDArray[np.float32]:
    """Return the samples of the utterance, 16 kHz mono."""
    return _recording(clip.file)[clip.start : clip.stop]


@cache
def glyphs() -> dict[str, list[list[NDArray[np.float32]]]]:
    """Return held-out sprites, [h, w] with ink 0..1: group -> digit -> sprites."""
    with np.load(held_out_path() / "digits.npz") as stored:
        written: list[list[NDArray[np.float32]]] = [[] for _ in range(10)]
        for pixels, digit in zip(stored["handwritten"], stored["handwritten_digit"], strict=True):
            written[digit].append(enlarge(pixels))
        printed: list[list[NDArray[np.float32]]] = [[] for _ in range(10)]
        for pixels, width, digit in zip(stored["font"], stored["font_width"], stored["font_digit"], strict=True):
            printed[digit].append(pixels[:, :width].astype(np.float32) / 255.0)
    return {"handwritten": written, "font": printed}


def enlarge(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Enlarge a handwritten 8x8 digit with values 0..16 to a smooth sprite, four times as large and cut to its ink."""
    ink = np.pad(pixels.astype(np.float32) / 16.0, 1)
    at = (np.arange(4 * (ink.shape[0] - 1)) + 0.5) / 4.0  # sample points between pixel centres
    low = at.astype(np.intp)
    part = (at - low).astype(np.float32)
    part = part * part * (3 - 2 * part)
    rows = ink[low] * (1 - part)[:, None] + ink[low + 1] * part[:, None]
    large = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    dark = large > 0.15
    ys, xs = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    return large[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].astype(np.float32)


def vary_clip(sound: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Add silence, a random loudness and a faint noise to an utterance."""
    before, after = rng.integers(RATE_HZ // 25, RATE_HZ // 4, 2)
    padded = np.pad(sound * rng.uniform(0.3, 1.2), (before, after))
    noise = rng.standard_normal(len(padded), np.float32) * 10 ** rng.uniform(-4.5, -2.6)
    mixed: NDArray[np.float32] = (padded + noise).astype(np.float32)
    return mixed


def _text_items(count: int, rng: np.random.Generator) -> Iterator[Item]:
    seen: set[str] = set()
    while len(seen) < count:
        kind, task, answer = draw_task(rng, held_out=True)
        if task in seen and len(seen) < 800:
            continue
        seen.add(task if task not in seen else f"{task} again {len(seen)}")
        yield Item("text", _user({"type": "text", "text": f"{task} {INSTRUCTION}"}), answer, kind)


def _audio_items(count: int, rng: np.random.Generator) -> Iterator[Item]:
    every = clips()
    for number in range(count):
        if number % len(every) == 0:
            order = rng.permutation(len(every))
        clip = every[order[number % len(every)]]
        yield Item("audio", _user(_audio(vary_clip(samples(clip), rng)), _INSTRUCTION), clip.expected, clip.group)


def _image_item(rng: np.random.Generator) -> Item:
    pixels, digits, group = _picture(rng, least=1)
    return Item("image", _user({"type": "image", "image": pixels}, _INSTRUCTION), digits, group)


def _image_audio_item(rng: np.random.Generator) -> Item:
    pixels, digits, group = _picture(rng, least=2)
    asked = [clip for clip in clips() if clip.text in QUESTIONS]
    clip = asked[rng.integers(len(asked))]
    parts = ({"type": "image", "image": pixels}, _audio(vary_clip(samples(clip), rng)), _INSTRUCTION)
    answer = answer_question(clip.text, digits)
    return Item("image+audio", _user(*parts), answer, f"{group} {clip.synthesizer}")


def _picture(rng: np.random.Generator, *, least: int) -> tuple[NDArray[np.uint8], str, str]:
    layout = draw_layout(rng, least=least)
    group = "handwritten" if rng.random() < HANDWRITTEN_SHARE else "font"
    digits = rng.integers(0, 10, layout.count)
    choices = [glyphs()[group][digit] for digit in digits]
    sprites = [choice[rng.integers(len(choice))] for choice in choices]
    pixels = compose(sprites, layout.width, layout.height, rng).pixels
    return pixels, "".join(map(str, digits)), group


@cache
def _recording(file: str) -> NDArray[np.float32]:
    import soundfile

    recording, rate = soundfile.read(held_out_path() / file, dtype="float32")
    if rate != RATE_HZ:
        raise ValueError(f"{file}: {rate} Hz, expected {RATE_HZ}")
    result: NDArray[np.float32] = recording
    return result


def _audio(sound: NDArray[np.float32]) -> dict[str, Any]:
    return {"type": "audio", "audio": (sound, RATE_HZ)}


def _user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


_INSTRUCTION: dict[str, Any] = {"type": "text", "text": INSTRUCTION}
