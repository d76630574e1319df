"""Answers that follow a grammar, and calls of tools; on a random model, which follows nothing by itself."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from palmtop.__main__ import cli
from palmtop.errors import BundleError, InputError, RuntimeMissingError
from palmtop.runtime.chat.reply import ToolCall
from palmtop.runtime.chat.tools import find_tool_calls, parse_calls
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.grammar import Grammar
from palmtop.runtime.decoding.guided_decoding import GuidedDecoders
from palmtop.runtime.processor.text import TextProcessor
from palmtop.runtime.session import Session

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 10, "maximum": 99},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
TOOL = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}


def ask(session: Session, grammar: Grammar, seed: int | None = None, max_tokens: int = 100) -> Any:
    options = GenerationOptions(
        grammar=grammar, max_tokens=max_tokens, seed=seed, temperature=0.0 if seed is None else 2.0
    )
    return session.answer([{"role": "user", "content": "hi"}], options=options)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_an_answer_is_what_the_schema_allows(toy_session: Session, seed: int | None) -> None:
    reply = ask(toy_session, Grammar.json_schema(SCHEMA), seed)
    found = json.loads(reply.text)
    assert reply.ended_by == "eos"
    assert set(found) == {"name", "age", "kind"}
    assert len(found["name"]) <= 4
    assert 10 <= found["age"] <= 99
    assert found["kind"] in ("cat", "dog")


def test_the_same_seed_gives_the_same_object(toy_session: Session) -> None:
    grammar = Grammar.json_schema(SCHEMA)
    texts = [ask(toy_session, grammar, seed).text for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_a_regular_expression_is_matched_as_a_whole(toy_session: Session) -> None:
    for seed in range(5):
        assert re.fullmatch(r"[a-f]{3}-[0-9]{4}", ask(toy_session, Grammar.regex("[a-f]{3}-[0-9]{4}"), seed).text)


def test_a_lark_grammar_is_followed(toy_session: Session) -> None:
    grammar = Grammar.lark('start: "(" (start | "x") ")"')
    for seed in range(5):
        reply = ask(toy_session, grammar, seed, max_tokens=200)
        if reply.ended_by == "eos":
            depth = reply.text.count("(")
            assert reply.text == "(" * depth + "x" + ")" * depth


def test_every_turn_may_have_another_form_without_reading_again(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    reads = []
    for pattern in ("[0-9]{3}", "[a-c]{4}", None):
        grammar = Grammar.regex(pattern) if pattern else None
        reply = conversation.chat("and", options=GenerationOptions(grammar=grammar, max_tokens=6)).result()
        assert pattern is None or re.fullmatch(pattern, reply.text)
        reads.append(reply.usage.prompt_tokens - reply.usage.cached_tokens)
    assert reads[1] == reads[2] < 30


def test_a_grammar_cut_by_max_tokens_says_so(toy_session: Session) -> None:
    assert ask(toy_session, Grammar.regex("[0-9]{30}"), max_tokens=5).ended_by == "max_tokens"


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (lambda: Grammar.json_schema("{"), "the schema is not JSON"),
        (lambda: Grammar.json_schema("[1]"), "the schema is a list, expected a JSON object"),
        (lambda: Grammar.json_schema({"a": object()}), "the schema is not JSON"),
        (lambda: Grammar.json_schema({"type": 5}), "the json_schema cannot be used"),
        (lambda: Grammar.json_schema({"$ref": "http://example.com"}), "the json_schema cannot be used"),
        (lambda: Grammar.regex("(["), "the regex cannot be used"),
        (lambda: Grammar.regex(""), "expected a regex as text"),
        (lambda: Grammar.lark("start: nothing"), "the lark cannot be used"),
        (lambda: Grammar.regex("a" * (1 << 21)), "expected at most"),
        (lambda: Grammar("yaml", "a"), "expected json_schema, regex or lark"),  # type: ignore[arg-type]
    ],
)
def test_unusable_grammars_are_refused_in_a_sentence(toy_session: Session, grammar: Any, message: str) -> None:
    conversation = toy_session.conversation()
    with pytest.raises(InputError, match=message):
        conversation.chat("hi", options=GenerationOptions(grammar=grammar())).result()
    assert conversation.messages == []


def test_without_llguidance_the_command_that_installs_it_is_told(
    toy_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'llguidance>=[\d.]+'"):
        ask(toy_session, Grammar.regex("a"))


def test_the_command_line_takes_a_schema_file(toy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"enum": ["yes", "no"]}')
    arguments = ["run", str(toy_bundle), "hi", "--threads", "1"]
    run = CliRunner().invoke(cli, [*arguments, "--schema", str(tmp_path / "schema.json")])
    assert json.loads(run.stdout) in ("yes", "no")
    both = CliRunner().invoke(cli, [*arguments, "--regex", "a", "--schema", str(tmp_path / "schema.json")])
    assert isinstance(both.exception, InputError)
    missing = CliRunner().invoke(cli, [*arguments, "--schema", str(tmp_path / "none.json")])
    assert isinstance(missing.exception, InputError)


def test_tools_are_told_to_the_model_and_its_calls_are_read(int4_bundle: Path) -> None:
    import palmtop

    with palmtop.load(int4_bundle, threads=1, context=512) as session:
        conversation = session.conversation(system="You may add.", tools=[TOOL])
        text = session._processor.text
        prompt = session._processor.prompt([*conversation.messages, {"role": "user", "content": "1+1"}])
        start, end = text.encode_special("<|tool|>"), text.encode_special("<|/tool|>")
        ids = prompt.ids.tolist()
        assert json.loads(text.decode(ids[ids.index(start) + 1 : ids.index(end)])) == [TOOL]
        lark = r'start: <|tool_call|> "[{\"name\": \"add\", \"arguments\": {\"a\": " /[0-9]/ "}}]" <|/tool_call|>'
        reply = conversation.chat("1+1", options=GenerationOptions(grammar=Grammar.lark(lark))).result()
        assert [call.name for call in reply.tool_calls] == ["add"]
        assert set(reply.tool_calls[0].arguments) == {"a"}
        assert reply.to_dict()["tool_calls"][0]["name"] == "add"
        followed = conversation.chat('{"result": 2}', role="tool", options=GenerationOptions(max_tokens=3)).result()
        assert followed.usage.cached_tokens >= reply.usage.prompt_tokens
        assert [m["role"] for m in conversation.messages] == ["system", "user", "assistant", "tool", "assistant"]


def test_tools_that_the_template_does_not_show_are_refused(toy_session: Session) -> None:
    with pytest.raises(InputError, match="does not show tools"):
        toy_session.conversation(tools=[TOOL])


@pytest.mark.parametrize("tools", ["add", [5], [{"description": "nameless"}], [{"name": "a", "x": object()}]])
def test_tools_of_other_shapes_are_refused(toy_session: Session, tools: Any) -> None:
    with pytest.raises(InputError, match="tools"):
        toy_session.conversation(tools=tools)


@pytest.mark.parametrize(
    ("body", "calls"),
    [
        ('[{"name": "f", "arguments": {"x": [1]}}, {"name": "g"}]', [ToolCall(name="f", arguments={"x": [1]}), "g"]),
        ('{"name": "f", "parameters": {"x": 1}} and so on', [ToolCall(name="f", arguments={"x": 1})]),
        ('[{"name": "f", "arguments": "{\\"x\\": 1}"}]', [ToolCall(name="f", arguments={"x": 1})]),
        ("[{", []),
        ('[{"name": 5}, 7, {"name": "f", "arguments": [1]}, {"name": "f", "arguments": "x"}]', []),
        ("[" * 100_000, []),
        ("", []),
    ],
)
def test_calls_are_read_and_nothing_else(body: str, calls: list[Any]) -> None:
    wanted = [call if isinstance(call, ToolCall) else ToolCall(name=call, arguments={}) for call in calls]
    assert list(parse_calls(body)) == wanted


def test_calls_in_plain_text_are_found(toy_session: Session) -> None:
    processor: TextProcessor = toy_session._processor.text
    body = '[{"name": "f", "arguments": {}}]'
    wanted = (ToolCall(name="f", arguments={}),)
    assert find_tool_calls(f"functools{body}", [], processor) == wanted
    assert find_tool_calls(f"Sure.<|tool_call|>{body}<|/tool_call|>", [], processor) == wanted
    assert find_tool_calls(f"I would call {body}", [], processor) == ()


def test_a_tokenizer_that_the_grammar_library_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json: llguidance cannot read the vocabulary"):
        GuidedDecoders(tmp_path / "tokenizer.json", 264, [1]).guide(Grammar.regex("a"))
