"""SparseMixer in plain operators against transformers' function: the same experts, ties and near-ties included."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.moe.sparse_mixer import sparse_mixer
from palmtop.export.mixed_precision.bundle_size import CountingSink

Scores = NDArray[np.float32]


def shares(scores: Scores, jitter: float) -> NDArray[np.float32]:
    experts = scores.shape[1]
    g = GraphBuilder("router", CountingSink("router"))
    x = g.input("scores", ir.DataType.FLOAT, ["tokens", experts])
    g.output(sparse_mixer(g, "router", x, experts, jitter), "shares", ir.DataType.FLOAT, ["tokens", experts])
    model = ir.to_proto(g.model()).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"scores": scores})[0])


def expected(scores: Scores, jitter: float) -> NDArray[np.float32]:
    weights, chosen = sparsemixer(torch.from_numpy(scores), jitter_eps=jitter, training=False)
    found = torch.zeros(scores.shape).scatter_(1, chosen, weights)
    assert ((found > 0).sum(1) == 2).all()
    return np.asarray(found.numpy())


def rows(kind: str, experts: int, count: int) -> Scores:
    rng = np.random.default_rng(len(kind) + experts)
    normal = rng.standard_normal((count, experts)).astype(np.float32)
    if kind == "normal":
        return normal
    if kind == "ties":  # few values, so that most rows have several highest scores
        return np.rint(normal).astype(np.float32)
    if kind == "negative":
        return -np.abs(normal) - np.float32(0.5)
    if kind == "large":
        return normal * np.float32(668)
    if kind == "zeros":
        return (normal * rng.integers(0, 2, normal.shape)).astype(np.float32)
    if kind == "one unit apart":  # of the last place
        pairs = np.repeat(normal, 2, axis=1)[:, :experts]
        return np.nextafter(pairs, np.where(rng.random(pairs.shape) < 0.5, pairs, np.float32(9)))
    assert kind == "at the edge of the band"
    best = np.abs(normal.max(axis=1, keepdims=True)) + np.float32(0.1)
    edge = best * np.float32(1 - 0.02)
    steps = rng.integers(-3, 4, normal.shape).astype(np.float32) * np.spacing(edge)
    near = np.where(rng.random(normal.shape) < 0.7, edge + steps, normal).astype(np.float32)
    near[np.arange(count), rng.integers(0, experts, count)] = best[:, 0]
    return near


KINDS = ("normal", "ties", "negative", "large", "zeros", "one unit apart", "at the edge of the band")


@pytest.mark.parametrize("jitter", [0.01, 0.0, 0.3])
@pytest.mark.parametrize("experts", [16, 5, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_every_decision_is_transformers(kind: str, experts: int, jitter: float) -> None:
    """10,000 tokens of each kind, at each number of experts and band."""
    scores = rows(kind, experts, 10_000)
    wanted, found = expected(scores, jitter), shares(scores, jitter)
    assert np.array_equal(found > 0, wanted > 0)
    assert np.abs(found - wanted).max() < 3e-7


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ([0.0] * 16, {0: 1 / 16, 1: 1 / 15}),  # 0 / 0 keeps every expert
        ([-1.0] * 16, {0: 1 / 16, 1: 1 / 15}),
        ([10.0] + [0.0] * 15, {0: 1.0, 1: 1 / 15}),
        ([1.0, 3.0, 2.0] + [0.0] * 13, {1: 1.0, 2: 1.0}),  # not normalised
    ],
)
def test_shares_of_known_scores(scores: list[float], wanted: dict[int, float]) -> None:
    found = shares(np.array([scores], np.float32), 0.01)[0]
    assert {int(place): pytest.approx(wanted.get(int(place)), rel=1e-6) for place in np.flatnonzero(found)} == {
        place: found[place] for place in wanted
    }
