"""The score of function calls: what counts as right, and that every question can be answered within its grammar."""

from __future__ import annotations

import pytest

from benchmarks.function_calls import Case, call_in, cases, judged, same
from palmtop.runtime.chat.reply import ToolCall

CASES = list(cases())


def test_there_are_a_hundred_questions_that_their_functions_can_answer() -> None:
    assert len(CASES) == 100
    assert len({case.question for case in CASES}) == 100
    for case in CASES:
        tool = next(tool for tool in case.tools if tool["name"] == case.expected.name)
        properties, given = tool["parameters"]["properties"], case.expected.arguments
        assert set(tool["parameters"]["required"]) <= given.keys() <= properties.keys()
        for key, value in given.items():
            kinds = {"string": str, "integer": int, "number": (int, float)}
            assert isinstance(value, kinds[properties[key]["type"]])
            assert value in properties[key].get("enum", [value])
    assert sum(len(case.tools) == 4 for case in CASES) == sum(len(case.tools) == 1 for case in CASES) == 50


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('<tool_call>[{"name": "f", "arguments": {"a": 1, "b": " Oslo."}}]</tool_call>', "called offered named right"),
        ('[{"name": "f", "arguments": {"a": 1.0, "b": "oslo"}}]', "called offered named right"),
        ('<tool_call>[{"name": "f", "arguments": {"a": "1", "b": "Oslo"}}]</tool_call>', "called offered named"),
        ('<tool_call>[{"name": "f", "arguments": {"a": true, "b": "Oslo"}}]</tool_call>', "called offered named"),
        ('<tool_call>[{"name": "f", "arguments": {"a": 1}}]</tool_call>', "called offered named"),
        ('<tool_call>[{"name": "g", "arguments": {"a": 1, "b": "Oslo"}}]</tool_call>', "called offered"),
        ('<tool_call>[{"name": "h", "arguments": {}}]</tool_call>', "called"),
        ("The weather in Oslo is fine.", ""),
        ('<tool_call>[{"name": "f", "arguments": {"a": 1, "b": "Os', ""),
    ],
)
def test_a_call_is_judged_by_what_is_right_of_it(answer: str, right: str) -> None:
    case = Case("?", ({"name": "f"}, {"name": "g"}), ToolCall(name="f", arguments={"a": 1, "b": "Oslo"}))
    assert [name for name, is_right in judged(case, call_in(answer)).items() if is_right] == right.split()


def test_numbers_and_texts_are_not_the_same() -> None:
    assert not same("1", 1)
    assert not same(1, "1")
    assert not same({"a": 1, "b": 2}, {"a": 1})
