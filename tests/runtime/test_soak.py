"""Many turns in one process: what is held at the end is what was held near the beginning."""

from __future__ import annotations

from pathlib import Path

import pytest

import palmtop
from benchmarks.soak import ALLOWED_GROWTH, soak
from palmtop.runtime.media.feature_cache import FeatureCache


def test_handles_and_memory_settle(int4_bundle: Path) -> None:
    """A short one; ``python -m benchmarks.soak`` is the proof."""
    with palmtop.load(int4_bundle, threads=1, context=1024) as session:
        rows = soak(session, turns=36, warm=12)
    first, last = rows[0], rows[-1]
    assert (first["turn"], last["turn"]) == (12, 36)
    assert sum(last["modes"].values()) == 36
    if first["handles"] is None:
        pytest.skip("this system does not tell what a process holds")
    assert last["handles"] <= first["handles"]
    assert last["resident_bytes"] < 1.1 * first["resident_bytes"]


def test_the_bound_of_the_benchmark_is_the_promised_one() -> None:
    assert ALLOWED_GROWTH == 1.05


def test_many_small_features_are_not_all_kept() -> None:
    import numpy as np

    cache = FeatureCache(1 << 20)
    for number in range(100):
        cache.put(str(number), np.zeros((4, 4), np.float32))
    assert cache.get("99") is not None
    assert cache.get("50") is None
    assert cache.size_bytes == 16 * 64
