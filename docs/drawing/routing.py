"""Routing picture: each kind of input, the adapter that it switches on, and the packaged model's answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import soundfile
from PIL import Image

from palmtop.runtime.reference import samples_path

from .canvas import Canvas
from .measured import footer, read

ROW, TOP = 92, 76
INPUTS = {  # mode: its name; of 2, 0 and 4 the last sample's voice asks for the smallest
    "text": "text",
    "image": "picture",
    "audio": "sound",
    "image+audio": "picture, and a voice: \u201csmallest\u201d",
}
ADAPTERS = ("vision", "speech")


def routing() -> str:
    """Draw the four modes with the packaged model's samples and recorded answers."""
    found = read("runs.json")
    canvas = Canvas(840, TOP + ROW * len(INPUTS) + 14, "Each input switches on the adapter it was trained with")
    for x, heading in ((24, "what goes in"), (344, "LoRA adapters beside the INT4 base"), (668, "answer")):
        canvas.text(x, 34, heading, "soft", size=13)
    for at, (mode, name) in enumerate(INPUTS.items()):
        top = TOP + ROW * at
        if at:
            canvas.line(24, top - 18, 816, top - 18)
        run = found["modes"][mode]
        canvas.text(24, top + 4, name, bold=True)
        _input(canvas, run, 24, top + 16)
        canvas.arrow(296, 332, top + 26)
        for place, adapter in enumerate(ADAPTERS):
            _switch(canvas, 344 + 134 * place, top + 8, adapter, is_on=adapter in run["adapters"])
        canvas.arrow(616, 652, top + 26)
        canvas.text(668, top + 34, run["answer"], size=22, bold=True)
        verdict = "right" if run["answer"] == run["expected"] else f"expected {run['expected']}"
        canvas.text(740, top + 33, verdict, "good" if run["answer"] == run["expected"] else "bad", size=13)
    footer(canvas, f"Answers of the packaged model: palmtop demo; {found['machine']}, {found['date']}")
    return canvas.svg()


def _input(canvas: Canvas, run: dict[str, str], x: float, y: float) -> None:
    left = x
    if run["image"]:
        left += picture(canvas, left, y, 40, samples_path() / run["image"]) + 12
    if run["audio"]:
        left += waveform(canvas, left, y, 92, 40, samples_path() / run["audio"]) + 12
    if not run["image"] and not run["audio"]:
        canvas.text(x, y + 16, run["question"].split(". ")[0] + ".", size=13)


def _switch(canvas: Canvas, x: float, y: float, name: str, *, is_on: bool) -> None:
    """A pill that is filled where the adapter is on."""
    canvas.box(x, y, 124, 36, "own" if is_on else "panel", radius=18, border="own" if is_on else "line")
    words = f"{name} on" if is_on else f"{name} off"
    canvas.text(x + 62, y + 23, words, "on" if is_on else "soft", anchor="middle", bold=is_on)


def picture(canvas: Canvas, x: float, y: float, height: float, file: Path) -> float:
    """Embed a picture at a height, and return its width."""
    with Image.open(file) as image:
        width = height * image.width / image.height
    canvas.image(x, y, round(width, 1), height, file)
    return width


def waveform(canvas: Canvas, x: float, y: float, width: float, height: float, file: Path) -> float:
    """Draw the largest sample of each stretch of a sound as a bar, and return the width."""
    samples, _ = soundfile.read(file, always_2d=True)
    count = int(width // 4)
    peaks: Sequence[float] = [abs(part).max() for part in _parts(samples[:, 0], count)]
    for at, peak in enumerate(peaks):
        tall = max(2.0, height * peak / max(peaks))
        canvas.box(x + 4 * at, y + (height - tall) / 2, 2.5, tall, "own", radius=1)
    return width


def _parts(samples: Sequence[float], count: int) -> list[Sequence[float]]:
    step = len(samples) / count
    return [samples[int(at * step) : int((at + 1) * step)] for at in range(count)]
