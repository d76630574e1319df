"""Quantisation written into a graph: codes, grids, operators, and what is left of the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import FFN, Mark
from palmtop.export.providers.qnn.codes import bias_codes, channel_codes, grid_of, packed_int4, value_codes
from palmtop.export.providers.qnn.fusion import fuse_rms_norms
from palmtop.export.providers.qnn.qdq import add_qdq
from palmtop.export.providers.qnn.ranges import Measured, Range

ROWS, WIDTH, OUT = 6, 32, 48


def build(folder: Path, name: str = "g") -> Path:
    """RMSNorm, a product with weights, one between activations, softmax, a convolution and what only moves values."""
    rng = np.random.default_rng(0)
    with ExternalData(folder, f"{name}.bin") as sink:
        g = GraphBuilder(name, sink)
        x = g.input("x", ir.DataType.FLOAT, [1, ROWS, WIDTH])
        row = g.input("row", ir.DataType.INT32, [1])
        mean = g.op("ReduceMean", g.op("Mul", x, x), g.constant([-1]), keepdims=1)
        size = g.op("Sqrt", g.op("Add", mean, g.constant(1e-5)))
        scale = g.weight("norm.weight", rng.standard_normal(WIDTH).astype(np.float32) + 2)
        normed = g.op("Mul", g.op("Div", x, size), scale, name="norm")
        weight = rng.standard_normal((WIDTH, OUT)).astype(np.float32)
        mark = Mark(FFN, OUT, WIDTH, "linear")
        y = mark.put(g.op("MatMul", normed, g.weight("linear.weight", weight)))
        scores = g.op("MatMul", y, g.op("Transpose", y, perm=[0, 2, 1]))
        mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), y)
        turned = g.op("Transpose", mixed, perm=[0, 2, 1])
        kernel = g.weight("conv.weight", rng.standard_normal((OUT, 1, 3)).astype(np.float32))
        bias = g.weight("conv.bias", rng.standard_normal(OUT).astype(np.float32))
        z = g.op("Conv", turned, kernel, bias, pads=[2, 0], group=OUT)
        back = g.op("Transpose", z, perm=[0, 2, 1])
        g.output(back, "all", ir.DataType.FLOAT, [1, ROWS, OUT])
        g.output(g.op("Gather", back, row, axis=1), "one", ir.DataType.FLOAT, [1, 1, OUT])
        ir.save(g.model(), folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def feeds(seed: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((1, ROWS, WIDTH)).astype(np.float32)
    return {"x": x, "row": np.array([3], np.int32)}


def quantise(path: Path, bits: int, same: dict[str, str] | None = None) -> Path:
    model = ir.load(path)
    fuse_rms_norms(model)
    ir.save(model, path)
    ranges: dict[str, Range] = {}
    measured = Measured(path)
    for seed in range(20):
        measured.run(feeds(seed), ranges)
    with ExternalData(path.parent, f"codes{bits}.bin") as sink:
        add_qdq(model, ranges, lambda role: bits, sink, same)
        target = path.with_name(f"qdq{bits}.onnx")
        ir.save(model, target)
    return target


def run(path: Path, seed: int) -> list[np.ndarray]:
    found: list[np.ndarray] = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds(seed))
    return found


@pytest.mark.parametrize(("bits", "least_db"), [(8, 32), (4, 12)])
def test_the_quantised_graph_computes_nearly_the_same(tmp_path: Path, bits: int, least_db: float) -> None:
    path = build(tmp_path)
    expected = run(path, 99)
    found = run(quantise(path, bits), 99)
    for a, b in zip(expected, found, strict=True):
        assert 10 * np.log10(np.square(a).sum() / np.square(a - b).sum()) > least_db


def test_every_operator_stands_between_quantisers(tmp_path: Path) -> None:
    graph = onnx.load(quantise(build(tmp_path), 4)).graph
    made = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    operators = [n for n in graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert len(operators) == 10
    weights = {w.name: w for w in graph.initializer}
    for node in operators:
        for name in node.input:
            is_whole_number = name == "row" or weights.get(name, onnx.TensorProto()).data_type == onnx.TensorProto.INT64
            assert is_whole_number or made[name].op_type == "DequantizeLinear", (node.name, name)
        assert all(set(readers[name]) == {"QuantizeLinear"} for name in node.output)
    assert [o.name for o in graph.output] == ["all", "one"]
    assert weights["linear.weight/codes"].data_type == onnx.TensorProto.INT4
    assert [w.data_type for name, w in weights.items() if name.endswith("/bias/codes")] == [onnx.TensorProto.INT32]
    assert weights["x/zero"].data_type == onnx.TensorProto.UINT16


def test_what_only_moves_values_keeps_their_grid(tmp_path: Path) -> None:
    path = quantise(build(tmp_path), 8)
    weights = {w.name: onnx.numpy_helper.to_array(w, str(tmp_path)) for w in onnx.load(path).graph.initializer}
    assert weights["all/scale"] == weights["one/scale"]  # a row gathered


def test_named_pairs_share_a_grid(tmp_path: Path) -> None:
    path = quantise(build(tmp_path), 8, {"x": "all"})
    weights = {
        w.name: onnx.numpy_helper.to_array(w)
        for w in onnx.load(path, load_external_data=False).graph.initializer
        if w.name.endswith(("/scale", "/zero"))
    }
    assert weights["x/scale"] == weights["all/scale"]
    assert weights["x/zero"] == weights["all/zero"]


def test_rms_norm_is_fused_and_exact(tmp_path: Path) -> None:
    path = build(tmp_path)
    expected = run(path, 5)
    model = ir.load(path)
    assert fuse_rms_norms(model) == 1
    assert "SimplifiedLayerNormalization" in [node.op_type for node in model.graph]
    assert not {"Sqrt", "Div", "ReduceMean"} & {node.op_type for node in model.graph}
    ir.save(model, path)
    for a, b in zip(expected, run(path, 5), strict=True):
        assert np.abs(a - b).max() <= 2e-6 * np.ptp(a)


def test_a_ratio_that_is_no_norm_stays(tmp_path: Path) -> None:
    with ExternalData(tmp_path, "w.bin") as sink:
        g = GraphBuilder("g", sink)
        x, other = (g.input(name, ir.DataType.FLOAT, [1, 4]) for name in "xy")
        mean = g.op("ReduceMean", g.op("Mul", x, other), g.constant([-1]), keepdims=1)
        size = g.op("Sqrt", g.op("Add", mean, g.constant(1e-5)))
        g.output(g.op("Mul", g.op("Div", x, size), g.constant(2.0)), "z", ir.DataType.FLOAT, [1, 4])
    assert fuse_rms_norms(g.model()) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([4, 8]), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_channel_codes_are_within_half_a_step(rows: int, columns: int, bits: int, axis: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    codes = channel_codes(weight, bits, axis)
    assert (codes.scales > 0).all()
    top = (1 << (bits - 1)) - 1
    assert codes.codes.min() >= -top - 1 and codes.codes.max() <= top
    steps = codes.scales.reshape([-1 if place == axis else 1 for place in range(2)])
    inside = np.abs(weight) <= steps * top
    assert (np.abs(codes.floats(axis) - weight) <= steps * 0.5001)[inside].all()


def test_four_bits_are_clipped_where_that_is_nearer() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((256, 8)).astype(np.float32)
    weight[0] = 6
    clipped = channel_codes(weight, 4, 1)
    widest = np.rint(weight / (6 / 7)).clip(-8, 7) * np.float32(6 / 7)
    assert np.square(clipped.floats(1) - weight).sum() < np.square(widest - weight).sum()


def test_a_channel_of_zeros_stays_zero() -> None:
    codes = channel_codes(np.zeros((4, 3), np.float32), 4, 1)
    assert not codes.codes.any() and np.isfinite(codes.scales).all()


def test_constants_and_biases_come_back() -> None:
    values = np.linspace(-3, 5, 101, dtype=np.float32)
    codes = value_codes(values)
    assert np.abs(codes.floats() - values).max() <= float(codes.scales) * 0.51
    scales = np.array([1e-4, 2e-4], np.float32)
    bias = bias_codes(np.array([0.5, -0.25], np.float32), scales)
    assert bias.codes.tolist() == [5000, -1250]


def test_a_grid_holds_zero_exactly() -> None:
    for low, high, expected in ((0.5, 2.0, 0), (-3.0, -1.0, 65535), (-100.0, 100.0, 32768), (0.0, 0.0, 0)):
        scale, zero = grid_of(low, high)
        assert abs(zero - expected) <= 1
        assert float(scale) > 0
        assert min(low, 0.0) / float(scale) + zero >= -1
        assert max(high, 0.0) / float(scale) + zero <= 65536


def test_int4_is_packed_as_onnx_reads_it() -> None:
    codes = np.array([[1, -8, 7], [-1, 0, 3]], np.int8)
    tensor = onnx.TensorProto(data_type=onnx.TensorProto.INT4, dims=[2, 3], raw_data=packed_int4(codes).tobytes())
    assert onnx.numpy_helper.to_array(tensor).astype(np.int8).tolist() == codes.tolist()
