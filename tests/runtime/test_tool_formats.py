"""Tools and calls in every family's format: told by the template, read, written again, forced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import palmtop
from palmtop.runtime.chat.reply import ToolCall
from palmtop.runtime.chat.tools import find_tool_calls, first_messages, with_tools
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.processor.text import TextProcessor
from palmtop.runtime.processor.tool_formats import FORMATS, PHI4, format_of
from palmtop.runtime.serve.wire.tools import HeldCalls, ToolUse
from tests.export.families import CHATML
from tests.reference.vocabulary import CHAT_TEMPLATE, build_tokenizer
from tests.runtime.phi_specs import PLAIN_TEXT

# Parts of the families' templates that tell a format: a block of tools, and a sentence on how to call them.
SHOWN = "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
TEMPLATES = {
    "phi4": CHAT_TEMPLATE,
    "hermes": SHOWN + "{{ 'return a json object within <tool_call></tool_call> XML tags' }}" + CHATML,
    "granite3": SHOWN + "{% if tools %}{{ 'available_tools respond only with <|tool_call|>' }}{% endif %}" + CHATML,
    "granite3.1": SHOWN + "{% if tools %}{{ 'available_tools respond with <tool_call>' }}{% endif %}" + CHATML,
    "llama3": SHOWN + '{% if tools %}{{ \'ipython {"name": .., "parameters": ..}\' }}{% endif %}' + CHATML,
    "deepseek": SHOWN + "{% if tools %}{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' }}{% endif %}" + CHATML,  # noqa: RUF001
    "minicpm3": SHOWN + "{% if tools %}{{ '<|tool_call_start|> <|tool_call_end|>' }}{% endif %}" + CHATML,
}
TOOL = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
ONE, TWO = ToolCall(name="add", arguments={"a": 1}), ToolCall(name="add", arguments={"a": 2})


def deepseek_call(number: int) -> str:
    return f'<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{{"a": {number}}}\n```<｜tool▁call▁end｜>'  # noqa: RUF001


ANSWERS: dict[str, list[tuple[str, tuple[ToolCall, ...]]]] = {
    "phi4": [
        ('<|tool_call|>[{"name": "add", "arguments": {"a": 1}}]<|/tool_call|>', (ONE,)),
        ('functools[{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"a": 2}}]', (ONE, TWO)),
    ],
    "hermes": [
        ('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', (ONE,)),
        (
            'Both.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>',
            (ONE, TWO),
        ),
        ('functools[{"name": "add", "arguments": {"a": 1}}]', ()),
    ],
    "granite3": [
        ('<|tool_call|>[{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"a": 2}}]', (ONE, TWO)),
        ('<tool_call>[{"name": "add", "arguments": {"a": 1}}]', (ONE,)),
    ],
    "granite3.1": [('<tool_call>[{"name": "add", "arguments": {"a": 1}}]', (ONE,))],
    "llama3": [
        ('{"name": "add", "parameters": {"a": 1}}', (ONE,)),
        ('<|python_tag|>{"name": "add", "parameters": {"a": 1}}', (ONE,)),
        ('{"name": "add", "parameters": {"a": 1}}; {"name": "add", "parameters": {"a": 2}}', (ONE, TWO)),
        ('The call is {"name": "add", "parameters": {"a": 1}}', ()),
        ('{"name": "Ada", "born": 1815}', ()),
        ('{"name": "Ada", "parameters": {"a": 1}, "born": 1815}', ()),
    ],
    "deepseek": [
        (f"<｜tool▁calls▁begin｜>{deepseek_call(1)}<｜tool▁calls▁end｜>", (ONE,)),  # noqa: RUF001
        (f"<｜tool▁calls▁begin｜>{deepseek_call(1)}\n{deepseek_call(2)}<｜tool▁calls▁end｜>", (ONE, TWO)),  # noqa: RUF001
        (deepseek_call(1), (ONE,)),
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{", ()),  # noqa: RUF001
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add\n```json\n{}\n```<｜tool▁call▁end｜>", ()),  # noqa: RUF001
    ],
    "minicpm3": [
        ("<|tool_call_start|>\n```python\nadd(a=1)\nadd(a=2)\n```\n<|tool_call_end|>", (ONE, TWO)),
        ("<|tool_call_start|>\n```python\nadd(a=open('x'))\nimport os\n```\n<|tool_call_end|>", ()),
        ("<|tool_call_start|>\n```python\nadd(a=", ()),
    ],
}


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def made(template: str, *special: str, plain: tuple[str, ...] = ()) -> TextProcessor:
        words: Tokenizer = build_tokenizer()
        words.add_special_tokens(["<|im_start|>", "<|im_end|>", *special])
        words.add_tokens(list(plain))
        words.save(str(tmp_path / "tokenizer.json"))
        return TextProcessor(tmp_path / "tokenizer.json", template, PLAIN_TEXT)

    return made


def test_every_format_has_a_template_and_answers() -> None:
    assert {each.name for each in FORMATS} == TEMPLATES.keys() == ANSWERS.keys()
    assert format_of(CHATML) is PHI4


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_tells_its_format(name: str) -> None:
    assert format_of(TEMPLATES[name]).name == name


@pytest.mark.parametrize(("name", "answer", "calls"), [(n, *each) for n, given in ANSWERS.items() for each in given])
def test_calls_are_read(name: str, answer: str, calls: tuple[ToolCall, ...], make: Any) -> None:
    text = make(TEMPLATES[name])
    assert find_tool_calls(answer, [], text) == calls


@pytest.mark.parametrize("name", ["phi4", "hermes", "granite3", "minicpm3", "deepseek"])
@pytest.mark.parametrize("are_special", [True, False])
def test_marks_may_be_tokens(name: str, are_special: bool, make: Any) -> None:
    """Special ones leave no text; others, as Qwen's, do."""
    answer, calls = ANSWERS[name][0]
    form = format_of(TEMPLATES[name])
    marks = form.marks
    text = make(TEMPLATES[name], *marks) if are_special else make(TEMPLATES[name], plain=marks)
    ids = text._tokens.tokenizer.encode(answer, add_special_tokens=False).ids
    assert (form.start in text.decode(ids)) is not are_special
    assert find_tool_calls(text.decode(ids), ids, text) == calls


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_of_earlier_turns_are_written_as_they_are_read(name: str, make: Any) -> None:
    """In a template that has no place for them."""
    text = make(TEMPLATES[name])
    calls = [{"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    prompt = text.prompt(
        [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": "1"},
        ]
    )
    rendered = text._tokens.tokenizer.decode(prompt.ids.tolist(), skip_special_tokens=False)
    answer = rendered.split("assistant")[1].lstrip("|>\n")
    answer = answer.split("<|im_end|>")[0].split("<|end|>")[0]
    assert find_tool_calls(answer, [], text) == (ONE,)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "phi4"])
