"""Limits that make a JSON schema finite: bounded white space and bounded numbers.

Without limits, a model that is unsure of the next token may fill its answer with blanks or digits until it is cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from palmtop.errors import InputError

WHITESPACE = r"( |\n {0,16})?"
LARGEST_INTEGER = 2**53 - 1
DEEPEST = 100  # llguidance accepts at most 128 levels
FINEST = 1e-9  # last digit of a number whose schema names no multipleOf; llguidance takes at most 1e-10
SMALLEST_LIMIT = 1e-6  # a schema whose own limits are smaller keeps every digit
_CHOSEN = ("enum", "const", "allOf", "$ref")  # other limits may be in these
_SIDES = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
_VALUES = ("enum", "const", "default", "examples", "x-guidance")
# Strings, expressions and comments of Lark are matched first: "%json" inside them is text.
_EMBEDDED_JSON = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|//[^\n]*|(?P<json>%json\s*)(?=\{)')


def bounded_schema(schema: Any, depth: int = 0) -> Any:
    """Return the schema with limits for numbers that have none: at most 16 digits before the point, 9 behind it.

    >>> bounded_schema({"type": "integer", "minimum": 0})
    {'type': 'integer', 'minimum': 0, 'maximum': 9007199254740991}
    >>> bounded_schema({"type": "number", "minimum": 0, "maximum": 1})
    {'type': 'number', 'minimum': 0, 'maximum': 1, 'multipleOf': 1e-09}
    >>> bounded_schema({"items": {"type": "integer"}})["items"]["maximum"]
    9007199254740991

    Args:
        schema: JSON schema of plain JSON types.
        depth: number of levels above this schema.

    Raises:
        InputError: the schema is nested more than ``DEEPEST`` levels deep.
    """
    if depth > DEEPEST:
        raise InputError(f"grammar: the schema is nested more than {DEEPEST} levels deep, expected a flatter one")
    if isinstance(schema, list):
        return [bounded_schema(item, depth + 1) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    bounded = {key: value if key in _VALUES else bounded_schema(value, depth + 1) for key, value in schema.items()}
    return bounded | _limits(schema)


def _limits(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Limits that a schema of a number lacks; none for other types."""
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not {"integer", "number"} & {kind for kind in kinds if isinstance(kind, str)} or any(
        key in schema for key in _CHOSEN
    ):
        return {}
    low, high = ([schema[key] for key in keys if _is_number(schema.get(key))] for keys in _SIDES)
    found: dict[str, Any] = {}
    if not low and all(limit > -LARGEST_INTEGER for limit in high):
        found["minimum"] = -LARGEST_INTEGER
    if not high and all(limit < LARGEST_INTEGER for limit in low):
        found["maximum"] = LARGEST_INTEGER
    is_fine = any(0 < abs(limit) < SMALLEST_LIMIT for limit in (*low, *high))
    if "number" in kinds and "multipleOf" not in schema and not is_fine:
        found["multipleOf"] = FINEST
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def bounded_json(text: str) -> tuple[str, Any]:
    """Return the schema with bounded numbers, and llguidance's white space option where the schema sets none."""
    schema = json.loads(text)
    if isinstance(schema, bool):  # llguidance takes options with an object only
        schema = {} if schema else {"enum": []}
    own = schema.get("x-guidance") if isinstance(schema, Mapping) else None
    says = isinstance(own, Mapping) and any(str(key).startswith("whitespace") for key in own)
    return json.dumps(bounded_schema(schema)), {} if says else {"whitespace_pattern": WHITESPACE}


def bounded_lark(lark: str) -> str:
    """Return a Lark grammar whose embedded JSON schemas (``%json``) have bounded numbers and white space."""
    out, position = "", 0
    for found in _EMBEDDED_JSON.finditer(lark):
        if found["json"] is None or found.start() < position:
            continue
        try:
            schema, end = json.JSONDecoder().raw_decode(lark, found.end())
        except (ValueError, RecursionError):
            continue  # llguidance's error names the place
        schema = {"x-guidance": {"whitespace_pattern": WHITESPACE}, **bounded_schema(schema)}
        out += lark[position : found.end()] + json.dumps(schema)
        position = end
    return out + lark[position:]
