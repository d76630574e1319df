from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmtop.errors import QuantizeError
from palmtop.quantize.pack import pack, unpack


@given(bits=st.sampled_from([2, 4, 8]), rows=st.integers(1, 4), count=st.integers(1, 40), seed=st.integers(0, 99))
def test_unpacking_gives_the_codes_back(bits: int, rows: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, count)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, -(-count * bits // 8))
    np.testing.assert_array_equal(unpack(packed, bits, count), codes)


def test_a_code_that_is_too_large_is_refused() -> None:
    with pytest.raises(QuantizeError, match="code 16 does not fit into 4 bits"):
        pack(np.array([[16]], np.uint8), 4)
