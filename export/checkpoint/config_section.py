"""Typed look-up of keys in a config.json, with errors that name the key."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.unusable.stand_ins import refuse_stand_in
from palmtop.runtime.bundle.json_fields import kind_of


class ConfigSection:
    """One JSON object of a config, where it was found, and which of its keys were looked up.

    Attributes:
        data: the object; access to it is not recorded.
        where: file and path of the object, for errors.
    """

    def __init__(self, data: dict[str, Any], where: str) -> None:
        self.data = data
        self.where = where
        self._looked_up: set[str] = set()
        self._inner: dict[str, ConfigSection] = {}

    def named(self, key: str) -> str:
        """Return file and dotted path of a key, for errors."""
        file, *path = self.where.split(": ")
        return f"{file}: {'.'.join((*path, key))}"

    def raw(self, key: str) -> Any:
        """Return the value unchecked; None if the key is missing."""
        self._looked_up.add(key)
        return self.data.get(key)

    def skip(self, key: str) -> None:
        """Record a key, and all keys under it, as looked up."""
        self._looked_up.add(key)
        self._inner.pop(key, None)

    def not_looked_up(self) -> Iterator[tuple[ConfigSection, str]]:
        """Keys with a value that no method here was asked for: each with the object that has it, inner ones too."""
        for key, value in self.data.items():
            if key in self._inner:
                yield from self._inner[key].not_looked_up()
            elif value is not None and key not in self._looked_up:
                yield self, key

    def size(self, key: str, *, default: int | None = None) -> int:
        """Return a positive integer.

        Raises:
            CheckpointError: the key is missing without a default, or the value is of another kind.
        """
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{self.where}: {key} is {value!r}, expected a positive number")
        return value

    def optional_size(self, key: str) -> int | None:
        """Return a non-negative integer, or None if it is missing or null."""
        value = self.raw(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise CheckpointError(f"{self.where}: {key} is {value!r}, expected a number or null")
        return value

    def number(self, key: str, *, default: float | None = None) -> float:
        """Return a finite number."""
        value = self._get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not _is_finite(value):
            raise CheckpointError(f"{self.where}: {key} is {value!r}, expected a number")
        return float(value)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """Return a list of ``count`` positive numbers."""
        values = self._get(key, None)
        if (
            not isinstance(values, list)
            or len(values) != count
            or not all(isinstance(v, (int, float)) and v > 0 and _is_finite(v) for v in values)
        ):
            found = f"{len(values)} values" if isinstance(values, list) else repr(values)
            raise CheckpointError(f"{self.where}: {key} has {found}, expected {count} positive numbers")
        return tuple(float(v) for v in values)

    def text(self, key: str, *, default: str | None = None) -> str:
        """Return a string value."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise CheckpointError(f"{self.where}: {key} is {value!r}, expected text")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a boolean value."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.where}: {key} is {value!r}, expected true or false")
        return value

    def within(self, key: str) -> ConfigSection:
        """The object under a key."""
        inner = self.optional(key)
        if inner is None:
            raise CheckpointError(f"{self.where}: {key} is missing")
        return inner

    def optional(self, key: str) -> ConfigSection | None:
        """The object under a key, or None when it is missing or null."""
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(f"{self.where}: {key} is {value!r}, expected an object")
        if value is None:
            return None
        return self._inner.setdefault(key, ConfigSection(value, f"{self.where}: {key}"))

    def _get(self, key: str, default: Any) -> Any:
        self._looked_up.add(key)
        if key not in self.data and default is None:
            raise CheckpointError(f"{self.where}: {key} is missing")
        return self.data.get(key, default)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error that names the known word most like this one; empty if none is."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; the nearest is '{found[0]}'" if found else ""


def _is_finite(value: float) -> bool:
    """Return whether a number is finite; also for integers with hundreds of digits, which no float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        CheckpointError: the file is missing, not readable, not JSON, or not an object.
    """
    text = read_text(path)
    if text is None:
        raise CheckpointError(f"{path.parent}: '{path.name}' is missing")
    return parse_json_object(text, str(path))


def read_text(path: Path) -> str | None:
    """Read a text file without byte order mark; None if there is no such file.

    Raises:
        CheckpointError: the file cannot be read, is not UTF-8, or is a stand-in such as a Git LFS pointer.
    """
    try:
        text = path.read_text("utf-8-sig") if path.is_file() else None
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read ({error.strerror or error})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not UTF-8 text ({error})") from error
    if text is not None:
        refuse_stand_in(path, text[:512].encode())
    return text


def parse_json_object(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON text that contains an object.

    Raises:
        CheckpointError: the text is not JSON, or not an object.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where}: is not valid JSON ({error})") from error
    except RecursionError as error:
        raise CheckpointError(f"{where}: is nested too deeply, expected plain JSON") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{where}: is {kind_of(data)}, expected an object")
    return data
