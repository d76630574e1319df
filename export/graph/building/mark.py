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
EXPERTS = "palmtop.experts"  # of a node that multiplies by the matrices of several experts
MIXER, FFN, EXPERT, ADAPTER, HEAD, TABLE, ENCODER = "mixer", "ffn", "expert", "adapter", "head", "table", "encoder"
ROLES = (MIXER, FFN, EXPERT, ADAPTER, HEAD, TABLE, ENCODER)
ADAPTABLE = (MIXER, FFN)  # linears that an adapter may be added to


@dataclass(frozen=True, slots=True)
class Mark:
    """Role and size of a linear layer or a table.

    Attributes:
        role: "mixer", "ffn" and "expert" of a decoder's layer, "adapter" for a matrix of a low-rank delta, "head" and
            "table" of a decoder's ends, "encoder" for all of an encoder.
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


@dataclass(frozen=True, slots=True)
class ExpertsMark:
    """Names and sizes of the experts of one QMoE node.

    Attributes:
        name: name that the number of an expert is added to, such as "layers.0.mlp.experts".
        size: F, inner width of an expert.
        hidden_size: H.
        numbers: numbers of the experts in the order of the stored matrices.
    """

    name: str
    size: int
    hidden_size: int
    numbers: tuple[int, ...]

    def put(self, value: ir.Value) -> ir.Value:
        """Mark the node of this value, and return the value."""
        node = value.producer()
        assert node is not None  # an operator's output
        numbers = ",".join(map(str, self.numbers))
        node.metadata_props[EXPERTS] = f"{self.size} {self.hidden_size} {numbers} {self.name}"
        return value

    def marks(self, linear: str, rows: int, columns: int) -> list[Mark]:
        """Return the marks of one linear of each expert."""
        return [Mark(EXPERT, rows, columns, f"{self.name}.{number}.{linear}") for number in self.numbers]


def experts_mark_of(metadata: Mapping[str, str]) -> ExpertsMark | None:
    """Return the mark of a QMoE node in its metadata; None for other nodes, and where it is not readable."""
    parts = metadata.get(EXPERTS, "").split(" ", 3)
    wanted = [*parts[:2], *(parts[2].split(",") if len(parts) == 4 else "")]
    if len(parts) < 4 or not all(each.isdecimal() for each in wanted):
        return None
    size, hidden_size, *numbers = map(int, wanted)
    return ExpertsMark(parts[3], size, hidden_size, tuple(numbers))
