"""Limits that make a JSON schema finite: bounded white space and bounded integers.

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
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const")
_VALUES = ("enum", "const", "default", "examples", "x-guidance")
# Strings, expressions and comments of Lark are matched first: "%json" inside them is text.
_EMBEDDED_JSON = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|//[^\n]*|(?P<json>%json\s*)(?=\{)')


def bounded_schema(schema: Any, depth: int = 0) -> Any:
    """Return the schema with limits for integers that have none.

    >>> bounded_schema({"type": "integer", "minimum": 0})
    {'type': 'integer', 'minimum': 0}
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
    kinds = schema.get("type")
    if (kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds and "number" not in kinds)) and not any(
        limit in schema for limit in _LIMITS
    ):
        bounded |= {"minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER}
    return bounded


def bounded_json(text: str) -> tuple[str, Any]:
    """Return the schema with bounded integers, and llguidance's white space option where the schema sets none."""
    schema = json.loads(text)
    own = schema.get("x-guidance") if isinstance(schema, Mapping) else None
    says = isinstance(own, Mapping) and any(str(key).startswith("whitespace") for key in own)
    return json.dumps(bounded_schema(schema)), {} if says else {"whitespace_pattern": WHITESPACE}


def bounded_lark(lark: str) -> str:
    """Return a Lark grammar whose embedded JSON schemas (``%json``) have bounded integers and white space."""
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
