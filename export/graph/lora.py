"""Linear layer with low-rank adapters: gated, or always on in a graph of one route.

Each gated adapter's A and B are constants inside an ``If`` branch: onnxruntime prepacks them like any other weight, and
an adapter whose gate is zero is not computed. INT4 adapters as inputs would be 70 to 400 times slower per layer,
because inputs are never prepacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.lazy_tensor import LazyTensor
from palmtop.export.checkpoint.lora import Adapter, LoraPair
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import ADAPTER
from palmtop.export.graph.building.run import Fit

from .linear import GraphPrecision, Precisions, StaticLinear, linear, with_bias

GATES = "adapter_gates"
Matmul = Callable[[GraphBuilder, ir.Value], ir.Value]
On = Sequence[tuple[Adapter, float]]
"""Adapters that a graph applies, with their weights."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Adapter with its gate in the graph.

    Attributes:
        adapter: the adapter.
        is_on: scalar bool, weight != 0.
        weight: [1] float32 weight of the adapter.
    """

    adapter: Adapter
    is_on: ir.Value
    weight: ir.Value


def add_gates(g: GraphBuilder, adapters: Sequence[Adapter]) -> list[Gate]:
    """Add the graph input ``adapter_gates``, [A] float32, split into one gate for each adapter."""
    if not adapters:
        return []
    gates = g.input(GATES, ir.DataType.FLOAT, [len(adapters)])
    return [Gate(adapter, *add_gate(g, gates, place, adapter.name)) for place, adapter in enumerate(adapters)]


def add_gate(g: GraphBuilder, gates: ir.Value, place: int, name: str) -> tuple[ir.Value, ir.Value]:
    """Add one adapter's gate: whether its weight is not 0, a scalar bool, and the weight, [1] float32."""
    bounds = (g.constant([place]), g.constant([place + 1]))
    weight = g.op("Slice", gates, *bounds, g.constant([0]), name=f"gates/{name}")
    off = g.op("Equal", g.op("Squeeze", weight), g.constant(0.0))
    return g.op("Not", off, name=f"gates/{name}/is_on"), weight


@dataclass(frozen=True, slots=True)
class GatedLinears:
    """Linear layers with gated adapters (``run.Linears``).

    Attributes:
        precision: precision of the base and of the adapters.
        gates: gates of all adapters.
    """

    precision: GraphPrecision
    gates: Sequence[Gate]

    def add(
        self,
        g: GraphBuilder,
        name: str,
        x: ir.Value,
        weight: LazyTensor,
        role: str,
        *,
        bias: LazyTensor | None = None,
        fit: Fit | None = None,
    ) -> ir.Value:
        """Add ``x @ weight.T + sum(gate * (x @ a.T) @ b.T) + bias`` over the active adapters."""
        y = linear(g, name, x, weight, self.precision.of(role), role)
        for gate in self.gates:
            pair = fitted(gate.adapter, name, fit)
            if pair is not None:
                _check_shapes(pair, *weight.shape)
                y = _add_if_on(g, name, x, y, gate, pair, self.precision.adapters)
        return with_bias(g, name, y, bias)


@dataclass(frozen=True, slots=True)
class FixedLinears:
    """Linear layers with the adapters of one route always on, without control flow (``run.Linears``).

    Attributes:
        linear: function that stores and multiplies a matrix.
        on: adapters of the route with their weights.
    """

    linear: StaticLinear
    on: On

    def add(
        self,
        g: GraphBuilder,
        name: str,
        x: ir.Value,
        weight: LazyTensor,
        role: str,
        *,
        bias: LazyTensor | None = None,
        fit: Fit | None = None,
    ) -> ir.Value:
        """Add ``x @ weight.T + sum(factor * (x @ a.T) @ b.T) + bias``; weights have the names of the gated graph."""
        y = self.linear(g, name, x, weight, role)
        for adapter, factor in self.on:
            pair = fitted(adapter, name, fit)
            if pair is None:
                continue
            inner = self.linear(g, f"{name}.lora_A.{adapter.name}", x, pair.a, ADAPTER)
            if factor != 1.0:
                inner = g.op("Mul", inner, g.constant(float(factor)))
            delta = self.linear(g, f"{name}.lora_B.{adapter.name}", inner, pair.b, ADAPTER)
            y = g.op("Add", y, delta, name=f"{name}/{adapter.name}")
        return with_bias(g, name, y, bias)


def fitted(adapter: Adapter, name: str, fit: Fit | None) -> LoraPair | None:
    """Return an adapter's delta of a linear in the graph's layout; None if it has none."""
    pair = adapter.pair(name)
    return pair if pair is None or fit is None else fit(pair)


def _check_shapes(pair: LoraPair, rows: int, columns: int) -> None:
    """Refuse deltas of a wrong shape, which onnxruntime would refuse only when the bundle is loaded."""
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
    """Add ``y + weight * up(down(x))`` where ``is_on``, else ``y``: an ``If`` of this name.

    The weight is multiplied with the r numbers between the two, not the N behind them.
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
