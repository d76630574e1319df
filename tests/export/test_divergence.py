"""Distances between sets of logits."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from palmtop.export.measure import divergence


@pytest.mark.parametrize("block", [1, 700, 1 << 20])
def test_kl_is_scipys_however_many_rows_are_read_at_a_time(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(divergence, "BLOCK", block)
    random = np.random.default_rng(0)
    one = random.normal(size=(7, 301)).astype(np.float32)
    other = one + random.normal(size=one.shape).astype(np.float32)
    p, q = (softmax(logits.astype(np.float64), -1) for logits in (one, other))
    np.testing.assert_allclose(divergence.kl(one, other), rel_entr(p, q).sum(-1), rtol=1e-9)
    assert divergence.kl(one[:0], other[:0]).shape == (0,)


def test_kl_of_a_large_vocabulary_needs_the_memory_of_a_few_rows() -> None:
    one, other = np.zeros((64, 200_000), np.float32), np.ones((64, 200_000), np.float32)
    tracemalloc.start()
    assert np.abs(divergence.kl(one, other)).max() < 1e-9
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < one.nbytes * 1.5  # of all rows at a time: 9 times
