"""Methods against rounding, by the error in a layer's outputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.errors import QuantizeError
from palmtop.quantize import Quantizer
from palmtop.quantize.gptq import gptq
from palmtop.quantize.rtn import dequantize, rtn
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.search import search
from palmtop.quantize.statistics import Moments, Statistics
from tests.quantize.test_rtn import onnxruntime_matmul, random_weight

INT4 = Scheme(bits=4, group=32)


def correlated(count: int, size: int, seed: int = 0) -> NDArray[np.float32]:
    """Inputs of few directions and unequal size, as a language model's are."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((8, size)) * 3
    sizes = np.exp(rng.standard_normal(size))
    return ((rng.standard_normal((count, 8)) @ directions + rng.standard_normal((count, size))) * sizes).astype(
        np.float32
    )


def statistics_of(inputs: NDArray[np.float32]) -> Statistics:
    moments = Moments(inputs.shape[1])
    moments.add(inputs[: len(inputs) // 3])
    moments.add(inputs[len(inputs) // 3 :])
    return moments.statistics()


def output_error(weight: NDArray[np.float32], inputs: NDArray[np.float32], method: Quantizer, scheme: Scheme) -> float:
    off = dequantize(method(weight, scheme, statistics_of(inputs))) - weight
    return float(((inputs @ off.T) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("scheme", [INT4, Scheme(bits=2, group=16), Scheme(bits=4, group=64, symmetric=True)])
def test_knowing_the_inputs_beats_rounding(scheme: Scheme) -> None:
    weight, inputs = random_weight(48, 200, 1), correlated(600, 200)
    assert output_error(weight, inputs, gptq, scheme) < 0.5 * output_error(weight, inputs, rtn, scheme)


def test_the_error_is_that_of_the_outputs() -> None:
    weight, inputs = random_weight(10, 64, 2), correlated(100, 64)
    off = dequantize(rtn(weight, INT4)) - weight
    direct = float(((inputs @ off.T) ** 2).sum(axis=1).mean())
    assert statistics_of(inputs).output_error(off) == pytest.approx(direct, rel=1e-4)


@given(
    method=st.sampled_from([rtn, search, gptq]),
    kind=st.sampled_from(["normal", "zero", "constant", "negative", "outlier"]),
    bits=st.sampled_from([2, 4, 8]),
    columns=st.integers(1, 90),
    symmetric=st.booleans(),
    scale_bits=st.sampled_from([16, 32]),
)
@settings(deadline=None, max_examples=30)
def test_every_method_gives_codes_that_the_kernel_reads(
    method: Quantizer, kind: str, bits: int, columns: int, symmetric: bool, scale_bits: int
) -> None:
    weight, inputs = random_weight(7, columns, 3, kind), correlated(40, columns)
    scheme = Scheme(bits=bits, group=32, symmetric=symmetric, scale_bits=scale_bits)
    quantized = method(weight, scheme, statistics_of(inputs))
    x = inputs[:2]
    expected = x @ dequantize(quantized).T
    size = np.abs(x) @ np.abs(dequantize(quantized)).T + 1e-6
    assert (np.abs(onnxruntime_matmul(x, quantized) - expected) / size < 1e-5).all()
    assert quantized.size_bytes == sum(scheme.tensor_bytes(7, columns))


def test_rows_in_parts_are_quantised_as_the_whole() -> None:
    weight, statistics = random_weight(40, 96, 4), statistics_of(correlated(300, 96))
    for method in (rtn, search, gptq):
        whole = method(weight, INT4, statistics)
        parts = [method(weight[at : at + 16], INT4, statistics) for at in (0, 16, 32)]
        np.testing.assert_array_equal(np.concatenate([p.codes for p in parts]), whole.codes)
        scales = np.concatenate([p.scales for p in parts])
        # gptq fits scales through matrix products, which round as the number of rows has it
        np.testing.assert_allclose(scales, whole.scales, rtol=1e-6 if method is gptq else 0, atol=0)


def test_a_method_that_needs_statistics_says_so() -> None:
    with pytest.raises(QuantizeError, match="needs statistics"):
        gptq(random_weight(2, 32, 0), INT4)


def test_half_scales_are_what_float16_holds() -> None:
    quantized = rtn(random_weight(8, 64, 8), Scheme(bits=4, group=32, scale_bits=16))
    np.testing.assert_array_equal(quantized.scales, quantized.scales.astype(np.float16).astype(np.float32))
