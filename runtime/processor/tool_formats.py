"""Formats in which models of each family write tool calls, as data; the chat template tells which one a bundle has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palmtop.runtime.bundle.opening import Bundle

from .tokenizer import Tokens

MARK = re.compile(r"<[^<>\s]+>")
"""A text that may be one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """Format of tool calls in an answer, and of tools in a prompt.

    Attributes:
        name: name of the format.
        told_by: texts that are all in the chat template of a model with this format.
        start: text, or special token, before a call or a list of calls; empty where the call is the whole answer.
        end: text or special token behind it; empty where the answer ends there.
        gap: white space between the marks and what they enclose.
        prefixes: further texts that an answer with calls may begin with.
        arguments: key of a call's arguments.
        is_list: whether the marks enclose a JSON list of calls; otherwise one call.
        is_python: whether the marks enclose calls in Python's syntax.
        in_message: whether the template reads tools from the system message; otherwise from its variable ``tools``.
        group: marks before the first and behind the last call of an answer.
        before_name: text between ``start`` and a call's name, where name and arguments are no JSON object together.
        before_arguments: text between that name and its arguments in JSON; empty where a call is a JSON object.
        behind_arguments: text between those arguments and ``end``.
    """

    name: str
    told_by: tuple[str, ...]
    start: str
    end: str
    gap: str = ""
    prefixes: tuple[str, ...] = ()
    arguments: str = "arguments"
    is_list: bool = False
    is_python: bool = False
    in_message: bool = False
    group: tuple[str, str] = ("", "")
    before_name: str = ""
    before_arguments: str = ""
    behind_arguments: str = ""

    @property
    def is_bare(self) -> bool:
        """Whether a call is the whole answer, without marks."""
        return not self.start

    @property
    def marks(self) -> tuple[str, ...]:
        """All texts of the format that may be tokens of their own."""
        parts = (*self.group, self.start, self.before_name, self.before_arguments, self.behind_arguments, self.end)
        return tuple(dict.fromkeys(mark for part in parts for mark in MARK.findall(part)))


PHI4 = ToolFormat(
    name="phi4",
    told_by=("<|tool|>",),
    start="<|tool_call|>",
    end="<|/tool_call|>",
    prefixes=("functools",),
    is_list=True,
    in_message=True,
)
FORMATS = (
    PHI4,
    ToolFormat(
        name="minicpm3",
        told_by=("<|tool_call_start|>", "<|tool_call_end|>"),
        start="<|tool_call_start|>",
        end="<|tool_call_end|>",
        gap="\n",
        is_python=True,
    ),
    ToolFormat(
        name="granite3",
        told_by=("available_tools", "<|tool_call|>"),
        start="<|tool_call|>",
        end="",
        prefixes=("<tool_call>",),
        is_list=True,
    ),
    ToolFormat(name="granite3.1", told_by=("available_tools",), start="<tool_call>", end="", is_list=True),
    ToolFormat(  # Qwen2.5, Qwen3, Granite 4, SmolLM3
        name="hermes", told_by=("<tool_call>", "</tool_call>"), start="<tool_call>", end="</tool_call>", gap="\n"
    ),
    ToolFormat(  # DeepSeek-R1 and its distilled models
        name="deepseek",
        told_by=("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),  # noqa: RUF001
        start="<｜tool▁call▁begin｜>",  # noqa: RUF001
        end="<｜tool▁call▁end｜>",  # noqa: RUF001
        group=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),  # noqa: RUF001
        before_name="function<｜tool▁sep｜>",  # noqa: RUF001
        before_arguments="\n```json\n",
        behind_arguments="\n```",
    ),
    ToolFormat(
        name="llama3",
        told_by=("ipython", "parameters"),
        start="",
        end="",
        prefixes=("<|python_tag|>",),
        arguments="parameters",
    ),
)
STARTS = tuple(
    dict.fromkeys(text for each in FORMATS for text in (each.group[0] or each.start, *each.prefixes) if text)
)
"""Texts that a call may begin with, in any format."""


def format_of(template: str) -> ToolFormat:
    """Return the format that a chat template tells; Phi-4-mini's for a template that tells none.

    >>> format_of("... <tool_call> ... </tool_call> ...").name
    'hermes'
    """
    return next((each for each in FORMATS if all(text in template for text in each.told_by)), PHI4)


def calls_of(bundle: Bundle) -> tuple[ToolFormat, frozenset[str]]:
    """Return the format of a bundle's tool calls, and its marks that are special tokens of the tokenizer."""
    form = format_of(bundle.file("chat_template.jinja").read_text("utf-8"))
    return form, frozenset(set(form.marks) & set(Tokens(bundle.file("tokenizer.json")).special))


def shown_tools(tools: Sequence[Mapping[str, Any]], form: ToolFormat) -> list[Mapping[str, Any]]:
    """Return tools as templates expect them in their variable: each a function inside an object that says so."""
    if form.in_message:
        return list(tools)
    return [tool if "function" in tool else {"type": "function", "function": dict(tool)} for tool in tools]
