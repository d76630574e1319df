"""Writes docs/api.md, the API reference, from the docstrings of palmtop: ``python -m docs.write_api --write``.

A public name without a docstring, or one whose parameters and sections differ, stops it with a sentence.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import palmtop

PAGE = Path(__file__).with_name("api.md")
HEADING = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$")
ENTRY = re.compile(r"^    (\*{0,2}[\w.]+): (.*)$")
INTERNAL = "; used by the session."  # a method whose docstring says this is not for users
WIDTH = 100  # longest signature on one line
Member = tuple[str, Any]


def page() -> str:
    """The reference as Markdown: functions, then classes, then errors.

    Raises:
        ValueError: a public name lacks its docstring, or documents other parameters than it has.
    """
    names = [name for name in dir(palmtop) if not name.startswith("_")]
    objects = {name: getattr(palmtop, name) for name in names}
    functions = {n: o for n, o in objects.items() if not inspect.isclass(o)}
    errors = {n: o for n, o in objects.items() if inspect.isclass(o) and issubclass(o, Exception)}
    classes = {n: o for n, o in objects.items() if n not in functions and n not in errors}
    lines = [
        "# API reference",
        "",
        "Everything that `import palmtop` gives, from its docstrings; written by `python -m docs.write_api --write`.",
        "",
    ]
    for heading, group in (("Functions", functions), ("Classes", classes), ("Errors", errors)):
        lines += [f"## {heading}", ""]
        for name, each in group.items():
            lines += described(name, each, "###")
            if inspect.isclass(each) and name in classes:
                for member, value in members(each):
                    lines += described(f"{name}.{member}", value, "####")
    return "\n".join(lines).rstrip() + "\n"


def members(owner: type) -> Iterator[Member]:
    """Public methods and properties of a class and of palmtop's classes below it, in the order of the source."""
    seen = set[str]()
    for base in owner.__mro__:
        if not base.__module__.startswith("palmtop"):
            continue
        for name, value in vars(base).items():
            value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            is_internal = INTERNAL in (getattr(value, "__doc__", "") or "")
            if (
                not name.startswith("_")
                and not is_internal
                and name not in seen
                and (inspect.isfunction(value) or isinstance(value, property))
            ):
                seen.add(name)
                yield name, value


def described(name: str, item: Any, level: str) -> list[str]:
    """Heading, signature and docstring of a public name."""
    text = inspect.getdoc(item) if not isinstance(item, property) else inspect.getdoc(item.fget)
    if not text:
        raise ValueError(f"{name}: has no docstring, expected one that says what it is")
    lines = [f"{level} {name}", ""]
    if inspect.isfunction(item):
        check(name, item, text)
        lines += ["```python", signature(name, item), "```", ""]
    return [*lines, *markdown(text), ""]


def signature(name: str, function: Callable[..., Any]) -> str:
    """The call with types and defaults, a parameter a line where it is long."""
    found = inspect.signature(function)
    own = [p for p in found.parameters.values() if p.name != "self" and p.name != "cls"]
    parts = [clean(str(p)) for p in own]
    if any(p.kind is p.KEYWORD_ONLY for p in own) and not any(p.kind is p.VAR_POSITIONAL for p in own):
        parts.insert(next(i for i, p in enumerate(own) if p.kind is p.KEYWORD_ONLY), "*")
    end = "" if found.return_annotation is found.empty else f" -> {clean(str(found.return_annotation))}"
    line = f"{name}({', '.join(parts)}){end}"
    return line if len(line) <= WIDTH else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){end}"


def clean(text: str) -> str:
    """A parameter as a reader writes it: types without quotes and private imports, options without their defaults."""
    text = re.sub(r"(\w+Options)\(.*\)", r"\1()", re.sub(r"(?<=: )'([^']*)'", r"\1", text))
    return re.sub(r"\b_(?=[A-Za-z])", "", text)


def check(name: str, function: Callable[..., Any], text: str) -> None:
    """Refuse a function whose parameters are not documented, or are others than its section of arguments names."""
    has = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    if section is None:
        if has and "arguments and errors as for" not in text:
            raise ValueError(f"{name}: documents no parameters, expected {', '.join(has)}")
        return
    told = [match[1].lstrip("*") for line in section[1].splitlines() if (match := ENTRY.match(line))]
    if sorted(told) != sorted(has):
        raise ValueError(f"{name}: documents {', '.join(told)}, expected its parameters {', '.join(has)}")


def markdown(text: str) -> list[str]:
    """A docstring as Markdown: sections become lists, examples code."""
    lines: list[str] = []
    is_section = is_code = False
    indent = ""
    for line in text.splitlines():
        if line.startswith(">>>") and not is_code:
            lines.append("```python")
            is_code = True
        if is_code and not line:
            lines.append("```")
            is_code = False
        if is_code:
            lines.append(re.sub(r"\s*# doctest: \+\w+", "", line))
        elif heading := HEADING.match(line):
            is_section, indent = True, ""
            lines += [f"**{heading[1]}**", ""]
        elif line and not line.startswith(" "):
            is_section = False
            lines.append(line.replace("``", "`"))
        elif is_section and (entry := ENTRY.match(line)):
            indent = "  "
            lines.append(f"- `{entry[1]}`: {entry[2]}".replace("``", "`"))
        else:
            lines.append((indent + line.strip() if is_section and line else line).replace("``", "`"))
    return [*lines, "```"] if is_code else lines


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(), "utf-8")
    else:
        sys.stdout.write(page())
