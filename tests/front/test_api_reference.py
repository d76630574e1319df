"""docs/api.md is what the docstrings say, of every public name; a docstring that is missing or wrong stops it."""

from __future__ import annotations

import inspect

import pytest

import palmtop
from docs import write_api


def test_the_page_is_what_the_docstrings_say() -> None:
    assert write_api.PAGE.read_text("utf-8") == write_api.page(), "python -m docs.write_api --write"


def test_every_public_name_and_method_is_on_the_page() -> None:
    headings = [line.lstrip("# ") for line in write_api.page().splitlines() if line.startswith("###")]
    assert {name for name in dir(palmtop) if not name.startswith("_")} <= set(headings)
    assert {"Session.chat", "Conversation.fork", "Reply.finish_reason", "Grammar.json_schema"} <= set(headings)
    assert len(headings) == len(set(headings))
    assert "Conversation.parked" not in headings  # "used by the session"


def test_a_signature_has_types_and_defaults_as_they_are_written() -> None:
    page = write_api.page()
    assert "    provider: str | Mapping[str, str] = 'cpu',\n" in page
    assert "    options: GenerationOptions = GenerationOptions(),\n" in page
    assert "(self" not in page and "_Any" not in page and "doctest" not in page


def wrong(name: str) -> None:
    """Do nothing.

    Args:
        nam: another name than the parameter has.
    """


def test_a_docstring_of_other_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="f: documents nam, expected its parameters name"):
        write_api.described("f", wrong, "###")


def silent(name: str) -> None:
    """Do nothing with a name."""


def test_a_docstring_without_its_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="f: documents no parameters, expected name"):
        write_api.described("f", silent, "###")


def test_a_name_without_a_docstring_is_refused() -> None:
    with pytest.raises(ValueError, match="f: has no docstring"):
        write_api.described("f", lambda: None, "###")


def test_sections_become_lists_and_examples_code() -> None:
    text = "Say ``it``.\n\nArgs:\n    a: one\n        more.\n\nReturns:\n    Two.\n\n>>> f(1)  # doctest: +SKIP\n2"
    assert write_api.markdown(inspect.cleandoc(text)) == [
        *["Say `it`.", "", "**Args**", "", "- `a`: one", "  more.", ""],
        *["**Returns**", "", "Two.", "", "```python", ">>> f(1)", "2", "```"],
    ]
