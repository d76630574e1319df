"""Grammar of an answer's text: a JSON schema, a regular expression or a Lark grammar. Values only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from palmtop.errors import InputError
from palmtop.runtime.bundle.json_fields import kind_of

MAX_GRAMMAR_CHARACTERS = 1 << 16
"""Most characters of a grammar. Time grows with the square: an object of 2,000 properties takes 1 s, of 8,000 28 s."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """Grammar of one answer, made by ``Grammar.json_schema``, ``Grammar.regex`` or ``Grammar.lark``.

    >>> Grammar.json_schema({"type": "object", "properties": {"total": {"type": "integer"}}}).kind
    'json_schema'

    Attributes:
        kind: "json_schema", "regex" or "lark".
        text: the schema as JSON, the expression or the grammar.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str

    def __post_init__(self) -> None:
        if self.kind not in ("json_schema", "regex", "lark"):
            raise InputError(f"grammar: found kind {self.kind!r:.60}, expected json_schema, regex or lark")
        if not isinstance(self.text, str) or not self.text.strip():
            raise InputError(f"grammar: found {self.text!r:.60}, expected a {self.kind} as text")
        if len(self.text) > MAX_GRAMMAR_CHARACTERS:
            raise InputError(f"grammar: found {len(self.text)} characters, expected at most {MAX_GRAMMAR_CHARACTERS}")

    @classmethod
    def json_schema(cls, schema: str | Mapping[str, Any] | bool) -> Grammar:
        """Make a grammar of the JSON values that a schema allows, in a finite form (``bounded_schema``).

        White space between two tokens is empty, a blank, or a new line with its indentation, unless the schema's
        ``x-guidance`` sets it. Integers without limits of their own stay within the range that all JSON readers accept
        (RFC 8259, section 6).

        Args:
            schema: the schema as an object, or as JSON text.

        Raises:
            InputError: the schema is not JSON, or neither an object nor true.
        """
        try:
            value = json.loads(schema) if isinstance(schema, str) else schema
            text = json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"grammar: the schema is not JSON ({error!s:.200})") from error
        if not isinstance(value, (Mapping, bool)):
            raise InputError(f"grammar: the schema is {kind_of(value)}, expected a JSON object")
        return cls("json_schema", text)

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Make a grammar of the texts that match a regular expression as a whole.

        Args:
            pattern: regular expression in Rust's syntax, without look-around and back references.
        """
        return cls("regex", pattern)

    @classmethod
    def lark(cls, grammar: str) -> Grammar:
        """Make a context-free grammar.

        Args:
            grammar: rules in llguidance's Lark dialect; the first is ``start``.
        """
        return cls("lark", grammar)
