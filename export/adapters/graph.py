"""Decoder graph with changing adapters: the small .onnx file is rewritten, weight files do not change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from palmtop.errors import BundleError
from palmtop.export.graph.building.builder import GraphBuilder, WeightSink, remove_unused
from palmtop.export.graph.building.mark import ADAPTABLE, ADAPTER, HEAD_SIZE, Mark, mark_of
from palmtop.export.graph.head_padding import Heads
from palmtop.export.graph.linear import Precision
from palmtop.export.graph.lora import GATES, add_branch, add_gate
from palmtop.quantize import Quantizer
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.manifest import DecoderSpec

from .matrix import Matrix, of_node

LINEAR = re.compile(r"layers\.\d+\.(?:self_attn|mlp)\.\w+")


class _NoSink:
    """Weight sink for graphs that use stored tensors only."""

    def __init__(self) -> None:
        self.workers = Workers()

    def add(self, name: str, shape: object, dtype: object, blocks: object) -> ir.ExternalTensor:
        """Raise an error: every tensor is already stored."""
        raise AssertionError(name)

    def add_set(self, name: str, tensors: object, blocks: object) -> list[ir.ExternalTensor]:
        """Raise an error: every tensor is already stored."""
        raise AssertionError(name)

    def inlined(self, name: str, array: object) -> None:
        """Do nothing: gate numbers stay inside the graph."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Low-rank delta of one linear: ``b @ a``.

    Attributes:
        a: [r, K] matrix.
        b: [N, r] matrix with alpha / r folded in.
    """

    a: Matrix
    b: Matrix


class DecoderGraph:
    """Decoder graph of a bundle, opened for changes.

    Raises:
        BundleError: the file is not a decoder that palmtop wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.model = ir.load(path)
        except Exception as error:  # errors of protobuf and onnx-ir have no common base
            raise BundleError(f"{path}: cannot be read as an ONNX graph ({str(error).splitlines()[0]})") from error
        marked = [(mark, n) for n in self.model.graph if (mark := mark_of(n.name, n.metadata_props)) is not None]
        self._marks = {mark.name: mark for mark, _ in marked if mark.role in ADAPTABLE}
        self._linears = {mark.name: node for mark, node in marked if mark.name in self._marks}
        if not self._linears:
            raise BundleError(f"{path}: has no linear layers, expected a decoder written by 'palmtop export'")

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Return [N, K] of every linear that an adapter can be added to, by name, in the graph's order."""
        return {name: (mark.rows, mark.columns) for name, mark in self._marks.items()}

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters in gate order."""
        places = {}
        for node in self.model.graph:
            if node.op_type == "Slice" and (node.name or "").startswith("gates/"):
                places[_number(node.inputs[1])] = str(node.name).removeprefix("gates/")
        return [places[place] for place in sorted(places)]

    def node(self, name: str) -> ir.Node:
        """Return the node that computes the product of a linear."""
        return self._linears[name]

    def precision(self, name: str, quantizer: Quantizer) -> Precision:
        """Return the precision of a linear, which its adapters share."""
        stored = of_node(self._linears[name])
        return Precision(scheme=stored.scheme, accuracy_level=stored.accuracy_level, quantizer=quantizer)

    def heads(self, spec: DecoderSpec) -> Heads:
        """Return the heads of the checkpoint: the cache's head size may be padded.

        The kernel's scale gives the size where it is ``head_size ** -0.5``, a note at the node where it is not.
        """
        node = next((n for n in self.model.graph if n.op_type == "GroupQueryAttention"), None)
        scale = None if node is None else node.attributes.get("scale")
        if scale is None:
            raise BundleError(f"{self.path}: has no attention layer with a scale, expected a decoder of palmtop's")
        kv_heads = spec.state("key").stored_shape(0)[1]
        noted = "" if node is None else node.metadata_props.get(HEAD_SIZE, "")
        head_size = int(noted) if noted.isdecimal() else round(scale.as_float() ** -2)
        return Heads(num_heads=spec.num_heads, num_kv_heads=kv_heads, head_size=head_size)

    def deltas(self, adapter: str) -> dict[str, Delta]:
        """Return the deltas of an adapter of this graph, by linear."""
        found = {}
        for name, branches in self._branches().items():
            for node in branches:
                if node.name == f"{name}/{adapter}":
                    inner = {n.name: n for n in node.attributes["then_branch"].as_graph()}
                    a, b = (inner[f"{name}.lora_{part}.{adapter}"] for part in "AB")
                    found[name] = Delta(of_node(a), of_node(b))
        return found

    def insert(self, adapter: str, deltas: Mapping[str, Delta]) -> int:
        """Insert an adapter behind the existing ones.

        Returns:
            The number of its gate.
        """
        graph, gate = self.model.graph, len(self.adapters)
        gates = next((v for v in graph.inputs if v.name == GATES), None)
        if gates is None:
            gates = ir.Value(name=GATES, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
            graph.inputs.append(gates)
        gates.shape = ir.Shape([gate + 1])
        first = GraphBuilder(f"gates/{adapter}", _sink())
        is_on, weight = add_gate(first, gates, gate, adapter)
        first.move_into(graph, after=None)
        branches = self._branches()
        for name, delta in deltas.items():
            end = branches.get(name, [self._linears[name]])[-1]
            y = end.outputs[0]
            users = list(y.uses())
            g = GraphBuilder(f"{name}/{adapter}", _sink())
            z = add_branch(
                g,
                f"{name}/{adapter}",
                self._linears[name].inputs[0],  # type: ignore[arg-type]
                y,
                is_on,
                weight,
                partial(_product, delta.a, f"{name}.lora_A.{adapter}"),
                partial(_product, delta.b, f"{name}.lora_B.{adapter}"),
            )
            g.move_into(graph, after=end)
            for node, place in users:
                node.replace_input_with(place, z)
        return gate

    def remove(self, adapter: str) -> None:
        """Remove an adapter; the gates of those behind it move up by one."""
        graph, names = self.model.graph, self.adapters
        gate = names.index(adapter)
        for name, branches in self._branches().items():
            for node in branches:
                if node.name == f"{name}/{adapter}":
                    self._bypass(node)
        gates = next(v for v in graph.inputs if v.name == GATES)
        gates.shape = ir.Shape([len(names) - 1])
        if len(names) == 1:
            graph.inputs.remove(gates)
        for node in list(graph):
            if node.op_type == "Slice" and (node.name or "").startswith("gates/"):
                place = _number(node.inputs[1])
                if place > gate:
                    for which, number in ((1, place - 1), (2, place)):
                        value = ir.Value(
                            name=f"{node.name}/{'start' if which == 1 else 'stop'}/{number}",
                            const_value=ir.tensor(np.array([number], np.int64)),
                            type=ir.TensorType(ir.DataType.INT64),
                            shape=ir.Shape([1]),
                        )
                        graph.register_initializer(value)
                        node.replace_input_with(which, value)
        remove_unused(self.model)  # the gate's nodes, and numbers that only it or the old indices use

    def save(self, path: Path) -> None:
        """Write the graph; large weights stay in their files."""
        ir.save(self.model, path)

    def _branches(self) -> dict[str, list[ir.Node]]:
        """The adapters' ``If`` nodes by linear, in their order in the graph."""
        found: dict[str, list[ir.Node]] = {}
        for node in self.model.graph:
            linear = (node.name or "").rpartition("/")[0]
            if node.op_type == "If" and linear in self._linears:
                found.setdefault(linear, []).append(node)
        return found

    def _bypass(self, node: ir.Node) -> None:
        """Connect the readers of an ``If`` with its input ``y``, and remove its branches."""
        off = node.attributes["else_branch"].as_graph()
        y = next(iter(off)).inputs[0]
        assert y is not None  # the else branch is Identity(y)
        for branch in ("then_branch", "else_branch"):
            for inner in node.attributes[branch].as_graph():
                for place in range(len(inner.inputs)):
                    inner.replace_input_with(place, None)
        for user, place in list(node.outputs[0].uses()):
            user.replace_input_with(place, y)


def _product(matrix: Matrix, name: str, g: GraphBuilder, x: ir.Value) -> ir.Value:
    return Mark(ADAPTER, matrix.rows, matrix.columns, name).put(matrix.add_to(g, name, x))


def _sink() -> WeightSink:
    return _NoSink()


def _number(value: ir.Value | None) -> int:
    tensor = None if value is None else value.const_value
    if tensor is None:
        raise BundleError("decoder: a gate is read at a place that is not a constant")
    return int(tensor.numpy()[0])


def max_rank(deltas: Mapping[str, Delta]) -> int:
    """Return the largest rank among an adapter's linears."""
    return max((d.a.rows for d in deltas.values()), default=0)
