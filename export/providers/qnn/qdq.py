"""Quantisation of a float graph of fixed shapes for HTP.

16-bit activations, integer weights, a QuantizeLinear and DequantizeLinear on every edge (QDQ). Uses operators and
ranges only. Source: HTP's support was measured operator by operator (docs/npu.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.graph.building.builder import INLINE_BYTES, WeightSink, remove_unused
from palmtop.export.graph.building.mark import mark_of

from .codes import Codes, bias_codes, channel_codes, grid_of, packed_int4, value_codes
from .ranges import Range

OPSET = 21  # the first opset with int4 and uint16 in QuantizeLinear and DequantizeLinear
MOVES = ("Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Gather", "Expand", "Identity", "Pad")
"""Operators that only move values: the output has the grid of the input."""
FIXED = {"Softmax": (0.0, 1.0), "Sigmoid": (0.0, 1.0)}

WeightBits = Callable[[str | None], int]
"""Function from a role (``export.graph.mark``), None for convolutions, to the bits of its weights: 4 or 8."""


def add_qdq(
    model: ir.Model,
    ranges: Mapping[str, Range],
    bits: WeightBits,
    sink: WeightSink,
    same: Mapping[str, str] | None = None,
) -> None:
    """Quantise a graph in place.

    Args:
        model: float32 graph of fixed shapes.
        ranges: lowest and highest of every float value, by name.
        bits: bits of each weight.
        sink: weight sink of the new weights.
        same: inputs to outputs that must share a grid, such as a cache and its new rows.

    Raises:
        KeyError: a float value has no range (a bug of the caller).
    """
    model.graph.opset_imports[""] = OPSET
    _Pass(model.graph, dict(ranges), bits, sink, same or {}).run()
    remove_unused(model)  # float weights


class _Pass:
    def __init__(
        self,
        graph: ir.Graph,
        ranges: dict[str, Range],
        bits: WeightBits,
        sink: WeightSink,
        same: Mapping[str, str],
    ) -> None:
        self.graph, self.ranges, self.bits, self.sink = graph, ranges, bits, sink
        self.grids: dict[str, tuple[ir.Value, ir.Value]] = {}
        self.done: dict[tuple[str, str], ir.Value] = {}
        for source, result in same.items():
            both = (ranges[source], ranges[result])
            ranges[source] = ranges[result] = (min(low for low, _ in both), max(high for _, high in both))

    def run(self) -> None:
        """Quantise all values and constants."""
        inputs = [value for value in self.graph.inputs if value.name in self.ranges]
        nodes = list(self.graph)
        self._spread(nodes)
        for value in inputs:
            self._quantise_value(value, before=nodes[0])
        for node in nodes:
            self._quantise_constants(node)
            for value in node.outputs:
                if value.name in self.ranges:
                    self._quantise_value(value, after=node)

    def _spread(self, nodes: list[ir.Node]) -> None:
        """Give moved values the range of their input, and softmax its fixed range."""
        for node in nodes:
            source = node.inputs[0] if node.inputs else None
            for value in node.outputs:
                if value.name not in self.ranges:
                    continue
                if node.op_type in FIXED:
                    self.ranges[str(value.name)] = FIXED[node.op_type]
                elif node.op_type in MOVES and source is not None and source.name in self.ranges:
                    self.ranges[str(value.name)] = self.ranges[str(source.name)]

    def _quantise_value(self, value: ir.Value, *, before: ir.Node | None = None, after: ir.Node | None = None) -> None:
        """Insert QuantizeLinear and DequantizeLinear between a value and its readers."""
        name, uses = str(value.name), list(value.uses())
        is_output = value in self.graph.outputs
        scale, zero = self._grid(name)
        q = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}/q")
        dq = ir.node("DequantizeLinear", [q.outputs[0], scale, zero], name=f"{name}/dq")
        q.outputs[0].name = f"{name}/codes"
        dq.outputs[0].name = f"{name}/dequantised"
        for user, place in uses:
            user.replace_input_with(place, dq.outputs[0])
        if is_output:
            dq.outputs[0].shape, dq.outputs[0].type = value.shape, value.type
            self.graph.outputs[self.graph.outputs.index(value)] = dq.outputs[0]
            value.name, dq.outputs[0].name = f"{name}/float", name
        if after is not None:
            self.graph.insert_after(after, [q, dq])
        elif before is not None:
            self.graph.insert_before(before, [q, dq])

    def _grid(self, name: str) -> tuple[ir.Value, ir.Value]:
        if name not in self.grids:
            scale, zero = grid_of(*self.ranges[name])
            self.grids[name] = (
                self._constant(f"{name}/scale", np.array(scale, np.float32)),
                self._constant(f"{name}/zero", np.array(zero, np.uint16)),
            )
        return self.grids[name]

    def _quantise_constants(self, node: ir.Node) -> None:
        """Quantise weights by channel, biases in units of their sums, and other float constants in 16 bits."""
        scales: NDArray[np.float32] | None = None
        mark = mark_of(node.name, node.metadata_props)
        for place, value in enumerate(node.inputs):
            if value is not None and mark is not None and value.const_value is not None:
                node.replace_input_with(place, self._matrix(value, self.bits(mark.role)))
                continue
            array = _float_constant(value)
            if value is None or array is None:
                continue
            if node.op_type == "Conv" and place == 1:
                scales, new = self._weight(value, array, 0, node)
            elif node.op_type == "Conv" and place == 2 and scales is not None:
                source = node.inputs[0]
                own, _ = grid_of(*self.ranges[str(source.name).removesuffix("/dequantised")] if source else (0, 0))
                new = self._dequantised(f"{node.name}/bias", bias_codes(array, own * scales), 0, node)
            else:
                new = self._shared(value, array, node)
            node.replace_input_with(place, new)

    def _weight(
        self, value: ir.Value, array: NDArray[np.float32], axis: int, node: ir.Node
    ) -> tuple[NDArray[np.float32], ir.Value]:
        """Quantise a convolution's weight, whose scales its bias needs."""
        name = str(value.name)
        codes = channel_codes(array, self.bits(None), axis)
        return codes.scales, self._dequantised(name, codes, axis, node, self.bits(None))

    def _matrix(self, value: ir.Value, bits: int) -> ir.Value:
        """Quantise a [K, N] matrix when the sink requests it: another graph may have written it."""
        name, axis = str(value.name), 1
        if (name, "weight") in self.done:
            return self.done[name, "weight"]
        tensor = value.const_value
        assert tensor is not None  # checked by the caller
        shape = tuple(int(size) for size in tensor.shape.numpy())
        size, type_ = (int(np.prod(shape)), np.int8) if bits == 8 else (-(-int(np.prod(shape)) // 2), np.uint8)

        def made() -> Iterator[tuple[NDArray[np.generic], ...]]:
            codes = channel_codes(np.asarray(tensor.numpy(), np.float32), bits, axis)
            stored = codes.codes if bits == 8 else packed_int4(codes.codes.astype(np.int8))
            yield stored.reshape(-1), codes.scales

        wanted: list[tuple[str, tuple[int, ...], np.dtype[Any]]] = [
            (f"{name}/codes", (size,), np.dtype(type_)),
            (f"{name}/scales", (shape[axis],), np.dtype(np.float32)),
        ]
        places = self.sink.add_set(f"{name}/matrix", wanted, made())
        stored = self._register(f"{name}/codes", _seen_as(places[0], f"{name}/codes", bits, shape))
        scales = self._register(f"{name}/scales", places[1])
        zeros = np.zeros(shape[axis], np.int8)
        zero = self._int4(f"{name}/zeros", zeros) if bits == 4 else self._constant(f"{name}/zeros", zeros)
        dq = ir.node("DequantizeLinear", [stored, scales, zero], {"axis": axis}, name=f"{name}/dq")
        dq.outputs[0].name = f"{name}/dequantised"
        self.graph.insert_before(self.graph[0], [dq])
        self.done[name, "weight"] = dq.outputs[0]
        return dq.outputs[0]

    def _shared(self, value: ir.Value, array: NDArray[np.float32], node: ir.Node) -> ir.Value:
        key = (str(value.name), "value")
        if key not in self.done:
            self.done[key] = self._dequantised(str(value.name), value_codes(array), None, node)
        return self.done[key]

    def _dequantised(self, name: str, codes: Codes, axis: int | None, node: ir.Node, bits: int = 8) -> ir.Value:
        """Insert a DequantizeLinear over a new initialiser before all nodes."""
        four = codes.codes.dtype == np.int8 and bits == 4
        stored = self._int4(f"{name}/codes", codes.codes) if four else self._constant(f"{name}/codes", codes.codes)
        scales = self._constant(f"{name}/scales", codes.scales)
        zeros = np.full(codes.scales.shape, codes.zero, codes.codes.dtype)
        zero = self._int4(f"{name}/zeros", zeros) if four else self._constant(f"{name}/zeros", zeros)
        attributes = {} if axis is None else {"axis": axis}
        dq = ir.node("DequantizeLinear", [stored, scales, zero], attributes, name=f"{name}/dq")
        dq.outputs[0].name = f"{name}/dequantised"
        self.graph.insert_before(self.graph[0], [dq])
        return dq.outputs[0]

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        array = np.asarray(array, order="C")
        if array.nbytes <= INLINE_BYTES:
            return self._register(name, ir.tensor(array, name=name))
        return self._register(name, self.sink.add(name, array.shape, array.dtype, [array]))

    def _int4(self, name: str, codes: NDArray[np.generic]) -> ir.Value:
        packed = packed_int4(codes.astype(np.int8))
        if packed.nbytes <= INLINE_BYTES:
            small = ir.PackedTensor(packed, ir.DataType.INT4, shape=ir.Shape(codes.shape), name=name)
            return self._register(name, small)
        there = self.sink.add(name, packed.shape, packed.dtype, [packed])
        return self._register(name, _seen_as(there, name, 4, codes.shape))

    def _register(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value


def _seen_as(there: ir.ExternalTensor, name: str, bits: int, shape: tuple[int, ...]) -> ir.ExternalTensor:
    """Return the same bytes as codes of a shape."""
    return ir.ExternalTensor(
        there.location,
        there.offset,
        there.length,
        ir.DataType.INT4 if bits == 4 else ir.DataType.INT8,
        shape=ir.Shape(shape),
        name=name,
        base_dir=there.base_dir,
    )


def _float_constant(value: ir.Value | None) -> NDArray[np.float32] | None:
    """Return the content of a float initialiser, None for all other values."""
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        return None
    return np.asarray(value.const_value.numpy(), np.float32)
