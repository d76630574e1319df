"""Metadata of nodes that multiply by, or look up in, one of the model's matrices.

Kept in ``metadata_props`` (ONNX IR 10), so that readers of a graph need not recognise a linear layer by its operator,
which depends on how the matrix is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

KEY = "palmtop.linear"
HEAD_SIZE = "palmtop.head_size"  # of an attention whose scores have another factor than head_size ** -0.5
MIXER, FFN, ADAPTER, HEAD, TABLE, ENCODER = "mixer", "ffn", "adapter", "head", "table", "encoder"
ROLES = (MIXER, FFN, ADAPTER, HEAD, TABLE, ENCODER)
ADAPTABLE = (MIXER, FFN)  # linears that an adapter may be added to


@dataclass(frozen=True, slots=True)
class Mark:
    """Role and size of a linear layer or a table.

    Attributes:
        role: "mixer" and "ffn" of a decoder's layer, "adapter" for a matrix of a low-rank delta, "head" and "table" of
            a decoder's ends, "encoder" for all of an encoder.
        rows: N of the [N, K] matrix, without padding.
        columns: K of the matrix.
        name: name of the matrix, which is the node's except for tables and a head that is the embedding.
    """

    role: str
    rows: int
    columns: int
    name: str

    def put(self, value: ir.Value) -> ir.Value:
        """Mark the node of this value, and return the value."""
        node = value.producer()
        assert node is not None  # an operator's output
        name = "" if node.name == self.name else f" {self.name}"
        node.metadata_props[KEY] = f"{self.role} {self.rows} {self.columns}{name}"
        return value


def mark_of(node_name: str | None, metadata: Mapping[str, str]) -> Mark | None:
    """Return the mark in a node's metadata; None for a node that is no linear layer or has no readable mark."""
    role, _, rest = metadata.get(KEY, "").partition(" ")
    rows, _, rest = rest.partition(" ")
    columns, _, name = rest.partition(" ")
    if role not in ROLES or not rows.isdecimal() or not columns.isdecimal():
        return None
    return Mark(role, int(rows), int(columns), name or node_name or "")
