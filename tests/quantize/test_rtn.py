"""Our codes against onnxruntime's: its packer bit for bit, its kernels to the last digits of float32."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from palmtop.errors import QuantizeError
from palmtop.quantize.rtn import dequantize, rtn
from palmtop.quantize.scheme import QuantizedTensor, Scheme


def random_weight(rows: int, columns: int, seed: int, kind: str = "normal") -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    weight = {
        "normal": rng.standard_normal((rows, columns)),
        "zero": np.zeros((rows, columns)),
        "constant": np.full((rows, columns), 0.37),
        "negative": -np.abs(rng.standard_normal((rows, columns))) - 1,
        "outlier": rng.standard_normal((rows, columns)) * np.where(rng.random((rows, columns)) > 0.98, 1e4, 1),
        "tiny": rng.standard_normal((rows, columns)) * 1e-30,
    }[kind]
    return weight.astype(np.float32)


def onnxruntime_matmul(x: NDArray[np.float32], q: QuantizedTensor) -> NDArray[np.float32]:
    inputs = {"codes": q.codes, "scales": q.scales}
    if q.zero_points is not None:
        inputs["zeros"] = q.zero_points
    node = helper.make_node(
        "MatMulNBits",
        ["x", *inputs],
        ["y"],
        domain="com.microsoft",
        K=q.columns,
        N=len(q.codes),
        bits=q.scheme.bits,
        block_size=q.scheme.group,
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in inputs.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    group=st.sampled_from([16, 32, 64, 128]),
    bits=st.sampled_from([2, 4, 8]),
    symmetric=st.booleans(),
    kind=st.sampled_from(["normal", "zero", "constant", "negative", "outlier"]),
    seed=st.integers(0, 99),
)
def test_the_kernel_computes_what_dequantize_says(
    rows: int, columns: int, group: int, bits: int, symmetric: bool, kind: str, seed: int
) -> None:
    weight = random_weight(rows, columns, seed, kind)
    quantized = rtn(weight, Scheme(bits=bits, group=group, symmetric=symmetric))
    x = np.random.default_rng(seed).standard_normal((2, columns)).astype(np.float32)
    expected = x @ dequantize(quantized).T
    size = np.abs(x) @ np.abs(dequantize(quantized)).T + 1e-6
    np.testing.assert_array_less(np.abs(onnxruntime_matmul(x, quantized) - expected) / size, 1e-5)


@pytest.mark.parametrize("kind", ["normal", "zero", "constant", "negative", "outlier"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, 32, 128])
def test_bytes_are_those_of_onnxruntimes_own_packer(group: int, symmetric: bool, kind: str) -> None:
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    rows, columns = 24, 96
    weight = random_weight(rows, columns, 3, kind)
    ours = rtn(weight, Scheme(bits=4, group=group, symmetric=symmetric))
    blocks = -(-columns // group)
    codes = np.zeros((rows, blocks, group // 2), np.uint8)
    scales = np.zeros(rows * blocks, np.float32)
    zeros = np.zeros(rows * -(-blocks // 2), np.uint8)
    quantize_matmul_4bits(codes, np.ascontiguousarray(weight.T), scales, zeros, group, rows, columns, symmetric)
    np.testing.assert_array_equal(ours.scales, scales.reshape(rows, blocks))
    valid = columns - (blocks - 1) * group  # it leaves rubbish in the last group's padding
    np.testing.assert_array_equal(ours.codes[:, :-1], codes[:, :-1])
    np.testing.assert_array_equal(ours.codes[:, -1, : valid // 2], codes[:, -1, : valid // 2])
    if not symmetric:
        assert ours.zero_points is not None
        np.testing.assert_array_equal(ours.zero_points, zeros.reshape(rows, -1))


@pytest.mark.parametrize("kind", ["normal", "zero", "constant", "negative", "outlier"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 8])
def test_bytes_of_other_widths_are_onnxruntimes_too(bits: int, symmetric: bool, kind: str) -> None:
    from onnxruntime.capi import _pybind_state

    rows, columns, group = 24, 128, 32
    weight = random_weight(rows, columns, 3, kind)
    ours = rtn(weight, Scheme(bits=bits, group=group, symmetric=symmetric))
    blocks, per_byte = columns // group, 8 // bits
    codes = np.zeros((rows, blocks, group // per_byte), np.uint8)
    scales = np.zeros(rows * blocks, np.float32)
    zeros = np.zeros(rows * -(-blocks // per_byte), np.uint8)
    packer = getattr(_pybind_state, f"quantize_matmul_{bits}bits")
    packer(codes, np.ascontiguousarray(weight.T), scales, zeros, group, rows, columns, symmetric)
    np.testing.assert_array_equal(ours.scales, scales.reshape(rows, blocks))
    np.testing.assert_array_equal(ours.codes, codes)
    if not symmetric:
        assert ours.zero_points is not None
        np.testing.assert_array_equal(ours.zero_points, zeros.reshape(rows, -1))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [16, 128])
def test_a_table_is_looked_up_as_dequantize_says(bits: int, group: int) -> None:
    table = rtn(random_weight(9, 256, bits), Scheme(bits=bits, group=group))
    assert table.zero_points is not None
    inputs = {"codes": table.codes.reshape(9, -1), "scales": table.scales, "zeros": table.zero_points}
    node = helper.make_node(
        "GatherBlockQuantized",
        ["codes", "ids", "scales", "zeros"],
        ["y"],
        domain="com.microsoft",
        bits=bits,
        block_size=group,
        gather_axis=0,
        quantize_axis=1,
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in inputs.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"ids": np.array([8, 0, 5])})[0]
    np.testing.assert_array_equal(found, dequantize(table)[[8, 0, 5]])


@given(
    kind=st.sampled_from(["normal", "constant", "negative"]),
    bits=st.sampled_from([2, 4, 8]),
    seed=st.integers(0, 20),
)
def test_no_weight_is_off_by_more_than_half_a_step(kind: str, bits: int, seed: int) -> None:
    weight = random_weight(5, 70, seed, kind)
    quantized = rtn(weight, Scheme(bits=bits, group=32))
    step = np.abs(np.repeat(quantized.scales, 32, axis=1)[:, :70])
    # A zero point is a whole number too, so the range can shift by half a step more.
    assert (np.abs(dequantize(quantized) - weight) <= step * 1.01 + 1e-6).all()


def test_a_weight_that_is_not_finite_is_refused() -> None:
    weight = random_weight(4, 32, 0)
    weight[2, 5] = np.nan
    with pytest.raises(QuantizeError, match="not finite in row 2"):
        rtn(weight, Scheme(bits=4, group=32))


@pytest.mark.parametrize(("bits", "group"), [(3, 32), (4, 33), (4, 512)])
def test_a_scheme_the_kernels_lack_is_refused(bits: int, group: int) -> None:
    with pytest.raises(QuantizeError, match="expected one of"):
        Scheme(bits=bits, group=group)
