from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmtop.quantize.budget import Option, frontier, within_bytes, within_loss

OPTIONS = st.lists(
    st.lists(st.builds(Option, st.integers(1, 30), st.integers(0, 50).map(float)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


def best_loss(tensors: list[list[Option]], limit: int) -> float | None:
    """By trying everything."""
    fitting = [c for c in product(*tensors) if sum(o.size_bytes for o in c) <= limit]
    return min((sum(o.loss for o in c) for c in fitting), default=None)


@given(tensors=OPTIONS, limit=st.integers(1, 120))
def test_a_solution_fits_and_is_off_the_optimum_by_less_than_one_step(tensors: list[list[Option]], limit: int) -> None:
    best, found = best_loss(tensors, limit), within_bytes(tensors, limit)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert found.size_bytes == sum(t[at].size_bytes for t, at in zip(tensors, found.chosen, strict=True)) <= limit
    step = max(max(o.loss for o in t) - min(o.loss for o in t) for t in tensors)
    assert best - 1e-9 <= found.loss <= best + step + 1e-9


@given(tensors=OPTIONS)
def test_the_frontier_only_gets_larger_and_better_and_is_optimal_at_its_points(tensors: list[list[Option]]) -> None:
    points = frontier(tensors)
    for before, after in pairwise(points):
        assert after.size_bytes > before.size_bytes and after.loss < before.loss
    for point in points:
        best = best_loss(tensors, point.size_bytes)
        assert best is not None and point.loss <= best + 1e-6


def test_uniform_options_are_never_beaten_by_their_own_solver() -> None:
    tensors = [[Option(10, 5.0), Option(13, 1.0), Option(40, 0.9)] for _ in range(3)]
    found = within_bytes(tensors, 39)
    assert found is not None and found.loss == pytest.approx(3.0)


def test_the_smallest_solution_within_a_loss_is_found() -> None:
    tensors = [[Option(1, 4.0), Option(2, 1.0)], [Option(1, 2.0), Option(3, 0.0)]]
    found = within_loss(tensors, 3.0)
    assert found is not None and found.chosen == (1, 0)
    assert within_loss(tensors, 0.5) is None
