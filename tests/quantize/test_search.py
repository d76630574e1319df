from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmtop.quantize.rtn import dequantize, rtn
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.search import search
from tests.quantize.test_rtn import random_weight


@given(
    kind=st.sampled_from(["normal", "zero", "constant", "negative", "outlier"]),
    bits=st.sampled_from([2, 4, 8]),
    symmetric=st.booleans(),
    seed=st.integers(0, 20),
)
def test_search_is_never_further_off_than_rounding(kind: str, bits: int, symmetric: bool, seed: int) -> None:
    weight = random_weight(6, 70, seed, kind)
    scheme = Scheme(bits=bits, group=32, symmetric=symmetric)
    ours, rounded = (((dequantize(q(weight, scheme)) - weight) ** 2).sum() for q in (search, rtn))
    assert ours <= rounded * (1 + 1e-5) + 1e-12


@pytest.mark.parametrize("symmetric", [True, False])
def test_search_pays_on_bell_shaped_weights(symmetric: bool) -> None:
    weight = random_weight(64, 512, 1)
    scheme = Scheme(bits=4, group=128, symmetric=symmetric)
    ours, rounded = (((dequantize(q(weight, scheme)) - weight) ** 2).sum() for q in (search, rtn))
    assert ours < 0.92 * rounded
