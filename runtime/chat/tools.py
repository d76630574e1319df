"""Tool calls: presentation of tools to the model and parsing of its calls, in the format of Phi-4-mini.

The system message carries the tools as JSON between ``<|tool|>`` and ``<|/tool|>`` (the chat template writes
them); the model answers ``<|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>``, or, as its first
release does, ``functools[{...}]``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palmtop.errors import InputError
from palmtop.runtime.bundle.json_fields import kind_of
from palmtop.runtime.processor.text import TextProcessor
from palmtop.runtime.processor.tool_calls import CALL_END, CALL_PREFIX, CALL_START

from .reply import ToolCall

Tool = Mapping[str, Any]
_PROBE = "palmtop_probe"


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
        shown = text.prompt([*first_messages(None, probe), {"role": "user", "content": "-"}], tools=probe)
        if _PROBE not in text.decode(shown.ids.tolist()):
            raise InputError("tools: this bundle's chat template does not show tools to the model")


def first_messages(system: str | None, tools: Sequence[Tool]) -> list[Mapping[str, Any]]:
    """Return the system message of a dialogue, with the tools in it; empty without system text and tools."""
    if system is not None and not isinstance(system, str):
        raise InputError(f"system: found {kind_of(system)}, expected text")
    if not tools:
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
    if not tools:
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
    return tuple(call for body in _bodies(text, ids, processor) for call in parse_calls(body))


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


def _bodies(text: str, ids: Sequence[int], processor: TextProcessor) -> Iterator[str]:
    start, end = processor.encode_special(CALL_START), processor.encode_special(CALL_END)
    if start is not None and start in ids:
        rest = list(ids)
        while start in rest:
            rest = rest[rest.index(start) + 1 :]
            yield processor.decode(rest[: rest.index(end)] if end in rest else rest)
        return
    for part in text.split(CALL_START)[1:]:
        yield part.partition(CALL_END)[0]
    if text.lstrip().startswith(CALL_PREFIX):
        yield text.lstrip().removeprefix(CALL_PREFIX)
