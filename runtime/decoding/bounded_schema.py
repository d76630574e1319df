"""JSON schemas whose values come to an end: bounded white space, bounded integers.

Where a schema leaves room without end, a model that is not sure of what follows fills its answer with blanks or digits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from palmtop.errors import InputError

WHITESPACE = r"( |\n {0,16})?"
LARGEST_INTEGER = 2**53 - 1
DEEPEST = 100  # llguidance stops at 128
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const")
_VALUES = ("enum", "const", "default", "examples", "x-guidance")
# Strings, expressions and comments of Lark come first: "%json" in them is text.
_EMBEDDED_JSON = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|//[^\n]*|(?P<json>%json\s*)(?=\{)')


def bounded_schema(schema: Any, depth: int = 0) -> Any:
    """The schema with limits for integers that have none.

    >>> bounded_schema({"type": "integer", "minimum": 0})
    {'type': 'integer', 'minimum': 0}
    >>> bounded_schema({"items": {"type": "integer"}})["items"]["maximum"]
    9007199254740991

    Args:
        schema: plain JSON types.
        depth: levels above it.

    Raises:
        InputError: it is nested more than ``DEEPEST`` levels deep.
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
    """A schema with bounded integers, and llguidance's option for white space where it does not say so itself."""
    schema = json.loads(text)
    own = schema.get("x-guidance") if isinstance(schema, Mapping) else None
    says = isinstance(own, Mapping) and any(str(key).startswith("whitespace") for key in own)
    return json.dumps(bounded_schema(schema)), {} if says else {"whitespace_pattern": WHITESPACE}


def bounded_lark(lark: str) -> str:
    """A Lark grammar whose embedded JSON schemas (``%json``) are bounded, white space too."""
    out, position = "", 0
    for found in _EMBEDDED_JSON.finditer(lark):
        if found["json"] is None or found.start() < position:
            continue
        try:
            schema, end = json.JSONDecoder().raw_decode(lark, found.end())
        except (ValueError, RecursionError):
            continue  # llguidance names the place
        schema = {"x-guidance": {"whitespace_pattern": WHITESPACE}, **bounded_schema(schema)}
        out += lark[position : found.end()] + json.dumps(schema)
        position = end
    return out + lark[position:]
