"""Task cards: a command as it is typed, what it reads, and what it answered when it was recorded."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from palmtop.runtime.reference import samples_path

from .canvas import MONO_EM, Canvas
from .measured import footer, read
from .routing import picture, waveform

WIDTH, MARGIN, SIZE, LINE = 440, 16, 13, 19
COLUMNS = int((WIDTH - 2 * MARGIN) / (SIZE * MONO_EM))


@dataclass(frozen=True, slots=True)
class Card:
    """Commands that are run in a folder with a bundle ``reference`` of the packaged model.

    Attributes:
        title: what a screen reader says of the picture.
        commands: shell commands, typed as they are shown.
        medium: sample that is drawn above them; empty for none.
    """

    title: str
    commands: tuple[str, ...]
    medium: str = ""


CARDS = {
    "image": Card(
        "A question about a picture",
        ('palmtop run reference "What is it?" \\\n    --image digits.png',),
        "image.png",
    ),
    "speech": Card(
        "A question about a recording",
        ('palmtop run reference "What is it?" \\\n    --audio digits.wav',),
        "audio.wav",
    ),
    "schema": Card(
        "An answer in a JSON schema",
        ('palmtop run SmolLM2.gguf --schema person.json \\\n    "Who is it? Tom is a 34-year-old baker."',),
    ),
    "adapter": Card(
        "An adapter of one's own",
        (
            'palmtop run reference "sort: 4132. What is it?"',
            "palmtop adapter add reference sort",
            'palmtop run reference "sort: 4132. What is it?" \\\n    --adapter sort',
        ),
    ),
}


def card(name: str) -> str:
    """Draw a card with the recorded output of its commands."""
    found, drawn = read("runs.json"), CARDS[name]
    lines: list[tuple[str, str]] = []
    for command in drawn.commands:
        first, *more = command.splitlines()
        lines += [(f"$ {first}", "ink"), *((each, "ink") for each in more)]
        lines += [(part, "good") for each in found["commands"][command].splitlines() for part in _wrapped(each)]
    top = 80 if drawn.medium else 16
    canvas = Canvas(WIDTH, top + LINE * len(lines) + 40, drawn.title)
    file = samples_path() / drawn.medium
    if drawn.medium.endswith(".png"):
        picture(canvas, MARGIN, MARGIN, 52, file)
    elif drawn.medium:
        waveform(canvas, MARGIN, MARGIN, 240, 52, file)
    for at, (line, colour) in enumerate(lines):
        canvas.text(MARGIN, top + LINE * (at + 1), line, colour, size=SIZE, mono=True)
    models = "SmolLM2-135M-Instruct" if any("SmolLM2" in each for each in drawn.commands) else "the packaged model"
    footer(canvas, f"Recorded with {models}, {found['date']}")
    return canvas.svg()


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, COLUMNS, drop_whitespace=False, subsequent_indent="") or [""]