def test_tools_go_into_the_templates_variable_and_no_system_message_is_made(name: str, make: Any) -> None:
    text = make(TEMPLATES[name])
    assert first_messages(None, [TOOL], text) == []
    talk = [{"role": "user", "content": "?"}]
    assert with_tools(talk, [TOOL], text) == talk
    shown = text.decode(text.prompt(talk, tools=[TOOL]).ids.tolist())
    assert '{"type": "function", "function": {"name": "add"' in shown
    assert "You are helpful." in shown  # the template's own system text
    assert text.decode(text.prompt(talk).ids.tolist()).count("add") == 0


def test_phi_takes_tools_in_the_system_message(make: Any) -> None:
    text = make(CHAT_TEMPLATE)
    assert first_messages(None, [TOOL], text) == [{"role": "system", "content": "", "tools": json.dumps([TOOL])}]


GRAMMARS = {
    "phi4": ('start:  "[" call (", " call){0,1} "]" ', '"arguments"'),
    "hermes": ('marked: "<tool_call>" "\\n" call "\\n" "</tool_call>"', '"arguments"'),
    "granite3": ('start: "<|tool_call|>"  "[" call (", " call){0,1} "]"', '"arguments"'),
    "granite3.1": ('start: "<tool_call>"  "[" call (", " call){0,1} "]"', '"arguments"'),
    "llama3": ("start: marked \nmarked:   call  ", '"parameters"'),
    "deepseek": ('("\\n" marked){0,1} "<\\uff5ctool\\u2581calls\\u2581end\\uff5c>"\nmarked: "<', ""),
}


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_forced_call_is_in_the_models_format(name: str) -> None:
    use = ToolUse(tools=(TOOL,), forced=("add",), most_calls=2)
    form = format_of(TEMPLATES[name])
    made = use.grammar(form, ())
    assert made is not None
    start, key = GRAMMARS[name]
    assert start in made.text
    assert json.dumps(key)[1:-1] in made.text
    special = use.grammar(PHI4, {PHI4.start, PHI4.end})
    assert special is not None and "start: <|tool_call|>" in special.text and "<|/tool_call|>" in special.text


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_forced_call_is_read_again(name: str, int4_bundle: Path) -> None:
    """On a random model, which calls nothing by itself."""
    form = format_of(TEMPLATES[name])
    tool = {**TOOL, "parameters": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}}
    marks = {form.start, form.end} & {PHI4.start, PHI4.end}  # of the bundle's tokenizer
    made = ToolUse(tools=(tool,), forced=("add",), most_calls=1).grammar(form, marks)
    with palmtop.load(int4_bundle) as session:
        session._processor.text.tool_format = form
        reply = session.answer("?", options=GenerationOptions(max_tokens=120, grammar=made))
    assert reply.tool_calls in ((ONE,), (TWO,))


@pytest.mark.parametrize("name", ANSWERS)
def test_a_stream_shows_no_part_of_a_call(name: str) -> None:
    answer = ANSWERS[name][0][0]
    held = HeldCalls()
    assert "".join(held.feed(letter) for letter in f"Sure. {answer}") == "Sure. "
