"""What guessing ahead gains: what steps of several tokens cost at full size, and how often guesses come true.

    python -m benchmarks.speculation --gguf SmolLM2-135M-Instruct.Q4_1.gguf --write   # docs/speculation.md
    python -m benchmarks.speculation --layers 1 --rounds 3 --items 1                  # to try it

Steps: checkpoints of Phi-4-mini's true sizes with random weights, of one layer and of ``--layers``; the time of 32
layers is the line through both. Guesses: the packaged reference model on its own tasks, and SmolLM2-135M-Instruct (see
``smollm2.py`` for its file), whose greedy answers are real text: copies, edits, lists in JSON, free answers. The same
answers are then replayed with the step times of the full size, token by token, through the very code that decides how
many guesses to try. Times are processor time of one thread, which other work on the machine disturbs least. Needs 3 GB
of disk and 2 GB of memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import click
import numpy as np
from click.testing import CliRunner

import palmtop
from benchmarks.make_checkpoint import main as make_checkpoint
from benchmarks.speculation_tasks import TASKS, write_smollm2
from benchmarks.tables import machine, put_between
from palmtop.export.convert import export_model
from palmtop.export.recipe import DRAFT_ROWS, Recipe
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.prompt_lookup import EveryGuess, MeasuredPace, Pace, PromptLookup
from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import held_out_items
from palmtop.runtime.session import Session

PAGE = Path(__file__).parents[1] / "docs" / "speculation.md"
WIDTHS = (1, 2, 3, 4, 6, 8, 16)
FULL_LAYERS, BEFORE = 32, 256
Costs = Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer without guesses, with each of them, and with as many as seem to pay.

    Attributes:
        prompt: ids that were read.
        ids: ids that were sampled.
        seconds: of the decode, for each of the three.
        drafted: guesses tried, for each of the three.
        accepted: guesses that came true, likewise.
        is_same: all three gave the same ids.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    seconds: tuple[float, float, float]
    drafted: tuple[int, int, int]
    accepted: tuple[int, int, int]
    is_same: bool


@click.command()
@click.option("--gguf", type=click.Path(path_type=Path, exists=True), help="SmolLM2's file; left out without.")
@click.option("--layers", type=click.IntRange(1, 32), default=4, show_default=True)
@click.option("--rounds", type=int, default=15, show_default=True, help="Of every step's time; the median counts.")
@click.option("--items", type=int, default=6, show_default=True, help="Questions of each task.")
@click.option("--write", is_flag=True, help="Put the tables into docs/speculation.md.")
def main(gguf: Path | None, layers: int, rounds: int, items: int, write: bool) -> None:
    """Measure steps and guesses."""
    with tempfile.TemporaryDirectory() as folder:
        few = _step_times(Path(folder) / "one", 1, rounds)
        many = few if layers == 1 else _step_times(Path(folder) / "many", layers, rounds)
        costs = {w: few[w] + (many[w] - few[w]) / max(1, layers - 1) * (FULL_LAYERS - 1) for w in WIDTHS}
        steps = _steps_table(layers, many, costs)
        click.echo(steps)
        bundle = export_model(checkpoint_path(), Path(folder) / "reference", Recipe(draft_rows=DRAFT_ROWS))
        rows = _answers(bundle, {f"reference model: {task}": _held_out(task, 5 * items) for task in ("text", "audio")})
        if gguf is not None:
            bundle = write_smollm2(gguf, Path(folder) / "smollm2", Recipe(context=2048, draft_rows=DRAFT_ROWS))
            rows |= _answers(bundle, {f"SmolLM2: {task}": list(make(items)) for task, make in TASKS.items()})
    guesses = _guesses_table(rows, costs)
    click.echo(guesses)
    if write:
        put_between(PAGE, "steps", f"{steps}\n\n{machine()}, processor time of one thread.")
        put_between(PAGE, "guesses", f"{guesses}\n\n{machine()}, processor time of one thread.")


def _step_times(folder: Path, layers: int, rounds: int) -> dict[int, float]:
    """Median seconds of a step by its tokens, logits fetched, behind ``BEFORE`` tokens; on one thread."""
    made = ["-o", str(folder / "checkpoint"), "--text-only", "--layers", str(layers)]
    CliRunner().invoke(make_checkpoint, made, catch_exceptions=False)
    recipe = Recipe(group=128, method="rtn", context=1024, draft_rows=DRAFT_ROWS)
    bundle = export_model(folder / "checkpoint", folder / "bundle", recipe)
    taken: dict[int, list[float]] = {width: [] for width in WIDTHS}
    with palmtop.load(bundle, threads=1) as session:
        decoder = session._open_decoder()
        ids = np.random.default_rng(0).integers(0, 100_000, BEFORE + max(WIDTHS)).astype(np.int32)
        for start in range(0, BEFORE, 64):
            decoder.append(ids[start : start + 64])
        for _ in range(rounds):
            for width in WIDTHS:  # in turns: what slows the machine down slows all of them down
                started = process_time()
                decoder.append(ids[BEFORE : BEFORE + width])
                decoder.draft_logits(width) if 1 < width <= DRAFT_ROWS else decoder.logits()
                taken[width].append(process_time() - started)
                decoder.rewind_to(BEFORE)
    return {width: median(times) for width, times in taken.items()}


def _answers(bundle: Path, tasks: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, list[Answered]]:
    """Every question asked three times: without guesses, with all, with as many as pay."""
    with palmtop.load(bundle, threads=1) as session:
        return {name: [_asked(session, **question) for question in questions] for name, questions in tasks.items()}


def _asked(session: Session, messages: Any, **wanted: Any) -> Answered:
    replies, seconds, prompt = [], [], ()
    for speculate in (False, True, None):
        conversation = session.conversation()
        options = GenerationOptions(**{"max_tokens": 200, "speculate": speculate, **wanted})
        answer, started = conversation.respond(messages, options=options), process_time()
        for number, _ in enumerate(answer):
            started = process_time() if number == 0 else started  # from the first piece on: prefill is not counted
        seconds.append(process_time() - started)
        assert answer.reply is not None
        replies.append(answer.reply)
        prompt = tuple(conversation._track.ids[: replies[-1].usage.prompt_tokens].tolist())
        conversation.close()
    usages = [reply.usage for reply in replies]
    return Answered(
        prompt=prompt,
        ids=replies[0].token_ids,
        seconds=(seconds[0], seconds[1], seconds[2]),
        drafted=tuple(u.drafted_tokens for u in usages),
        accepted=tuple(u.accepted_tokens for u in usages),
        is_same=len({reply.token_ids for reply in replies}) == 1,
    )


def _held_out(task: Any, count: int) -> list[dict[str, Any]]:
    return [{"messages": item.messages} for item in held_out_items(task, count, 0)]


def replayed(answers: Sequence[Answered], costs: Costs, pace: Pace | None) -> tuple[float, int, int]:
    """Seconds that the steps of these answers would take at such costs, guesses tried and guesses come true."""
    seconds, drafted, accepted = 0.0, 0, 0
    for answer in answers:
        text, place = [*answer.prompt, *answer.ids], len(answer.prompt)
        drafter = None if pace is None else PromptLookup(pace, ())
        while place < len(text) - 1:
            most = min(DRAFT_ROWS - 1, len(text) - place - 2)
            draft = [] if drafter is None else drafter.draft(np.array(text[: place + 1], np.int32), most)
            cost = _cost(costs, 1 if drafter is None else max(2, 1 + len(draft)))  # an ordinary bundle: one token
            seconds += cost
            true = next((i for i, guess in enumerate(draft) if text[place + 1 + i] != guess), len(draft))
            if drafter is not None:
                drafter.took(len(draft), cost)
                for token in text[place + 1 : place + 2 + true]:
                    drafter.sampled(token, was_read=False)
            drafted, accepted, place = drafted + len(draft), accepted + true, place + 1 + true
    return seconds, drafted, accepted


def _cost(costs: Costs, width: int) -> float:
    return float(np.interp(width, list(costs), list(costs.values())))


def _steps_table(layers: int, many: Costs, costs: Costs) -> str:
    lines = [
        f"| tokens in a step | {layers} layers, ms | times one token | 32 layers, ms | times one token | pays above |",
        "|---|---|---|---|---|---|",
    ]
    for width in WIDTHS:
        ratio = costs[width] / costs[1]
        pays = "-" if width == 1 else f"{(ratio - 1) / (width - 1):.0%} of the guesses"
        if width > DRAFT_ROWS:
            pays = "no logits of each"
        lines.append(
            f"| {width} | {1000 * many[width]:.0f} | {many[width] / many[1]:.2f} | {1000 * costs[width]:.0f} "
            f"| {ratio:.2f} | {pays} |"
        )
    return "\n".join(lines)


def _guesses_table(rows: Mapping[str, Sequence[Answered]], costs: Costs) -> str:
    lines = [
        "| task | tokens | guesses, true | same text | here: all | by default | full size: all | by default |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, answers in rows.items():
        tokens = sum(len(answer.ids) for answer in answers)
        drafted, accepted = (sum(getattr(a, field)[1] for a in answers) for field in ("drafted", "accepted"))
        plain, every, paced = (sum(answer.seconds[way] for answer in answers) for way in range(3))
        ways = [replayed(answers, costs, pace)[0] for pace in (None, EveryGuess(), MeasuredPace())]
        share = f"{accepted / drafted:.0%}" if drafted else "-"
        same = sum(answer.is_same for answer in answers)
        gains = [f"x{one / other:.2f}" if other else "-" for one, other in _pairs(plain, every, paced, *ways)]
        lines.append(f"| {name} | {tokens} | {drafted}, {share} | {same} of {len(answers)} | {' | '.join(gains)} |")
    return "\n".join(lines)


def _pairs(plain: float, every: float, paced: float, *replays: float) -> Iterator[tuple[float, float]]:
    yield from ((plain, every), (plain, paced), (replays[0], replays[1]), (replays[0], replays[2]))


if __name__ == "__main__":
    main()
