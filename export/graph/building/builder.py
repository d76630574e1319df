"""Typed layer over onnx-ir: inputs, operators, constants, large weights, branches.

Independent of layers. Large weights are written to the external data file when they are added, and only their place
stays in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from palmtop.quantize.workers import Workers

OPSET = 20  # newest opset that onnxruntime 1.29 (genai 0.13.1, the phone's) and 1.31 both implement in full
IR_VERSION = 10
MICROSOFT = "com.microsoft"
INLINE_BYTES = 1024  # constants up to this size stay in the .onnx file

Attribute = int | float | str | Sequence[int] | Sequence[float] | ir.Graph | ir.TensorProtocol
Dim = int | str


@dataclass(frozen=True, slots=True)
class Blocks:
    """Consecutive parts of a tensor, or of tensors made together; each iteration makes them anew.

    Attributes:
        make: begins an iteration; nothing is read before.
        matrix: for a float matrix ``rows(start, stop)``, [stop - start, K] in any layout of the tensor; otherwise None.
    """

    make: Callable[[], Iterator[Any]]
    matrix: Callable[[int, int], NDArray[np.float32]] | None = None

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the parts in order."""
        return self.make()


class WeightSink(Protocol):
    """Destination of large weights: an external data file of the bundle.

    Attributes:
        workers: threads that make the blocks.
    """

    workers: Workers

    def add(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[np.generic],
        blocks: Iterable[NDArray[np.generic]],
    ) -> ir.ExternalTensor:
        """Write blocks one after the other and return their place."""
        ...

    def add_set(
        self,
        name: str,
        tensors: Sequence[tuple[str, tuple[int, ...], np.dtype[np.generic]]],
        blocks: Iterable[tuple[NDArray[np.generic], ...]],
    ) -> list[ir.ExternalTensor]:
        """Write tensors that are made together: all of them, or none."""
        ...

    def inlined(self, name: str, array: NDArray[np.generic]) -> None:
        """Receive a named weight that is small enough to stay inside the graph."""
        ...


class GraphBuilder:
    """Builder of one ONNX graph, or of a branch.

    A branch (``branch()``) has no inputs, can use the values of the graph around it, and keeps its own initialisers.
    """

    def __init__(self, name: str, sink: WeightSink, opset: int = OPSET) -> None:
        self.name = name
        self.sink = sink
        self.opset = opset
        self._nodes: list[ir.Node] = []
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._initializers: dict[str, ir.Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._count = 0

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> ir.Value:
        """Add a graph input; a string dimension is symbolic."""
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> None:
        """Declare a value as an output under this name."""
        if value.producer() is None or value in self._outputs:
            value = self.op("Identity", value)
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)
        self._outputs.append(value)

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        name: str = "",
        **attributes: Attribute,
    ) -> ir.Value:
        """Add a node with one output and return the output."""
        return self.ops(op_type, *inputs, outputs=1, domain=domain, name=name, **attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        outputs: int,
        domain: str = "",
        name: str = "",
        **attributes: Attribute,
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs and return them."""
        self._count += 1
        name = name or f"{self.name}/{op_type}_{self._count}"
        given = list(inputs)
        while given and given[-1] is None:  # an optional input at the end is left out
            given.pop()
        node = ir.node(op_type, given, attributes, domain=domain, num_outputs=outputs, name=name)
        for place, value in enumerate(node.outputs):
            value.name = f"{name}:{place}"
        self._nodes.append(node)
        return node.outputs

    def constant(self, array: NDArray[np.generic] | int | float | list[int]) -> ir.Value:
        """Return a small constant; Python integers become int64, floats float32. Equal constants are shared."""
        if isinstance(array, float):
            array = np.array(array, np.float32)
        elif not isinstance(array, np.ndarray):
            array = np.array(array, np.int64)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._initializer(
                f"{self.name}/const_{len(self._constants)}", ir.tensor(np.asarray(array, order="C"))
            )
        return self._constants[key]

    def weight(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """Add an initialiser with a name; inline when tiny, else in the external data file."""
        if array.nbytes <= INLINE_BYTES:
            self.sink.inlined(name, array)
            return self._initializer(name, ir.tensor(np.asarray(array, order="C"), name=name))
        return self.streamed_weight(name, array.shape, array.dtype, [array])

    def streamed_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[np.generic],
        blocks: Iterable[NDArray[np.generic]],
    ) -> ir.Value:
        """Add an initialiser whose content comes in blocks and is written directly to the external data file."""
        return self._initializer(name, self.sink.add(name, shape, np.dtype(dtype), blocks))

    def weight_set(
        self,
        name: str,
        tensors: Sequence[tuple[str, tuple[int, ...], np.dtype[np.generic]]],
        blocks: Iterable[tuple[NDArray[np.generic], ...]],
    ) -> list[ir.Value]:
        """Add initialisers that are made together, block by block, such as codes and scales."""
        external = self.sink.add_set(name, tensors, blocks)
        return [self._initializer(each, place) for (each, _, _), place in zip(tensors, external, strict=True)]

    def alias(self, name: str, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        """Add a second initialiser on the same bytes of the external data file, in another shape."""
        there = value.const_value
        if not isinstance(there, ir.ExternalTensor):  # tiny and inline: share by copying
            return self._initializer(name, ir.tensor(np.asarray(there).reshape(shape), name=name))
        again = ir.ExternalTensor(
            there.location,
            there.offset,
            there.length,
            there.dtype,
            shape=ir.Shape(shape),
            name=name,
            base_dir=there.base_dir,
        )
        return self._initializer(name, again)

    def branch(self, name: str, body: Callable[[GraphBuilder], ir.Value]) -> ir.Graph:
        """Return a subgraph with one output, made by ``body`` on a builder of its own."""
        inner = GraphBuilder(name, self.sink, self.opset)
        result = body(inner)
        if result.producer() is None or not any(result.producer() is n for n in inner._nodes):
            result = inner.op("Identity", result)
        inner._outputs.append(result)
        return inner.graph()

    def place(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Add an initialiser whose bytes are already stored."""
        return self._initializer(name, tensor)

    def move_into(self, graph: ir.Graph, *, after: ir.Node | None) -> None:
        """Move the built nodes into an existing graph: behind a node, or in front of all."""
        for value in self._initializers.values():
            graph.register_initializer(value)
        first = next(iter(graph), None)
        if after is not None:
            graph.insert_after(after, self._nodes)
        elif first is not None:
            graph.insert_before(first, self._nodes)
        else:
            graph.extend(self._nodes)
        self._nodes, self._initializers, self._constants = [], {}, {}

    def graph(self) -> ir.Graph:
        """Return the graph built so far."""
        return ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": self.opset, MICROSOFT: 1},
            name=self.name,
        )

    def model(self) -> ir.Model:
        """Return the graph as a model."""
        return ir.Model(self.graph(), ir_version=IR_VERSION, producer_name="palmtop")

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name in self._initializers:
            raise ValueError(f"initialiser {name} added twice")  # a bug of an architecture file
        shape = ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._initializers[name] = value
        return value


def remove_unused(model: ir.Model) -> None:
    """Remove nodes and initialisers that no output of a graph needs."""
    RemoveUnusedNodesPass()(model)
