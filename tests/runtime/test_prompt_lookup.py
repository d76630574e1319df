"""What is guessed, and how many guesses are tried."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.prompt_lookup import (
    LONGEST_MATCH,
    SHORTEST_MATCH,
    EveryGuess,
    MeasuredPace,
    PromptLookup,
    continuation,
    drafter_for,
    step_cost,
)
from palmtop.runtime.memory.plan import plan_memory

NEVER = 5


def guess(ids: list[int], most: int) -> tuple[list[int], int]:
    return continuation(np.array(ids, np.int32), most, {NEVER})


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(1, 9))
def test_the_longest_and_latest_match_is_continued(ids: list[int], most: int) -> None:
    """Against a search that looks at every place for itself."""
    for length in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
        places = [p for p in range(len(ids) - length) if ids[p : p + length] == ids[len(ids) - length :]]
        if len(ids) > length and places:
            rhythm = ids[places[-1] + length :]
            expected = [rhythm[i % len(rhythm)] for i in range(most)]
            assert guess(ids, most) == (expected, length)
            return
    assert guess(ids, most)[0] == []


def test_a_guess_ends_before_what_is_never_sampled() -> None:
    assert guess([1, 2, 3, NEVER, 4, 1, 2], 4) == ([3], 2)
    assert guess([1, 2, NEVER, 4, 1, 2], 4) == ([], 2)


def settled(came_true: bool, *, match: int = 4) -> MeasuredPace:
    pace = MeasuredPace()
    pace.took(0, 1.0)
    for _ in range(100):
        pace.judged(match, came_true)
    return pace


def test_guesses_that_come_true_are_tried_in_full_and_of_false_ones_the_free_one() -> None:
    assert settled(True).choose(4, 7) == 7
    assert settled(False).choose(4, 7) == 1
    assert settled(True, match=4).choose(2, 7) < 7  # shorter matches have chances of their own


def answer_of(pace: MeasuredPace, further: float, chance: float) -> float:
    """Seconds per token of an answer, where a step with one guess takes 1, and each further guess so much more."""
    random = np.random.default_rng(0)
    seconds, given = 0.0, 0
    while given < 2000:
        count = pace.choose(4, 7)
        seconds += (cost := 1 + further * max(0, count - 1))
        pace.took(count, cost * random.uniform(0.95, 1.1))
        true = next((place for place in range(7) if random.random() >= chance), 7)
        for place in range(min(true + 1, max(count, 1))):  # one guess is judged also where none was tried
            pace.judged(4, place < true)
        given += 1 + min(true, count)
    return seconds / given


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("further", [0.05, 0.4, 0.9, 1.1, 2.0])
def test_guessing_costs_eight_per_cent_at_most_and_gains_where_it_can(further: float, chance: float) -> None:
    """Against one guess in every step, which is free; what longer steps cost is found out on the way."""
    found = answer_of(MeasuredPace(), further, chance)
    rates = [sum(chance**i for i in range(count + 1)) / (1 + further * (count - 1)) for count in range(1, 8)]
    assert found < 1.08 / rates[0]
    if max(rates) > 1.2 * rates[0]:
        assert found < 0.5 * (1 / rates[0] + 1 / max(rates))


def test_what_a_busy_moment_made_look_dear_is_tried_again() -> None:
    pace = settled(True)
    for guesses in (7, 6, 5, 4, 3, 2) * 5:
        pace.took(guesses, 30.0)
    assert pace.choose(4, 7) == 1
    for _ in range(4000):
        pace.took(1, 1.0)
    assert pace.choose(4, 7) >= 5


def test_where_longer_steps_cost_nothing_doubtful_guesses_are_tried_too() -> None:
    pace = MeasuredPace()
    pace.took(0, 1.0)
    before = pace.choose(3, 7)
    for _ in range(30):
        pace.took(7, 1.0)
    assert pace.choose(3, 7) == 7 > before


def test_the_chosen_number_is_the_best_of_all() -> None:
    pace = MeasuredPace()
    assert pace.choose(4, 7) == 1  # nothing is known of this machine yet
    assert pace.choose(4, 0) == 0
    pace.took(0, 1.0)
    for _ in range(6):
        pace.judged(4, came_true=True)
    chance = pace._chance[4]

    def rate(count: int) -> float:
        return sum(chance**i for i in range(count + 1)) / step_cost(count)

    assert pace.choose(4, 14) == max(range(15), key=rate)


def test_guesses_are_judged_whether_they_were_tried_or_not() -> None:
    """A text that begins to repeat itself is noticed without a step that reads guesses in vain."""
    pace = settled(False, match=4)
    drafter = PromptLookup(pace, ())
    ids = [1, 2, 3, 4, 5, 6] * 10
    tried = []
    for place in range(10, 60):
        tried.append(len(drafter.draft(np.array(ids[:place], np.int32), 7)))
        drafter.sampled(ids[place], was_read=False)
    assert tried[0] == 1
    assert tried[-1] == 7


def test_a_drafter_counts_what_was_tried_and_came_true() -> None:
    drafter = PromptLookup(EveryGuess(), ())
    assert drafter.draft(np.array([1, 2, 3, 4, 1, 2], np.int32), 2) == [3, 4]
    drafter.sampled(3, was_read=True)
    drafter.sampled(9, was_read=False)
    drafter.took(2, 0.5)
    drafter.took(0, 0.2)
    assert (drafter.drafted, drafter.accepted, drafter.steps_s) == (2, 1, 0.5)
    assert drafter.draft(np.array([1, 2, 3, 9], np.int32), 2) == []
    assert drafter.draft(np.array([1, 2, 1, 2], np.int32), 0) == []


@pytest.fixture
def manifest(toy_bundle: Path) -> Manifest:
    return open_bundle(toy_bundle).manifest


def test_guesses_are_refused_where_nobody_can_judge_them(manifest: Manifest) -> None:
    pace = MeasuredPace()
    assert drafter_for(GenerationOptions(), manifest, pace) is None
    with pytest.raises(InputError, match="option speculate: this bundle gives the logits of one position at a time"):
        drafter_for(GenerationOptions(speculate=True), manifest, pace)
    able = replace(manifest, decoder=replace(manifest.decoder, draft_rows=8))
    assert drafter_for(GenerationOptions(speculate=False), able, pace) is None
    assert drafter_for(GenerationOptions(), able, pace) is not None


def test_the_option_takes_no_other_values() -> None:
    with pytest.raises(InputError, match="option speculate: found 1, expected True, False or None"):
        GenerationOptions(speculate=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [0, 16, 2.0, True, "8", None])
def test_impossible_rows_are_refused(manifest: Manifest, rows: object) -> None:
    data = json.loads(json.dumps(manifest.to_dict()))
    data["decoder"] = {**data["decoder"], "draft_rows": rows}
    with pytest.raises(BundleError, match=r"decoder\.draft_rows is .*, expected (1 to 15|int)"):
        Manifest.from_dict(data)


def test_logits_of_every_row_are_in_the_memory_plan(manifest: Manifest) -> None:
    able = replace(manifest, decoder=replace(manifest.decoder, draft_rows=8))
    more = plan_memory(able, context=64).activations - plan_memory(manifest, context=64).activations
    assert more == 2 * 8 * manifest.decoder.vocab_size * 4  # as the graph gives them, and as numpy holds them
