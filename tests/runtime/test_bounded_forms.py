"""Forms that end whatever the model prefers, cuts that are said, and grammars that are bounded themselves."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from palmtop.__main__ import cli
from palmtop.errors import InputError
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.grammar import Grammar
from palmtop.runtime.decoding.guided_decoding import GuidedDecoders
from palmtop.runtime.session import Session
from tests.runtime.toy import END_OF_TEXT, VOCAB

OBJECT = {
    "type": "object",
    "properties": {"number": {"type": "integer"}},
    "required": ["number"],
    "additionalProperties": False,
}
BOUNDED = {
    "object": Grammar.json_schema(OBJECT),
    "nested": Grammar.json_schema({"type": "array", "items": OBJECT, "minItems": 1, "maxItems": 2}),
    "reference": Grammar.json_schema({"$defs": {"n": {"type": ["integer", "null"]}}, "$ref": "#/$defs/n"}),
    "number": Grammar.json_schema({"type": "number"}),
    "number with a least value": Grammar.json_schema(
        {
            "type": "object",
            "properties": {"n": {"type": ["number", "null"], "minimum": 0}},
            "required": ["n"],
            "additionalProperties": False,
        }
    ),
    "share": Grammar.json_schema(
        {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 1, "maxItems": 2}
    ),
    "integer with a least value": Grammar.json_schema({"type": "integer", "minimum": 1}),
    "integer with a step": Grammar.json_schema({"type": "integer", "multipleOf": 5}),
    "json in lark": Grammar.lark("start: /[ab]/ form\nform: %json " + json.dumps(OBJECT)),
}


@pytest.fixture
def guides(toy_bundle: Path) -> GuidedDecoders:
    return GuidedDecoders(toy_bundle / "tokenizer.json", VOCAB, [END_OF_TEXT])


def drive(guides: GuidedDecoders, grammar: Grammar, wanted: str, most: int = 300) -> tuple[str, bool]:
    """The answer of a model that takes one of these characters wherever it may; the toy has a token for each byte."""
    guide = guides.guide(grammar)
    assert guide is not None
    vocabulary = json.loads(guides._path.read_text())["model"]["vocab"]
    tokens = {i: {"\u0120": " ", "\u010a": "\n", "\u0109": "\t"}.get(text, text) for text, i in vocabulary.items()}
    said = ""
    for _ in range(most):
        allowed = np.flatnonzero(guide.allowed(VOCAB)).tolist()
        liked = [i for i in allowed if tokens.get(i, "") in wanted and i in tokens]
        if END_OF_TEXT in allowed and not liked:
            return said, guide.is_complete
        token = (liked or [i for i in allowed if i in tokens])[0]
        said += tokens[token]
        guide.advance(token)
    return said, guide.is_complete


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("wanted", [" ", "\n\t ", "0123456789", " 9", "-1 "])
def test_a_form_ends_though_the_model_prefers_blanks_or_digits(guides: GuidedDecoders, name: str, wanted: str) -> None:
    said, complete = drive(guides, BOUNDED[name], wanted)
    assert complete
    json.loads(said[said.startswith(("a", "b")) :])


@pytest.mark.parametrize("text", ['{"number":1}', '{"number": 1}', '{\n  "number": 1\n}', '{ "number" : -12 }'])
def test_usual_layouts_of_json_are_allowed(guides: GuidedDecoders, text: str) -> None:
    guide = guides.guide(BOUNDED["object"])
    assert guide is not None
    vocabulary = json.loads(guides._path.read_text())["model"]["vocab"]
    for character in text:
        token = vocabulary[{" ": "\u0120", "\n": "\u010a"}.get(character, character)]
        assert guide.allowed(VOCAB)[token]
        guide.advance(token)
    assert guide.is_complete


def test_a_schema_may_say_itself_what_white_space_is(guides: GuidedDecoders) -> None:
    said, complete = drive(guides, Grammar.json_schema({**OBJECT, "x-guidance": {"whitespace_flexible": False}}), " ")
    assert complete
    assert " " not in said


@pytest.mark.parametrize(
    ("grammar", "reply_is", "options"),
    [
        (Grammar.regex("[0-9]{30}"), ("max_tokens", "form"), {"max_tokens": 5}),
        (Grammar.regex("[0-9]{5,30}"), ("max_tokens", None), {"max_tokens": 5}),  # may end there: the form is whole
        (Grammar.regex("[0-9]{5}"), ("eos", None), {"max_tokens": 50}),
        (Grammar.regex("[0-9]{500}"), ("context_full", "form"), {"max_tokens": 500}),
        (Grammar.regex("[0-9]{500}"), ("timeout", "form"), {"max_tokens": 200, "timeout_s": 0.001}),
        (Grammar.regex("ab[0-9]{30}"), ("stop_string", "form"), {"stop": ("b",)}),
        (None, ("max_tokens", None), {"max_tokens": 5}),
    ],
)
def test_the_reply_says_what_is_unfinished(
    toy_session: Session, grammar: Grammar | None, reply_is: tuple[str, str | None], options: dict[str, Any]
) -> None:
    question = [{"role": "user", "content": "hi"}]
    reply = toy_session.answer(question, options=GenerationOptions(grammar=grammar, **options))
    assert (reply.ended_by, reply.unfinished) == reply_is
    assert reply.to_dict()["unfinished"] == reply_is[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--regex", "[0-9]{30}", "--max-tokens", "5"], 3, "cut after 5 tokens (--max-tokens), before its grammar"),
        (["--regex", "[0-9]{500}", "--context", "60", "--max-tokens", "90"], 3, "context is full (--context), before"),
        (["--regex", "[0-9]{200}", "--timeout", "0.001"], 3, "time was up (--timeout), before its grammar"),
        (["--max-tokens", "5"], 0, "the answer was cut after 5 tokens (--max-tokens)\n"),
        (["--regex", "[0-9]{5}"], 0, ""),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_cut_answer_is_said_and_an_unfinished_form_has_an_exit_code(
    toy_bundle: Path, arguments: list[str], code: int, said: str, as_json: bool
) -> None:
    more = ["--json"] if as_json else []
    run = CliRunner().invoke(cli, ["run", str(toy_bundle), "hi", "--threads", "1", *arguments, *more])
    assert run.exit_code == code
    assert said in run.stderr if said else not run.stderr
    assert not as_json or (json.loads(run.stdout)["unfinished"] == "form") == (code == 3)


def test_a_cut_answer_is_said_in_a_dialogue(toy_bundle: Path) -> None:
    chat = CliRunner().invoke(cli, ["chat", str(toy_bundle), "--threads", "1", "--max-tokens", "2"], input="hi\n")
    assert "the answer was cut after 2 tokens (--max-tokens)" in chat.stderr


SCHEMA = Grammar.json_schema
HOSTILE: dict[str, Callable[[], Grammar]] = {
    "schema that is itself": lambda: SCHEMA({"$ref": "#"}),
    "definition that is itself": lambda: SCHEMA({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    "rule that is itself": lambda: Grammar.lark("start: start"),
    "cycle of rules": lambda: Grammar.lark("start: a\na: b\nb: a"),
    "doubling terminals": lambda: Grammar.lark(
        "start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(25)) + 'A25: "x"'
    ),
    "overlapping oneOf": lambda: SCHEMA({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}),
    "nested parentheses": lambda: Grammar.regex("(" * 20000 + "a" + ")" * 20000),
    "nested schema": lambda: SCHEMA('{"items":' * 900 + "{}" + "}" * 900),
    "many properties": lambda: SCHEMA({"type": "object", "properties": {f"p{i}": {} for i in range(8000)}}),
    "crossed alternatives": lambda: SCHEMA(
        {"allOf": [{"anyOf": [{"minimum": i}, {"maximum": -i}]} for i in range(1, 20)]}
    ),
}
DEAR: dict[str, Callable[[], Grammar]] = {
    "long repetition": lambda: Grammar.regex("a{1000000}"),
    "repeated repetition": lambda: Grammar.regex("(((a{100}){100}){100}){100}"),
    "doubling rules": lambda: Grammar.lark(
        "start: a0\n" + "".join(f"a{i}: a{i + 1} a{i + 1}\n" for i in range(25)) + 'a25: "x"'
    ),
}


@pytest.mark.parametrize("name", DEAR)
def test_a_dear_grammar_takes_bounded_time_and_memory(int4_bundle: Path, name: str) -> None:
    guides = GuidedDecoders(int4_bundle / "tokenizer.json", 512, [480, 486])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    try:
        guide = guides.guide(DEAR[name]())
        assert guide is not None
        for _ in range(20):
            guide.advance(int(np.flatnonzero(guide.allowed(512))[-1]))
    except InputError as refused:
        assert "it is too complex: expected fewer or shorter" in str(refused)
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_is_refused_in_one_sentence_within_bounds(guides: GuidedDecoders, name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises(InputError) as refused:
        guides.guide(HOSTILE[name]())
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    said = str(refused.value)
    assert said.startswith("grammar: ")
    assert len(said) < 300
    for leaked in ("<state>", "\n", "coerce_one_of", "non-verbose", "NoExtension", "Parser: {"):
        assert leaked not in said


def test_a_oneof_that_can_be_kept_apart_is_followed(guides: GuidedDecoders) -> None:
    said, complete = drive(guides, SCHEMA({"oneOf": [{"const": "a"}, {"const": "b"}]}), "b")
    assert (said, complete) == ('"b"', True)


def test_a_schema_of_true_allows_every_value_and_one_of_false_none(guides: GuidedDecoders) -> None:
    assert drive(guides, SCHEMA(True), "7", most=5) == ("77777", True)
    for nothing in (False, {"enum": []}, {"anyOf": []}):
        with pytest.raises(
            InputError, match=r"the json_schema cannot be used \(no value can match it: it allows none\)"
        ):
            guides.guide(SCHEMA(nothing))


def test_a_refused_grammar_costs_no_prefill(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    with pytest.raises(InputError, match="no text can match"):
        conversation.chat("hi", options=GenerationOptions(grammar=Grammar.lark("start: start"))).result()
    assert len(conversation._track.ids) == 0
    assert conversation.messages == []
