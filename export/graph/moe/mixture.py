"""Feed-forward network of several experts, of which each token passes through two: ``sum(share * expert(x))``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import EXPERT
from palmtop.export.graph.building.run import Run, StaticRun
from palmtop.export.graph.linear import float_array
from palmtop.quantize.scheme import Scheme

from .experts import Expert, add_apart, add_dense, expert_tensors, read_expert
from .qmoe import add_qmoe, scheme_in_qmoe
from .sparse_mixer import sparse_mixer

ROUTER = "router.weight"
CHOSEN = 2  # experts of a token; SparseMixer has no other number


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfExperts:
    """Mixture of gated feed-forward networks in one layer, routed by SparseMixer.

    Attributes:
        size: F, inner width of an expert.
        experts: E, number of experts.
        jitter: width of the band of scores that share a token (``sparse_mixer``).
    """

    size: int
    experts: int
    jitter: float

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its tensors inside a layer."""
        names = [name for number in range(self.experts) for name in expert_tensors(number)]
        return tuple(f"mlp.{name}" for name in (ROUTER, *names))

    def emit(self, g: GraphBuilder, run: Run, prefix: str, x: ir.Value) -> ir.Value:
        """Add the network, [B, S, H] -> [B, S, H], computing the chosen experts of each token alone."""
        name, precisions = f"{prefix}mlp", run.precision.of(EXPERT)
        tokens = g.op("Reshape", x, g.constant([-1, run.hidden_size]))  # [T, H]
        shares = self._shares(g, run, name, tokens)
        together: dict[tuple[Scheme, int], list[Expert]] = {}
        apart: list[Expert] = []
        for expert in self._experts(run, name):
            form = scheme_in_qmoe(expert, precisions)
            (apart if form is None else together.setdefault(form, [])).append(expert)
        total: ir.Value | None = None
        for number, group in enumerate(together.values()):
            places = np.array([expert.number for expert in group], np.int64)
            own = shares if len(group) == self.experts else g.op("Gather", shares, g.constant(places), axis=1)
            label = f"{name}.experts" if len(together) == 1 else f"{name}.experts.group{number}"
            y = add_qmoe(g, label, group, precisions, tokens, own)
            total = y if total is None else g.op("Add", total, y)
        if apart:
            if total is None:
                total = g.op("ConstantOfShape", g.op("Shape", tokens), name=f"{name}/zeros")  # float32
            total = add_apart(g, run, apart, tokens, shares, total)
        assert total is not None  # a mixture has experts
        return g.op("Reshape", total, g.op("Shape", x), name=f"{name}/output")

    def emit_static(self, g: GraphBuilder, run: StaticRun, prefix: str, x: ir.Value) -> ir.Value:
        """Add the network with fixed shapes, [1, S, H] -> [1, S, H]; every expert is computed for every token."""
        name = f"{prefix}mlp"
        return add_dense(g, run, self._experts(run, name), x, self._shares(g, run, name, x))

    def _shares(self, g: GraphBuilder, run: Run | StaticRun, name: str, x: ir.Value) -> ir.Value:
        """Shares of all experts, [..., H] -> [..., E]; the router stays float: a rounded score is another expert."""
        weight = run.weights.within(f"{name}.").get(ROUTER, self.experts, run.hidden_size)
        matrix = g.weight(f"{name}.{ROUTER}", np.ascontiguousarray(float_array(weight).T))
        scores = g.op("MatMul", x, matrix, name=f"{name}.router")
        return sparse_mixer(g, f"{name}.router", scores, self.experts, self.jitter)

    def _experts(self, run: Run | StaticRun, name: str) -> list[Expert]:
        weights = run.weights.within(f"{name}.")
        return [read_expert(weights, name, number, run.hidden_size, self.size) for number in range(self.experts)]
