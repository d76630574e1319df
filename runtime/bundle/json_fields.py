"""Flat dataclasses from JSON objects: every key exists, with the annotated type, within its field's limits.

Uses annotations and limits only. ``bundle.json`` may be hostile, so a number that passes here must be one that later
code can compute and allocate with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

from palmtop.errors import ManifestError

MANIFEST_FILE = "bundle.json"
FlatT = TypeVar("FlatT")

_SCALARS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def limited(least: float, most: float) -> Any:
    """Declare a dataclass field whose number, or each of whose numbers, is in ``least``..``most``."""
    return field(metadata={"limits": (least, most)})


def one_of(*choices: str, default: str | None = None) -> Any:
    """Declare a dataclass field whose text is one of the given ones."""
    if default is None:
        return field(metadata={"choices": choices})
    return field(default=default, metadata={"choices": choices})


def read_flat(cls: type[FlatT], data: object, where: str, nested: Mapping[str, object] | None = None) -> FlatT:
    """Read a dataclass of scalars, tuples of numbers and mappings of names to numbers.

    Args:
        cls: dataclass; annotations give the types, ``limited`` the limits.
        data: value of the JSON text.
        where: path in the manifest, for errors.
        nested: values of other fields, which are already read.

    Raises:
        BundleError: a key is missing or unknown, or a value of the wrong type or out of its limits.
    """
    if not isinstance(data, dict):
        raise refuse(where, data, "an object", "type")
    check_keys(cls, data, where)
    done = nested or {}
    for spec in fields(cls):  # type: ignore[arg-type]
        if spec.name in data and spec.name not in done:
            _check(str(spec.type), data[spec.name], f"{where}.{spec.name}", spec.metadata)
    return cls(**{**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}, **done})


def check_keys(cls: type[Any], data: dict[str, Any], where: str) -> None:
    """Refuse missing and unknown keys.

    Raises:
        BundleError: names the first such key.
    """
    names = {f.name for f in fields(cls)}
    prefix = f"{where}." if where else ""
    if missing := sorted(names - data.keys()):
        raise ManifestError(f"{MANIFEST_FILE}: {prefix}{missing[0]} is missing", "missing", prefix + missing[0])
    if unknown := sorted(data.keys() - names):
        raise ManifestError(f"{MANIFEST_FILE}: {prefix}{unknown[0]} is not a known key", "unknown", prefix + unknown[0])


def refuse(where: str, found: object, expected: str, code: str = "value", path: str | None = None) -> ManifestError:
    """Return the error for a value of the manifest."""
    return ManifestError(
        f"{MANIFEST_FILE}: {where} is {_brief(found)}, expected {expected}", code, where if path is None else path
    )


def _check(annotation: str, value: object, where: str, metadata: Mapping[str, Any]) -> None:
    kind = annotation.removesuffix(" | None")
    if kind != annotation and value is None:
        return
    if kind.startswith("tuple["):
        kinds = kind[len("tuple[") : -1].split(", ")
        if not isinstance(value, (list, tuple)) or (kinds[-1] != "..." and len(value) != len(kinds)):
            raise refuse(where, value, f"a list for {annotation}", "type")
        for i, part in enumerate(value):
            _check(kinds[0], part, f"{where}[{i}]", metadata)
    elif kind.startswith("dict[str, "):
        if not isinstance(value, dict):
            raise refuse(where, value, "an object", "type")
        for name, part in value.items():
            _check(kind[len("dict[str, ") : -1], part, f"{where}.{name}", metadata)
    else:
        _check_scalar(kind, value, where, metadata)


def _check_scalar(kind: str, value: object, where: str, metadata: Mapping[str, Any]) -> None:
    if kind == "int | str":
        kind = "str" if isinstance(value, str) else "int"
    limits, choices = metadata.get("limits"), metadata.get("choices")
    if not isinstance(value, _SCALARS[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise refuse(where, value, kind, "type")
    if isinstance(value, float) and not math.isfinite(value):
        raise refuse(where, value, "a finite number", "range")
    if limits is not None and isinstance(value, (int, float)) and not limits[0] <= value <= limits[1]:
        raise refuse(where, value, f"{limits[0]} to {limits[1]}", "range")
    if kind == "float" and isinstance(value, int) and abs(value) > 1 << 53:
        raise refuse(where, value, "a number that float64 holds", "range")
    if choices is not None and value not in choices:
        raise refuse(where, value, f"one of {', '.join(choices)}", "choice")


def kind_of(value: object) -> str:
    """Return a value's type in JSON's terms: "an object", "a list", "text", "a number", "true", "false", "null"."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = (((Mapping,), "an object"), ((list, tuple), "a list"), ((str,), "text"), ((int, float), "a number"))
    for kinds, name in names:
        if isinstance(value, kinds):
            return name if value or not isinstance(value, (list, tuple)) else "an empty list"
    return f"a value of type {type(value).__name__}"


def _brief(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    text = type(value).__name__ if isinstance(value, (dict, list)) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
