"""Journal of an export's written tensors, for continuing after a kill.

It has one JSON line for each set of tensors in an external data file, appended when its bytes are in the file. The next
run checks the bytes against the line before using them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


def code_sha256() -> str:
    """One hash over the exporter's own source files: another exporter may write other bytes."""
    code = hashlib.sha256()
    for module in ("palmtop.export", "palmtop.quantize"):
        for root in importlib.import_module(module).__path__:
            for file in sorted(Path(root).rglob("*.py")):
                code.update(file.read_bytes())
    return code.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A set of tensors that was written at once.

    Attributes:
        file: name of the external data file in graphs.
        name: name of the set.
        offset: offset of the first tensor in bytes.
        end: end of the last tensor in bytes.
        crc32: checksum of the bytes between.
        read_bytes: bytes of the checkpoint that were read for it, for progress.
    """

    file: str
    name: str
    offset: int
    end: int
    crc32: int
    read_bytes: int


class Journal:
    """Lines of one interrupted or running export."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[Entry] = _read(path)
        self._next = 0

    def written(self, file: str, name: str, offset: int, end: int) -> Entry | None:
        """Return the next line if it is about this set at this place; otherwise drop it and all lines after it."""
        if self._next < len(self._lines):
            entry = self._lines[self._next]
            if (entry.file, entry.name, entry.offset, entry.end) == (file, name, offset, end):
                return entry
            self.forget()
        return None

    def forget(self) -> None:
        """Drop the lines that were not used: their sets will be written again."""
        if self._next < len(self._lines):
            del self._lines[self._next :]
            beside = self.path.with_suffix(".new")
            beside.write_text("".join(map(_line, self._lines)), "utf-8")
            os.replace(beside, self.path)

    def keep(self) -> None:
        """Keep the next line, which was checked."""
        self._next += 1

    def add(self, entry: Entry) -> None:
        """Record a set whose bytes are in the file."""
        self.forget()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
        self._lines.append(entry)
        self._next += 1


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry)) + "\n"


def _read(path: Path) -> list[Entry]:
    """Complete lines from the start; an incomplete one after a kill ends the list."""
    entries: list[Entry] = []
    try:
        lines = path.read_text("utf-8", "replace").splitlines(keepends=True)
    except OSError:
        return entries
    for line in lines:
        try:
            if not line.endswith("\n"):
                break
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError):
            break
    if len(entries) < len(lines):
        path.write_text("".join(map(_line, entries)), "utf-8")
    return entries
