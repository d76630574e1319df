"""Text of tool calls in an answer, in Phi-4-mini's format, for templates that do not show calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from palmtop.errors import InputError
from palmtop.runtime.bundle.json_fields import kind_of

CALL_START, CALL_END = "<|tool_call|>", "<|/tool_call|>"
CALL_PREFIX = "functools"


def written_calls(calls: object, where: str, mark: Callable[[str], str]) -> str:
    """Return the text of calls as the model writes it.

    Args:
        calls: ``tool_calls`` of a message: {"function": {"name", "arguments": object or JSON text}}, or the inner
            object.
        where: path of the message, for errors.
        mark: protects control tokens in a text.

    Raises:
        InputError: the calls have another shape.
    """
    if isinstance(calls, (str, Mapping)) or not isinstance(calls, Sequence):
        raise InputError(f"{where}.tool_calls: found {kind_of(calls)}, expected a list of calls")
    body = json.dumps([_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)], ensure_ascii=False)
    return f"{CALL_START}{mark(body)}{CALL_END}"


def _call(call: object, where: str) -> dict[str, Any]:
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise InputError(f"{where}: found no name, expected a function with name and arguments")
    arguments = inner.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}.arguments: is not JSON ({error!s:.200})") from error
    return {"name": inner["name"], "arguments": arguments}
