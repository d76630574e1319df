"""Tools of a request: their presentation, the grammar of a forced call, text held back in a stream.

A forced call follows a grammar: the marks of a call if the tokenizer has them, around JSON with a name and arguments by
that tool's schema, each schema with a root of its own, so that its references work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from palmtop.runtime.chat.stop_strings import StopStrings
from palmtop.runtime.decoding.grammar import Grammar
from palmtop.runtime.processor.tool_formats import MARK, PHI4, STARTS, ToolFormat

from .api_error import ApiError, refused
from .json_fields import Fields, as_fields

MAX_TOOLS = 128
MAX_PARALLEL_CALLS = 8
OPENING_KEYS = {"additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref"}
"""Keywords by which an object may have further properties."""
ANY_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Tools and tool choice of a request.

    Attributes:
        tools: {"name", "description", "parameters"} for the model; empty if it may not call any.
        forced: names of which one has to be called; empty if the model chooses.
        most_calls: most calls in one answer.
    """

    tools: tuple[dict[str, Any], ...] = ()
    forced: tuple[str, ...] = ()
    most_calls: int = MAX_PARALLEL_CALLS

    def grammar(self, form: ToolFormat, special: Collection[str]) -> Grammar | None:
        """Return the grammar of a forced call; None without one.

        Args:
            form: format of the model's calls.
            special: marks of the format that are special tokens, which a grammar names without quotes.
        """
        if not self.forced:
            return None
        called = [tool for tool in self.tools if tool["name"] in self.forced]
        form = PHI4 if form.is_python else form  # any call can be told; only the JSON ones can be bounded by a schema
        has_marks = form is not PHI4 or {form.start, form.end} <= set(special)
        gap = literal(form.gap, ())
        marks = [literal(mark, special) for mark in (form.start, form.end)]
        start, end = (f"{marks[0]} {gap}", f"{gap} {marks[1]}") if has_marks else ("", "")
        again = 0 if form.is_bare else self.most_calls - 1
        if form.is_list:
            more = f'(", " call){{0,{again}}}' if again else ""
            whole = f'start: {start} "[" call {more} "]" {end}'
        else:
            more = f'("\\n" marked){{0,{again}}}' if again else ""
            first, last = (literal(mark, special) for mark in form.group)
            marked = f"marked {more}"
            whole = f"start: {f'{first} {marked} {last}' if first else marked}\nmarked: {start} call {end}"
        lines = [whole, f"call: {' | '.join(f'c{i}' for i in range(len(called)))}"]
        for number, tool in enumerate(called):
            if form.before_arguments:
                before = f"{literal(form.before_name, special)} {json.dumps(tool['name'])}"
                before, behind = f"{before} {literal(form.before_arguments, special)}", form.behind_arguments
            else:
                before = json.dumps(f'{{"name": {json.dumps(tool["name"])}, {json.dumps(form.arguments)}: ')
                behind = "}"
            lines.append(f"c{number}: {before} a{number} {literal(behind, special)}")
            lines.append(f"a{number}: %json {json.dumps(closed(tool['parameters']))}")
        return Grammar.lark("\n".join(lines))


def literal(text: str, special: Collection[str]) -> str:
    """Return a text in Lark's syntax; special tokens in it stand without quotes.

    >>> literal("call<sep>.", {"<sep>"})
    '"call" <sep> "."'
    """
    parts = [part for part in re.split(f"({MARK.pattern})", text) if part]
    return " ".join(part if part in special else json.dumps(part) for part in parts)


def read_tools(fields: Fields, *, is_flat: bool = False) -> ToolUse:
    """Read ``tools``, ``tool_choice`` and ``parallel_tool_calls``.

    Args:
        fields: fields of the request.
        is_flat: whether tools have their name beside their type, as in the Responses API.

    Raises:
        ApiError: a field has another shape, or the choice is not among the tools.
    """
    given = fields.items("tools") or []
    if len(given) > MAX_TOOLS:
        raise refused("tools", len(given), f"at most {MAX_TOOLS}")
    tools = tuple(_tool(as_fields(tool, f"tools[{i}]"), is_flat) for i, tool in enumerate(given))
    parallel = fields.any("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise refused("parallel_tool_calls", parallel, "true or false")
    most = 1 if parallel is False else MAX_PARALLEL_CALLS
    names = tuple(tool["name"] for tool in tools)
    choice = fields.any("tool_choice")
    if choice is None or choice == "auto":
        return ToolUse(tools, (), most)
    if choice == "none":
        return ToolUse()
    if not tools:
        raise ApiError(400, "tool_choice: there are no tools to choose from", code="invalid_value", param="tool_choice")
    if choice == "required":
        return ToolUse(tools, names, most)
    named = as_fields(choice, "tool_choice")
    named.word("type", "function")
    function = named if is_flat else named.nested("function")
    name = function.text("name") if function is not None else None
    if name not in names:
        raise refused("tool_choice", name, f"none, auto, required, or one of the functions {', '.join(names)}")
    return ToolUse(tools, (str(name),), 1)


def _tool(fields: Fields, is_flat: bool) -> dict[str, Any]:
    if fields.text("type") != "function":
        raise refused(fields.name("type"), fields.any("type"), "'function'", code="unsupported_parameter")
    function = fields if is_flat else fields.nested("function")
    if function is None:
        raise refused(fields.name("function"), None, "an object with name and parameters")
    name, parameters = function.text("name"), function.any("parameters")
    if not name:
        raise refused(function.name("name"), name, "the name of a function")
    if parameters is not None and not isinstance(parameters, dict):
        raise refused(function.name("parameters"), parameters, "a JSON schema")
    tool = {"name": name, "description": function.text("description") or "", "parameters": parameters or ANY_OBJECT}
    function.pass_over("strict")  # a forced call always follows its schema
    function.done()
    fields.done()
    return tool


def closed(schema: Any) -> Any:
    """Return a schema of arguments without properties other than those it names, unless it allows them.

    >>> closed({"type": "object", "properties": {"a": {"type": "integer"}}})["additionalProperties"]
    False
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key in ("items", "prefixItems", "anyOf", "oneOf", "allOf"):
        if key in schema:
            result[key] = closed(schema[key])
    for key in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(key), dict):
            result[key] = {name: closed(inner) for name, inner in schema[key].items()}
    if "properties" in schema and not schema.keys() & OPENING_KEYS:
        result["additionalProperties"] = False
    return result


class HeldCalls:
    """Text of an answer that may call tools; it is held back from a possible call to the end.

    >>> held = HeldCalls()
    >>> held.feed("Sure. "), held.feed('[{"name": '), held.rest(has_calls=True), held.shown
    ('Sure. ', '', '', 'Sure. ')
    """

    def __init__(self) -> None:
        self.shown = ""
        self._text = ""
        self._marks = StopStrings(("[", "{", *STARTS))

    def feed(self, text: str) -> str:
        """Add text; return the part that can be shown now."""
        self._text += text
        return self._show(self._marks.feed(text))

    def rest(self, *, has_calls: bool) -> str:
        """Return the rest at the end: the held text, unless it was a call."""
        return "" if has_calls else self._show(self._text[len(self.shown) :])

    def _show(self, text: str) -> str:
        self.shown += text
        return text


def text_beside_calls(text: str, texts_of_calls: Sequence[object]) -> str | None:
    """Return the content of a whole answer; None if it is calls alone."""
    if not texts_of_calls:
        return text
    held = HeldCalls()
    held.feed(text)
    return held.shown.strip() or None
