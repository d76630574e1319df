"""Parameters, bits and bytes of a graph's tensors by class. Reads graphs, builds none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from palmtop.export.graph.building.mark import ADAPTER, EXPERT, HEAD, TABLE, Mark
from palmtop.export.graph.moe.mixture import CHOSEN
from palmtop.runtime.bundle.manifest import PartSpec
from palmtop.runtime.bundle.specs import EXPERTS

from .stored_matrix import StoredMatrix, stored_matrices

EXPERT_NAME = re.compile(r"\.experts\.(\d+)\.")
ADAPTER_NAME = re.compile(r"\.lora_[AB]\.(.+)")


@dataclass(slots=True)
class _Count:
    parameters: int = 0
    size_bytes: int = 0
    seen: set[tuple[str, int] | int] = field(default_factory=set)


def count_parts(graphs: Iterable[tuple[str, ir.Model]]) -> tuple[PartSpec, ...]:
    """Return the parts of several graphs.

    Args:
        graphs: ("decoder" | "vision" | "audio", model).

    Returns:
        One part for each class and width; bytes that two graph values share are counted once.
    """
    counts: dict[tuple[str, int, int | None], _Count] = {}
    for where, model in graphs:
        part_of: dict[str, str] = {}  # by the matrix's name
        quantized: set[str | None] = set()
        matrices = list(stored_matrices(model))
        experts = len({found[1] for each in matrices if (found := EXPERT_NAME.search(each.mark.name))})
        for stored in matrices:
            part = part_of[stored.mark.name] = _part(where, stored.mark, experts)
            if stored.is_quantized:
                _add(counts.setdefault((part, stored.bits, stored.group), _Count()), stored)
                quantized.update(tensor.name for tensor in stored.tensors.values())
        for graph in (model.graph, *model.graph.subgraphs()):
            for name, value in graph.initializers.items():
                tensor = value.const_value
                if tensor is not None and name not in quantized:
                    part = part_of.get(name.rpartition(".")[0], _part(where))
                    count = counts.setdefault((part, 32, None), _Count())
                    count.parameters += int(np.prod(tensor.shape.numpy()))
                    count.size_bytes += tensor.nbytes
    return tuple(
        PartSpec(name=name, bits=bits, group=group, parameters=c.parameters, size_bytes=c.size_bytes)
        for (name, bits, group), c in counts.items()
    )


def _add(count: _Count, stored: StoredMatrix) -> None:
    codes = stored.tensors.get("codes")
    if codes is None or (place := _place(codes)) in count.seen:
        return
    count.seen.add(place)
    count.parameters += int(np.prod(stored.shape))
    count.size_bytes += sum(tensor.nbytes for tensor in stored.tensors.values())


def _place(tensor: ir.TensorProtocol) -> tuple[str, int] | int:
    if isinstance(tensor, ir.ExternalTensor):
        return (str(tensor.location), tensor.offset or 0)
    return id(tensor)


def _part(where: str, mark: Mark | None = None, experts: int = 0) -> str:
    """Class of a matrix, or of a tensor that belongs to none; the experts of a layer are so many."""
    if where != "decoder":
        return f"{where} encoder"
    if mark is None:
        return "norms and tables"
    if mark.role == ADAPTER and (name := ADAPTER_NAME.search(mark.name)):
        return f"adapter {name[1]}"
    if mark.role == EXPERT:
        return EXPERTS.format(chosen=CHOSEN, count=experts)
    return "embedding and head" if mark.role in (HEAD, TABLE) else "decoder linears"
