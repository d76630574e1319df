"""Docstrings and sentences of product code: plain definitions, no personification (CONTRIBUTING, style)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("export", "quantize", "runtime")
NOT_DONE: tuple[str, ...] = ()
BANNED = re.compile(
    r"\b(nobody|somebody|anybody|whoever|somewhere|wishes|likewise|is told|are told|speaks|hears|knows|ears|"
    r"believes?|what is left|what comes|what it says|kitchen|journey|dear|honest)\b",
    re.IGNORECASE,
)
FIRST_SENTENCE = re.compile(r"(?s)(.+?\.)(?=\s|$)")
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    return sorted(
        path
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if not any(path.relative_to(ROOT).as_posix().startswith(f"{part}/") for part in NOT_DONE)
    )


def public(node: Documented, name: str) -> Iterator[tuple[str, Documented]]:
    """The node and what is public in it; functions inside functions are not."""
    yield name, node
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
                yield from public(child, f"{name}.{child.name}")


def sentences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Texts of three words and more: docstrings, help, errors; the constant parts of f-strings by themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 2:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_begin_with_a_definition(path: Path) -> None:
    wrong = []
    for name, node in public(ast.parse(path.read_text("utf-8")), path.stem):
        text = ast.get_docstring(node) or ""
        first = FIRST_SENTENCE.match(text.split("\n\n")[0])
        if first is None or len(first[1].split()) < 3:
            wrong.append(f"{name}: {text[:80]!r}")
    assert not wrong


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_texts_are_literal(path: Path) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]}"
        for line, text in sentences(ast.parse(path.read_text("utf-8")))
        for match in BANNED.finditer(text)
    ]
    assert not found


def test_the_list_of_rooms_not_done_is_of_rooms() -> None:
    assert all((ROOT / part).is_dir() for part in NOT_DONE)
