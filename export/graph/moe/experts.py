"""Experts of one layer: their weights, and a form in plain operators in which each reads the tokens it was chosen for.

Gate and up are one fused linear whose rows alternate, gate first: the order of onnxruntime's QMoE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict, interleaved
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import EXPERT
from palmtop.export.graph.building.run import Run, StaticRun

GATE_UP, DOWN = "gate_up_proj", "down_proj"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """Gated feed-forward network of one expert.

    Attributes:
        number: number of the expert in its layer.
        name: name of its module, such as "layers.0.mlp.experts.3".
        gate_up: [2F, H], rows of gate and up in turns.
        down: [H, F].
    """

    number: int
    name: str
    gate_up: LazyTensor
    down: LazyTensor

    @property
    def linears(self) -> tuple[str, str]:
        """Names of its two linears."""
        return f"{self.name}.{GATE_UP}", f"{self.name}.{DOWN}"


def expert_tensors(number: int) -> tuple[str, ...]:
    """Return the names of an expert's tensors inside its layer's network."""
    return tuple(f"experts.{number}.{part}_proj.weight" for part in ("gate", "up", "down"))


def read_expert(weights: StateDict, name: str, number: int, hidden_size: int, size: int) -> Expert:
    """Return an expert; nothing is read yet.

    Args:
        weights: weights of the layer's network.
        name: name of the network, such as "layers.0.mlp".
        number: number of the expert.
        hidden_size: H.
        size: F.
    """
    gate, up, down = expert_tensors(number)
    return Expert(
        number=number,
        name=f"{name}.experts.{number}",
        gate_up=interleaved(weights.get(gate, size, hidden_size), weights.get(up, size, hidden_size)),
        down=weights.get(down, hidden_size, size),
    )


def add_expert(g: GraphBuilder, run: Run | StaticRun, expert: Expert, x: ir.Value) -> ir.Value:
    """Add ``down(silu(gate(x)) * up(x))`` of one expert: [..., H] -> [..., H]."""
    gate_up, down = expert.linears
    both = run.linears.add(g, gate_up, x, expert.gate_up, EXPERT)
    width = expert.down.shape[1]
    apart = g.op("Concat", g.op("Shape", x, start=0, end=-1), g.constant([width, 2]), axis=0)
    gate, up = g.ops("Split", g.op("Reshape", both, apart), outputs=2, axis=-1, num_outputs=2)
    activated = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
    return run.linears.add(g, down, g.op("Squeeze", activated, g.constant([-1])), expert.down, EXPERT)


def add_apart(
    g: GraphBuilder, run: Run, experts: Sequence[Expert], x: ir.Value, shares: ir.Value, total: ir.Value
) -> ir.Value:
    """Add experts one after the other, each on the tokens that have a share in it.

    Args:
        g: the graph.
        run: objects that the graph's layers share.
        experts: the experts.
        x: [T, H] tokens.
        shares: [T, E] share of every expert of the layer.
        total: [T, H] sum so far.

    Returns:
        The sum with these experts, [T, H].
    """
    for expert in experts:
        own = g.op("Gather", shares, g.constant(np.array(expert.number, np.int64)), axis=1)  # [T]
        rows = g.op("Reshape", g.op("NonZero", own), g.constant([-1]), name=f"{expert.name}/tokens")  # [n]
        y = add_expert(g, run, expert, g.op("Gather", x, rows, axis=0, name=f"{expert.name}/input"))
        column = g.constant([1])
        y = g.op("Mul", y, g.op("Unsqueeze", g.op("Gather", own, rows), column))
        total = g.op("ScatterND", total, g.op("Unsqueeze", rows, column), y, reduction="add", name=f"{expert.name}/sum")
    return total


def add_dense(g: GraphBuilder, run: StaticRun, experts: Sequence[Expert], x: ir.Value, shares: ir.Value) -> ir.Value:
    """Add all experts on all tokens, [1, S, H] -> [1, S, H]: a graph of fixed shapes cannot leave out any."""
    parts = g.ops("Split", shares, outputs=len(experts), axis=-1, num_outputs=len(experts))  # [1, S, 1] each
    total: ir.Value | None = None
    for expert, share in zip(experts, parts, strict=True):
        y = g.op("Mul", add_expert(g, run, expert, x), share)
        total = y if total is None else g.op("Add", total, y, name=f"{expert.name}/sum")
    assert total is not None  # a mixture has experts
    return total
