"""A linear layer with gated low-rank adapters beside it.

Each adapter's A and B are constants inside an ``If`` branch: onnxruntime prepacks them like any other
weight, and a gate that is zero costs nothing. Passing INT4 adapters as inputs instead is 70 to 400 times
slower a layer, because inputs are never prepacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.lazy_tensor import Weight
from palmtop.export.checkpoint.lora import Adapter, LoraPair

from .builder import GraphBuilder
from .linear import Precisions, linear
from .mark import ADAPTER

GATES = "adapter_gates"
Matmul = Callable[[GraphBuilder, ir.Value], ir.Value]


@dataclass(frozen=True, slots=True)
class Gate:
    """An adapter with its switch in the graph.

    Attributes:
        adapter: which.
        is_on: scalar bool, weight != 0.
        weight: [1] float32.
    """

    adapter: Adapter
    is_on: ir.Value
    weight: ir.Value


def add_gates(g: GraphBuilder, adapters: Sequence[Adapter]) -> list[Gate]:
    """The graph input ``adapter_gates`` [A] float32, split into one switch an adapter."""
    if not adapters:
        return []
    gates = g.input(GATES, ir.DataType.FLOAT, [len(adapters)])
    return [Gate(adapter, *add_gate(g, gates, place, adapter.name)) for place, adapter in enumerate(adapters)]


def add_gate(g: GraphBuilder, gates: ir.Value, place: int, name: str) -> tuple[ir.Value, ir.Value]:
    """One adapter's switch: whether its weight is not 0, a scalar bool, and the weight, [1] float32."""
    bounds = (g.constant([place]), g.constant([place + 1]))
    weight = g.op("Slice", gates, *bounds, g.constant([0]), name=f"gates/{name}")
    off = g.op("Equal", g.op("Squeeze", weight), g.constant(0.0))
    return g.op("Not", off, name=f"gates/{name}/is_on"), weight


def adapted_linear(
    g: GraphBuilder,
    name: str,
    x: ir.Value,
    weight: Weight,
    precision: Precisions,
    role: str,
    gates: Sequence[tuple[Gate, LoraPair | None]],
    adapter_precision: Precisions,
) -> ir.Value:
    """``x @ weight.T + sum(gate * (x @ a.T) @ b.T)`` over the adapters that are on.

    Args:
        g: the graph.
        name: of the linear; adapters add ``.lora_A.<adapter>`` and ``.lora_B.<adapter>``.
        x: [..., K].
        weight: [N, K].
        precision: of the base.
        role: of the base (``mark.Mark``).
        gates: every adapter's switch with its delta here.
        adapter_precision: of A and B.

    Returns:
        [..., N].
    """
    y = linear(g, name, x, weight, precision, role)
    for gate, pair in gates:
        if pair is None:
            continue
        _check_shapes(pair, *weight.shape)
        y = _add_if_on(g, name, x, y, gate, pair, adapter_precision)
    return y


def _check_shapes(pair: LoraPair, rows: int, columns: int) -> None:
    """A wrong shape would be onnxruntime's error, at the user's place."""
    if pair.a.shape[1:] != (columns,):
        raise CheckpointError(f"tensor '{pair.a.name}' is {list(pair.a.shape)}, expected {columns} columns")
    if pair.b.shape != (rows, pair.a.shape[0]):
        expected = [rows, pair.a.shape[0]]
        raise CheckpointError(f"tensor '{pair.b.name}' is {list(pair.b.shape)}, expected {expected}")


def _add_if_on(
    g: GraphBuilder, name: str, x: ir.Value, y: ir.Value, gate: Gate, pair: LoraPair, precision: Precisions
) -> ir.Value:
    who = gate.adapter.name
    return add_branch(
        g,
        f"{name}/{who}",
        x,
        y,
        gate.is_on,
        gate.weight,
        lambda inner, v: linear(inner, f"{name}.lora_A.{who}", v, pair.a, precision, ADAPTER),
        lambda inner, v: linear(inner, f"{name}.lora_B.{who}", v, pair.b, precision, ADAPTER),
    )


def add_branch(
    g: GraphBuilder,
    name: str,
    x: ir.Value,
    y: ir.Value,
    is_on: ir.Value,
    weight: ir.Value,
    down: Matmul,
    up: Matmul,
) -> ir.Value:
    """``y + weight * up(down(x))`` where ``is_on``, else ``y``: an ``If`` of this name.

    The weight meets the r numbers between the two, not the N behind them.
    """

    def on(inner: GraphBuilder) -> ir.Value:
        return inner.op("Add", y, up(inner, inner.op("Mul", weight, down(inner, x))))

    return g.op(
        "If",
        is_on,
        name=name,
        then_branch=g.branch(f"{name}/on", on),
        else_branch=g.branch(f"{name}/off", lambda inner: y),
    )
