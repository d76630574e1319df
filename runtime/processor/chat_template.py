"""Chat template of a bundle, rendered by the rules of transformers' ``apply_chat_template``.

Templates come with models and are not trusted: they run in jinja2's immutable sandbox on plain JSON types, with limited
time and memory. Independent of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from palmtop.errors import BundleError, InputError

from .template_sandbox import MAX_SIZE, LimitedEnvironment

_PROBE = "palmtop probe"
THINKING_SWITCHES = ("enable_thinking", "thinking")  # Qwen3, MiniCPM4.1, SmolLM3; Granite 3.3, DeepSeek-V3.1


class _Generation(Extension):
    """Jinja2 extension for ``{% generation %}``, which marks an assistant's words for training; its body is shown."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own spelling

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Return the body of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """Compiled chat template with rendering and probing.

    Args:
        source: content of ``chat_template.jinja``.

    Raises:
        BundleError: the source is not a jinja2 template.
    """

    def __init__(self, source: str) -> None:
        self._environment = LimitedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self._environment.filters["tojson"] = self._environment.limited(_to_json)
        self._environment.globals["raise_exception"] = _raise_exception
        self._environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._source = source
        try:
            self._template = self._environment.from_string(source)
        except TemplateSyntaxError as error:
            raise BundleError(f"chat_template.jinja: line {error.lineno}: {error.message}") from error
        except (TemplateError, RecursionError, MemoryError, ValueError, ArithmeticError) as error:
            raise BundleError(f"chat_template.jinja: cannot be compiled ({error!s:.200})") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        special_tokens: Mapping[str, str] | None = None,
        thinking: bool | None = None,
    ) -> str:
        """Return the prompt as text.

        Args:
            messages: value of ``messages`` in the template; plain types only.
            tools: JSON schemas of functions.
            add_generation_prompt: whether to end with the opening of an answer.
            special_tokens: texts by name for the template, such as ``eos_token``.
            thinking: value of the template's switch for thinking; None leaves it undefined.

        Raises:
            InputError: the template refuses the conversation, or has no such switch.
        """
        if thinking is not None and not self._switches:
            names = " or ".join(THINKING_SWITCHES)
            raise InputError(f"thinking: found {thinking}, but this bundle's chat template does not read {names}")
        self._environment.begin()
        values = {
            **(special_tokens or {}),
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **({} if thinking is None else dict.fromkeys(self._switches, thinking)),
        }
        written: list[str] = []
        length = 0
        try:
            for part in self._template.generate(values):
                written.append(part)
                length += len(part)
                if length > MAX_SIZE:
                    raise TemplateError(f"it writes more than {MAX_SIZE} characters")
        except RecursionError as error:
            raise InputError("chat_template.jinja: the template calls itself without end") from error
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, MemoryError) as error:
            raise InputError(f"chat_template.jinja: the template refuses these messages: {error!s:.300}") from error
        except (AttributeError, AssertionError) as error:  # exceptions that jinja2 does not expect of a template
            raise InputError(f"chat_template.jinja: the template fails: {error!s:.300}") from error
        return "".join(written)

    @cached_property
    def _switches(self) -> list[str]:
        """Variables by which the template switches thinking."""
        read = meta.find_undeclared_variables(self._environment.parse(self._source))
        return [name for name in THINKING_SWITCHES if name in read]

    @cached_property
    def literal_text(self) -> str:
        """All texts that the template itself may write, joined by NUL."""
        tree = self._environment.parse(self._source)
        texts = [node.data for node in tree.find_all(nodes.TemplateData)]
        texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        return "\0".join(texts)

    @cached_property
    def takes_text(self) -> bool:
        """Whether a message's content may be a string; otherwise it must be a list of parts."""
        try:
            return _PROBE in self.render([{"role": "user", "content": _PROBE}])
        except InputError:
            return False

    @cached_property
    def shows_calls(self) -> bool:
        """Whether an assistant's ``tool_calls`` become part of the prompt, beside a text or beside null."""
        call = {"id": "0", "type": "function", "function": {"name": _PROBE, "arguments": {}}}

        def shows(content: str | None) -> bool:
            calling = {"role": "assistant", "content": content, "tool_calls": [call]}
            try:
                return _PROBE in self.render([{"role": "user", "content": "?"}, calling])
            except InputError:
                return False

        return shows("") or shows(None)

    def takes_null(self, *, calls_tools: bool) -> bool:
        """Return whether an assistant's content may be null; otherwise templates get an empty text instead.

        Args:
            calls_tools: whether the message has ``tool_calls``, as messages without content usually have.
        """
        return self._takes_null[calls_tools]

    @cached_property
    def _takes_null(self) -> tuple[bool, bool]:
        call = {"id": "0", "type": "function", "function": {"name": _PROBE, "arguments": {}}}

        def takes(message: dict[str, Any]) -> bool:
            try:
                rendered = self.render([{"role": "user", "content": _PROBE}, {"role": "assistant", **message}])
            except InputError:
                return False
            return "None" not in rendered  # jinja2's text for null

        return takes({"content": None}), takes({"content": None, "tool_calls": [call]})


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON filter without HTML escapes, which jinja2's own has and training data has not."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def plain(value: object, change: Callable[[str], str]) -> Any:
    """Return a copy of JSON-like data with changed strings (keys unchanged); other objects become their type's name."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, change) for item in value]
    return f"<{type(value).__name__}>"
