"""Methods against rounding, by the error in a layer's outputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.errors import QuantizeError
from palmtop.quantize import Quantizer
from palmtop.quantize.awq import awq, channel_scales
from palmtop.quantize.gptq import gptq
from palmtop.quantize.hqq import hqq
from palmtop.quantize.rtn import dequantize, rtn
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.statistics import Moments, Statistics, mixed
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


@pytest.mark.parametrize(("method", "share"), [(awq, 0.9), (gptq, 0.5)])
@pytest.mark.parametrize("scheme", [INT4, Scheme(bits=2, group=16), Scheme(bits=4, group=64, symmetric=True)])
def test_knowing_the_inputs_beats_rounding(method: Quantizer, share: float, scheme: Scheme) -> None:
    weight, inputs = random_weight(48, 200, 1), correlated(600, 200)
    assert output_error(weight, inputs, method, scheme) < share * output_error(weight, inputs, rtn, scheme)


def test_the_error_is_that_of_the_outputs() -> None:
    weight, inputs = random_weight(10, 64, 2), correlated(100, 64)
    off = dequantize(rtn(weight, INT4)) - weight
    direct = float(((inputs @ off.T) ** 2).sum(axis=1).mean())
    assert statistics_of(inputs).output_error(off) == pytest.approx(direct, rel=1e-4)


@given(
    method=st.sampled_from([hqq, awq, gptq]),
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
    for method in (rtn, hqq, awq, gptq):
        whole = method(weight, INT4, statistics)
        parts = [method(weight[at : at + 16], INT4, statistics) for at in (0, 16, 32)]
        np.testing.assert_array_equal(np.concatenate([p.codes for p in parts]), whole.codes)
        scales = np.concatenate([p.scales for p in parts])
        # gptq fits scales through matrix products, which round as the number of rows has it
        np.testing.assert_allclose(scales, whole.scales, rtol=1e-6 if method is gptq else 0, atol=0)


@pytest.mark.parametrize("method", [awq, gptq])
def test_a_method_that_needs_statistics_says_so(method: Quantizer) -> None:
    with pytest.raises(QuantizeError, match="needs statistics"):
        method(random_weight(2, 32, 0), INT4)


@pytest.mark.parametrize("scheme", [INT4, Scheme(bits=2, group=32), Scheme(bits=4, group=64, symmetric=True)])
@pytest.mark.parametrize("kind", ["normal", "outlier"])
def test_hqq_beats_rounding_in_its_own_norm_though_zero_points_are_whole(scheme: Scheme, kind: str) -> None:
    weight = random_weight(32, 256, 5, kind)
    ours, rounded = ((np.abs(dequantize(m(weight, scheme)) - weight) ** 0.7).sum() for m in (hqq, rtn))
    assert ours < rounded * (0.98 if kind == "normal" else 0.999)  # one outlier leaves the others of its group no step


def test_channel_scales_make_outputs_more_exact_and_shared_ones_agree() -> None:
    weight, inputs = random_weight(64, 128, 6), correlated(500, 128)
    statistics, plain = statistics_of(inputs), np.ones(128, np.float32)
    scales = channel_scales([weight], INT4, statistics)

    def error(s: NDArray[np.float32]) -> float:
        moved = statistics.scaled(s)
        return moved.output_error(dequantize(awq(weight * s, INT4, moved)) - weight * s)

    assert error(scales) < 0.95 * error(plain)
    shared = channel_scales([weight], INT4, statistics, shared=4)
    np.testing.assert_array_equal(shared.reshape(4, -1), np.broadcast_to(shared[:32], (4, 32)))


def test_statistics_follow_a_linear_layer_and_mix_evenly() -> None:
    inputs, matrix = correlated(200, 32), random_weight(5, 32, 7)
    after = statistics_of((inputs @ matrix.T).astype(np.float32))
    np.testing.assert_allclose(statistics_of(inputs).through(matrix).moments, after.moments, rtol=1e-3, atol=1e-2)
    even = mixed([Statistics(np.eye(2, dtype=np.float32), 10), Statistics(3 * np.eye(2, dtype=np.float32), 1000)])
    np.testing.assert_allclose(even.moments, 2 * np.eye(2))


def test_half_scales_are_what_float16_holds() -> None:
    quantized = rtn(random_weight(8, 64, 8), Scheme(bits=4, group=32, scale_bits=16))
    np.testing.assert_array_equal(quantized.scales, quantized.scales.astype(np.float16).astype(np.float32))
