"""Compare a bundle's stored tensors with the checkpoint's, one at a time.

The exporter's own graph code is run once more in float32 with a sink that writes nothing: each tensor it
would store is compared with what the bundle stores under that name. So the comparison knows every padding,
order and scale without a second description of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import QuantizedTensor, Scheme

from .quality import snr_db


@dataclass(frozen=True, slots=True)
class Stored:
    """Values of a graph that hold one matrix: quantised (codes, scales, zero points) or float."""

    node: ir.Node | None
    tensor: ir.TensorProtocol | None

    def array(self) -> NDArray[np.float32]:
        """[K, N] as float graphs hold it, or the float tensor itself."""
        if self.node is None:
            return np.asarray(self.tensor.numpy(), np.float32)  # type: ignore[union-attr]
        inputs = [None if v is None or v.const_value is None else v.const_value.numpy() for v in self.node.inputs]
        columns, rows, bits, group = (self.node.attributes[k].as_int() for k in ("K", "N", "bits", "block_size"))
        zeros = inputs[3] if len(inputs) > 3 else None
        quantized = QuantizedTensor(
            scheme=Scheme(bits=bits, group=group, symmetric=zeros is None),
            columns=columns,
            codes=np.asarray(inputs[1]).reshape(rows, -1, group * bits // 8),
            scales=np.asarray(inputs[2], np.float32).reshape(rows, -1),
            zero_points=None if zeros is None else np.asarray(zeros, np.uint8).reshape(rows, -1),
        )
        return dequantize(quantized).T


class ComparingSink:
    """Takes the place of the external data file and measures instead of writing.

    Attributes:
        snr_db: by linear or tensor name.
        missing: names that the bundle does not store.
    """

    def __init__(self, graph: Path) -> None:
        self.snr_db: dict[str, float] = {}
        self.missing: list[str] = []
        self._stored = _stored(ir.load(graph))

    def add(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[NDArray[Any]]
    ) -> ir.ExternalTensor:
        """Compare the tensor with the bundle's, keep nothing."""
        expected = np.concatenate([np.asarray(b) for b in blocks]) if shape else np.asarray(next(iter(blocks)))
        stored = self._stored.get(name) or self._stored.get(name.removesuffix(".weight"))
        if stored is None:
            self.missing.append(name)
        elif np.issubdtype(dtype, np.floating):
            found = stored.array()
            if found.shape != expected.shape and found.T.shape == expected.shape:
                found = found.T  # an embedding: stored for the head, compared as a table
            if found.shape == expected.shape:
                self.snr_db[name.removesuffix(".weight")] = snr_db(expected, found)
            else:
                self.missing.append(name)
        return ir.ExternalTensor("", 0, 0, ir.DataType.from_numpy(dtype), shape=ir.Shape(shape), name=name)


def _stored(model: ir.Model) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for graph in (model.graph, *model.graph.subgraphs()):
        for name, value in graph.initializers.items():
            found[name] = Stored(None, value.const_value)
    for node in model.graph.all_nodes():
        if node.op_type == "MatMulNBits" and node.name:
            found[node.name] = Stored(node, None)
            codes = node.inputs[1]
            if codes is not None and codes.name is not None:  # a tied table is named after the embedding
                found.setdefault(codes.name.removesuffix(".codes"), Stored(node, None))
    return found
