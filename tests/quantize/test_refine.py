"""Coordinate descent: never worse, better behind gptq, and where it stops no single step helps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.quantize import gptq as gptq_module
from palmtop.quantize.gptq import gptq
from palmtop.quantize.refine import refine
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.statistics import Statistics
from tests.quantize.test_methods import correlated, output_error, statistics_of
from tests.quantize.test_rtn import random_weight

Array = NDArray[np.float32]
DAMPING = 0.1


def rounded(weight: Array, scheme: Scheme) -> tuple[Array, Array, Array]:
    """Codes, scales and zero points that are far from the best ones."""
    rows, columns = weight.shape
    shape = rows, scheme.groups_per_row(columns)
    scales = scheme.stored(np.full(shape, 4 * weight.std() / scheme.levels, np.float32))
    zeros = np.full(shape, scheme.middle, np.float32)
    codes = np.rint(weight / np.repeat(scales, scheme.group, axis=1)[:, :columns]) + scheme.middle
    return codes.clip(0, scheme.levels).astype(np.float32), scales, zeros


def error(weight: Array, scheme: Scheme, coded: tuple[Array, Array, Array], statistics: Statistics) -> float:
    codes, scales, zeros = (array.astype(np.float64) for array in coded)
    off, step = (np.repeat(of, scheme.group, axis=1)[:, : weight.shape[1]] for of in (zeros, scales))
    wrong = weight - (codes - off) * step
    return float(np.einsum("nk,nk->", wrong @ statistics.moments, wrong) + DAMPING * (wrong**2).sum())


@given(
    seed=st.integers(0, 99),
    bits=st.sampled_from([2, 4, 8]),
    columns=st.integers(1, 150),
    scale_bits=st.sampled_from([16, 32]),
)
@settings(deadline=None, max_examples=25)
def test_no_pass_makes_the_error_larger(seed: int, bits: int, columns: int, scale_bits: int) -> None:
    weight, statistics = random_weight(5, columns, seed), statistics_of(correlated(60, columns, seed))
    scheme = Scheme(bits=bits, group=32, scale_bits=scale_bits)
    coded = rounded(weight, scheme)
    before = error(weight, scheme, coded, statistics)
    for _ in range(3):
        refine(weight, scheme, *coded, statistics.moments, DAMPING, 1)
        after = error(weight, scheme, coded, statistics)
        assert after <= before * 1.001 + 1e-6
        before = after
    codes, scales, _ = coded
    assert (codes == np.rint(codes)).all() and codes.min() >= 0 and codes.max() <= scheme.levels
    np.testing.assert_array_equal(scales, scheme.stored(scales))


def test_where_it_stops_no_other_code_is_better() -> None:
    scheme = Scheme(bits=4, group=16)
    weight, statistics = random_weight(3, 48, 1), statistics_of(correlated(100, 48))
    coded = rounded(weight, scheme)
    refine(weight, scheme, *coded, statistics.moments, DAMPING, 40)
    best = error(weight, scheme, coded, statistics)
    for place in np.ndindex(coded[0].shape):
        for step in (-1, 1):
            codes = coded[0].copy()
            codes[place] = np.clip(codes[place] + step, 0, scheme.levels)
            assert error(weight, scheme, (codes, *coded[1:]), statistics) >= best * (1 - 1e-5)


@pytest.mark.parametrize("scheme", [Scheme(bits=4, group=32, scale_bits=16), Scheme(bits=2, group=16)])
def test_gptq_is_better_for_it(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = random_weight(64, 256, 2), correlated(900, 256)
    refined = output_error(weight, inputs, gptq, scheme)
    monkeypatch.setattr(gptq_module, "REFINED", 0)
    assert refined < 0.95 * output_error(weight, inputs, gptq, scheme)
