"""Text of tool calls in an answer, for templates that do not show calls; in the model's own format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from palmtop.errors import InputError
from palmtop.runtime.bundle.json_fields import kind_of

from .tool_formats import ToolFormat


def written_calls(calls: object, where: str, mark: Callable[[str], str], form: ToolFormat) -> str:
    """Return the text of calls as the model writes it.

    Args:
        calls: ``tool_calls`` of a message: {"function": {"name", "arguments": object or JSON text}}, or the inner
            object.
        where: path of the message, for errors.
        mark: protects control tokens in a text.
        form: format of calls.

    Raises:
        InputError: the calls have another shape.
    """
    if isinstance(calls, (str, Mapping)) or not isinstance(calls, Sequence):
        raise InputError(f"{where}.tool_calls: found {kind_of(calls)}, expected a list of calls")
    read = [_call(call, f"{where}.tool_calls[{i}]", form) for i, call in enumerate(calls)]
    if form.before_arguments:
        given = [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in read]
        inner = [
            f"{form.before_name}{mark(name)}{form.before_arguments}{mark(text)}{form.behind_arguments}"
            for name, text in given
        ]
        return form.group[0] + "\n".join(f"{form.start}{each}{form.end}" for each in inner) + form.group[1]
    if form.is_python:
        lines = "\n".join(f"{name}({', '.join(f'{k}={v!r}' for k, v in given.items())})" for name, given in read)
        bodies = [f"```python\n{lines}\n```"]
    else:
        objects = [{"name": name, form.arguments: given} for name, given in read]
        bodies = [json.dumps(each, ensure_ascii=False) for each in ([objects] if form.is_list else objects)]
    return "\n".join(f"{form.start}{form.gap}{mark(body)}{form.gap}{form.end}" for body in bodies)


def _call(call: object, where: str, form: ToolFormat) -> tuple[str, Mapping[str, Any]]:
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise InputError(f"{where}: found no name, expected a function with name and arguments")
    arguments = inner.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}.arguments: is not JSON ({error!s:.200})") from error
    if form.is_python and not isinstance(arguments, Mapping):
        raise InputError(f"{where}.arguments: found {kind_of(arguments)}, expected an object")
    return inner["name"], arguments
