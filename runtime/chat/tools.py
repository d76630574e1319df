"""Tool calls: presentation of tools to the model and parsing of its calls, in the format that the template tells.

Phi-4-mini's system message carries the tools as JSON between ``<|tool|>`` and ``<|/tool|>`` (the chat template writes
them); the model answers ``<|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>``, or, as its first
release does, ``functools[{...}]``. ``processor/tool_formats.py`` has the formats of the other families.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from palmtop.errors import InputError
from palmtop.runtime.bundle.json_fields import kind_of
from palmtop.runtime.processor.text import TextProcessor
from palmtop.runtime.processor.tool_formats import ToolFormat

from .reply import ToolCall

Tool = Mapping[str, Any]
_PROBE = "palmtop_probe"
MAX_PYTHON = 1 << 16  # characters of calls in Python's syntax that are parsed


def check_tools(tools: Sequence[Tool], text: TextProcessor) -> None:
    """Refuse tools that the chat template cannot present to the model.

    Raises:
        InputError: a tool has another shape, or the bundle's chat template has no place for tools.
    """
    if isinstance(tools, (str, Mapping)) or not isinstance(tools, Sequence):
        raise InputError(f"tools: found {kind_of(tools)}, expected a list of functions")
    for number, tool in enumerate(tools):
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise InputError(f"tools[{number}]: found no name, expected an object with name and parameters")
        try:
            json.dumps(tool)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"tools[{number}]: is not JSON ({error!s:.200})") from error
    if tools:
        probe = [{"name": _PROBE}]
        shown = text.prompt([*first_messages(None, probe, text), {"role": "user", "content": "-"}], tools=probe)
        if _PROBE not in text.decode(shown.ids.tolist()):
            raise InputError("tools: this bundle's chat template does not show tools to the model")


def first_messages(system: str | None, tools: Sequence[Tool], text: TextProcessor) -> list[Mapping[str, Any]]:
    """Return the system message of a dialogue, with the tools in it where the template reads them there.

    Empty without a system text if the template writes tools itself: it may have a system text of its own.
    """
    if system is not None and not isinstance(system, str):
        raise InputError(f"system: found {kind_of(system)}, expected text")
    if not tools or not text.tool_format.in_message:
        return [] if system is None else [{"role": "system", "content": system}]
    return [{"role": "system", "content": system or "", "tools": json.dumps(list(tools))}]


def with_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], text: TextProcessor
) -> list[Mapping[str, Any]]:
    """Return messages with tools in their first system message, or in a new one before them.

    Args:
        messages: messages of the dialogue.
        tools: functions; none leaves the system message as it is.
        text: text processor of the bundle.

    Raises:
        InputError: as for ``check_tools``.
    """
    check_tools(tools, text)
    leads = bool(messages) and isinstance(messages[0], Mapping) and messages[0].get("role") == "system"
    if not tools or not text.tool_format.in_message:
        return list(messages)
    system = {"role": "system", "content": "", **(messages[0] if leads else {}), "tools": json.dumps(list(tools))}
    return [system, *messages[leads:]]


def find_tool_calls(text: str, ids: Sequence[int], processor: TextProcessor) -> tuple[ToolCall, ...]:
    """Return the tool calls in an answer; empty if it contains none.

    Args:
        text: text of the answer, without special tokens.
        ids: ids of the answer; needed where the marks are special tokens.
        processor: processor configuration of the bundle.
    """
    form = processor.tool_format
    read = python_calls if form.is_python else partial(named_calls, form=form) if form.before_arguments else parse_calls
    found = [call for body in _bodies(text, ids, processor) for call in read(body)]
    if form.is_bare:
        return tuple(_bare_calls(text, form))
    if form.is_python and not found and text.lstrip().startswith("[{"):  # a forced call, whose grammar is of JSON
        return tuple(parse_calls(text))
    return tuple(found)


def parse_calls(body: str) -> Iterator[ToolCall]:
    """Parse calls from a JSON object or list: {"name", "arguments" or "parameters"}; other items are left out.

    >>> list(parse_calls('[{"name": "add", "arguments": {"a": 1}}]'))
    [ToolCall(name='add', arguments={'a': 1})]
    """
    try:
        found, _ = json.JSONDecoder().raw_decode(body.strip())
    except (ValueError, RecursionError):
        return
    for entry in found if isinstance(found, list) else [found]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            continue
        arguments = entry.get("arguments", entry.get("parameters", {}))
        if isinstance(arguments, str):  # some models write the arguments as JSON in a string
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                continue
        if isinstance(arguments, dict):
            yield ToolCall(name=entry["name"], arguments=arguments)


def python_calls(body: str) -> Iterator[ToolCall]:
    """Parse calls in Python's syntax with literal keyword arguments; other statements are left out.

    >>> list(python_calls("add(a=1, b='x')"))
    [ToolCall(name='add', arguments={'a': 1, 'b': 'x'})]
    """
    source = body.strip().removeprefix("```python").removesuffix("```").strip()
    try:
        statements = ast.parse(source[:MAX_PYTHON]).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for statement in statements:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            continue
        try:
            arguments = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords if each.arg}
            json.dumps(arguments)
        except (ValueError, TypeError, RecursionError, MemoryError):
            continue
        yield ToolCall(name=call.func.id, arguments=arguments)


def named_calls(body: str, form: ToolFormat) -> Iterator[ToolCall]:
    """Parse one call whose name stands apart from its arguments; nothing where either is missing."""
    opening, _, arguments = body.partition(form.before_arguments)
    _, mark, name = opening.partition(form.before_name)
    try:
        found, _ = json.JSONDecoder().raw_decode(arguments.strip())
    except (ValueError, RecursionError):
        return
    if mark and name.strip() and isinstance(found, dict):
        yield ToolCall(name=name.strip(), arguments=found)


def _bare_calls(text: str, form: ToolFormat) -> Iterator[ToolCall]:
    """Calls that are the whole answer: an object of a name and arguments alone, or such objects behind each other."""
    body = text.strip()
    for prefix in form.prefixes:
        body = body.removeprefix(prefix).lstrip()
    while body.startswith("{"):
        try:
            found, end = json.JSONDecoder().raw_decode(body)
        except (ValueError, RecursionError):
            return
        if form.arguments in found and found.keys() <= {"name", form.arguments, "type"}:
            yield from parse_calls(body[:end])
        body = body[end:].lstrip("; \n")


def _bodies(text: str, ids: Sequence[int], processor: TextProcessor) -> Iterator[str]:
    form = processor.tool_format
    if form.is_bare:
        return
    start, end = processor.encode_special(form.start), processor.encode_special(form.end) if form.end else None
    if start is not None and start in ids and form.start not in text:  # a special token leaves no text
        rest = list(ids)
        while start in rest:
            rest = rest[rest.index(start) + 1 :]
            inner = rest[: rest.index(end)] if end in rest else rest
            yield processor.decode(inner, keep_special=bool(form.before_arguments))
        return
    for part in text.split(form.start)[1:]:
        yield part.partition(form.end)[0] if form.end else part
    for prefix in form.prefixes:
        if text.lstrip().startswith(prefix):
            yield text.lstrip().removeprefix(prefix)
