"""Quantised experts as onnxruntime's QMoE and as matrices of their own, against the mixture in numpy's float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.bundle.stored_matrix import stored_matrices
from palmtop.export.checkpoint.lazy_tensor import StateDict, from_array
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import experts_mark_of
from palmtop.export.graph.linear import PlannedPrecision, Precision
from palmtop.export.graph.moe.experts import Expert, read_expert
from palmtop.export.graph.moe.qmoe import add_qmoe, scheme_in_qmoe
from palmtop.export.verify.tensors import Stored
from palmtop.quantize.rtn import dequantize, rtn
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.workers import Workers

EXPERTS, HIDDEN, INNER = 5, 64, 96
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def experts() -> list[Expert]:
    rng = np.random.default_rng(1)

    def matrix(name: str) -> NDArray[np.float32]:
        return rng.standard_normal((HIDDEN, INNER) if "down" in name else (INNER, HIDDEN), np.float32) / 8

    made = StateDict(lambda name: from_array(name, known.setdefault(name, matrix(name))))
    known: dict[str, NDArray[np.float32]] = {}
    return [read_expert(made, "layers.0.mlp", number, HIDDEN, INNER) for number in range(EXPERTS)]


def precision(scheme: Scheme, level: int) -> Precision:
    return Precision(scheme=scheme, accuracy_level=level)


def build(folder: Path, experts: list[Expert], own: Precision | PlannedPrecision) -> ir.Model:
    with ExternalData(folder, "w.bin", workers=Workers(threads=2, block_bytes=1 << 12)) as file:
        g = GraphBuilder("experts", file)
        x = g.input("x", ir.DataType.FLOAT, ["tokens", HIDDEN])
        shares = g.input("shares", ir.DataType.FLOAT, ["tokens", len(experts)])
        y = add_qmoe(g, "layers.0.mlp.experts", experts, own, x, shares)
        g.output(y, "y", ir.DataType.FLOAT, ["tokens", HIDDEN])
        ir.save(g.model(), folder / "experts.onnx")
    return ir.load(folder / "experts.onnx")


def run(folder: Path, x: NDArray[np.float32], shares: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(folder / "experts.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x, "shares": shares})[0])


def mixture(experts: list[Expert], scheme: Scheme, x: Array, shares: NDArray[np.float32]) -> Array:
    out = np.zeros_like(x)
    for place, expert in enumerate(experts):
        up, down = (dequantize(rtn(w.array(), scheme)).astype(np.float64) for w in (expert.gate_up, expert.down))
        gate, wide = (x @ up.T)[:, 0::2], (x @ up.T)[:, 1::2]
        out += shares[:, place : place + 1] * ((gate / (1 + np.exp(-gate)) * wide) @ down.T)
    return out


def some_shares(tokens: int, experts: int) -> NDArray[np.float32]:
    """Two experts of most tokens, with sums from 0.2 to 2; one of some, none of others."""
    rng = np.random.default_rng(tokens)
    shares = np.zeros((tokens, experts), np.float32)
    for token in range(tokens):
        count = (2, 2, 2, 1, 0)[token % 5]
        shares[token, rng.choice(experts, count, replace=False)] = rng.uniform(0.1, 1, count)
    return shares


@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "scale_bits"),
    [(4, 32, False, 32), (4, 16, True, 16), (8, 32, False, 16), (8, 16, True, 32)],
)
def test_the_operator_computes_the_chosen_experts(
    bits: int, group: int, symmetric: bool, scale_bits: int, level: int, experts: list[Expert], tmp_path: Path
) -> None:
    scheme = Scheme(bits=bits, group=group, symmetric=symmetric, scale_bits=scale_bits)
    own = precision(scheme, level)
    if bits == 8 and level == 0:  # its kernel quantises activations whatever the level
        assert scheme_in_qmoe(experts[0], own) is None
        return
    model = build(tmp_path, experts, own)
    for tokens in (1, 40, 0):
        x = np.random.default_rng(2).standard_normal((tokens, HIDDEN), np.float32)
        shares = some_shares(tokens, EXPERTS)
        expected = mixture(experts, scheme, x.astype(np.float64), shares)
        limit = (2e-2 if level else 2e-6) * np.abs(expected).max(initial=0)
        assert np.abs(run(tmp_path, x, shares) - expected).max(initial=0) <= limit
    found = {matrix.mark.name: matrix for matrix in stored_matrices(model)}
    assert len(found) == 2 * EXPERTS
    for expert in experts:  # each is found in the tensors of all of them
        for name, weight in zip(expert.linears, (expert.gate_up, expert.down), strict=True):
            stored = Stored(found[name].tensors["codes"], found[name].shape, found[name])
            assert stored.scheme == scheme
            assert np.array_equal(stored.rows(3, 17), dequantize(rtn(weight.array(), scheme))[3:17])


def test_a_part_of_the_experts_adds_its_part(experts: list[Expert], tmp_path: Path) -> None:
    """A token without a share in any of them gets zeros."""
    scheme, some = Scheme(bits=4, group=32), [experts[3], experts[1]]
    node = next(n for n in build(tmp_path, some, precision(scheme, 0)).graph if n.op_type == "QMoE")
    mark = experts_mark_of(node.metadata_props)
    assert mark is not None and (mark.numbers, mark.size, mark.hidden_size) == ((3, 1), INNER, HIDDEN)
    x, shares = np.random.default_rng(2).standard_normal((40, HIDDEN), np.float32), some_shares(40, EXPERTS)[:, [3, 1]]
    found = run(tmp_path, x, shares)
    assert np.abs(found - mixture(some, scheme, x.astype(np.float64), shares)).max() < 1e-5
    assert not found[(shares == 0).all(axis=1)].any()


@pytest.mark.parametrize(
    "scheme", [Scheme(bits=4, group=128), Scheme(bits=2, group=32), Scheme(bits=4, group=64), None]
)
def test_other_schemes_are_not_for_the_operator(scheme: Scheme | None, experts: list[Expert]) -> None:
    """Groups that do not fill a row, 2 bits, and float32."""
    assert scheme_in_qmoe(experts[0], Precision(scheme=scheme)) is None


def test_matrices_of_different_schemes_are_not_for_the_operator(experts: list[Expert]) -> None:
    down = {experts[0].linears[1]: precision(Scheme(bits=8, group=32), 4)}
    own = PlannedPrecision(by_name=down, default=precision(Scheme(bits=4, group=32), 4))
    assert scheme_in_qmoe(experts[0], own) is None
    assert scheme_in_qmoe(experts[1], own) == (Scheme(bits=4, group=32), 4)


@pytest.mark.parametrize("text", ["", "1 2", "1 2 3,x name", "a 2 3 name"])
def test_unreadable_marks_are_none(text: str) -> None:
    assert experts_mark_of({"palmtop.experts": text}) is None
