"""``content: null`` beside ``tool_calls``, as OpenAI clients send it, with templates of every manner."""

from __future__ import annotations

from typing import Any

import pytest

from palmtop.runtime.processor.chat_template import ChatTemplate
from palmtop.runtime.reference import checkpoint_path
from tests.runtime.processor.test_text import PARTS, PHI, processor_of

CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
WRITES = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
LOOKS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content is none %}{{ m.tool_calls | tojson }}{% else %}"
    "{{ m.content }}{% endif %}<|end|>{% endfor %}"
)


def conversation(content: str | None) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "what is 1 + 1?"},
        {"role": "assistant", "content": content, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]


@pytest.mark.parametrize("template", [PHI, WRITES, PARTS], ids=["adds to it", "writes it", "takes lists"])
def test_null_is_an_empty_text_for_a_template_that_does_not_know_it(template: str) -> None:
    processor = processor_of(checkpoint_path() / "tokenizer.json", template)
    found = processor.prompt(conversation(None)).ids.tolist()
    assert found == processor.prompt(conversation("")).ids.tolist()
    assert "None" not in processor.decode(found)


def test_null_stays_null_for_a_template_that_looks_for_it() -> None:
    processor = processor_of(checkpoint_path() / "tokenizer.json", LOOKS)
    assert '"name": "add"' in processor.decode(processor.prompt(conversation(None)).ids.tolist())
    assert '"name": "add"' not in processor.decode(processor.prompt(conversation("")).ids.tolist())


@pytest.mark.parametrize(
    ("template", "takes"), [(PHI, (False, False)), (WRITES, (False, False)), (LOOKS, (False, True))]
)
def test_what_templates_take_is_found_by_trying(template: str, takes: tuple[bool, bool]) -> None:
    found = ChatTemplate(template)
    assert (found.takes_null(calls_tools=False), found.takes_null(calls_tools=True)) == takes
