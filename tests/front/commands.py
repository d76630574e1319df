"""Commands in documents: the lines of their code blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a document in one language."""
    return [body for kind, body in BLOCK.findall(path.read_text("utf-8")) if kind == language]


def lines(text: str) -> Iterator[str]:
    """Commands of a block, those over several lines joined; comments and empty lines are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.strip().startswith("#"):
            yield line.strip()


def palmtop_calls(text: str) -> Iterator[list[str]]:
    """Arguments of each call of palmtop in a command line: of a pipe, behind ``;``, or inside ``$(...)``."""
    inner = re.findall(r"\$\(\s*(palmtop [^)]*)\)", text)
    for part in [re.sub(r"\$\([^)]*\)", "X", text), *inner]:
        words = shlex.split(part, comments=True)
        calls, call = [], list[str]()
        for word in [*words, ";"]:
            if word in (";", "|", "&&", "||", "&") or word.startswith((">", "<", "2>")):
                calls.append(call)
                call = []
            elif word.endswith(";"):
                calls.append([*call, word[:-1]])
                call = []
            else:
                call.append(word)
        yield from (found[1:] for found in calls if found[:1] == ["palmtop"])
