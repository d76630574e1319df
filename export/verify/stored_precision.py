"""Codes of a bundle for another graph, without a second calibration."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from palmtop.export.graph.linear import PlannedPrecision, Precision
from palmtop.export.mixed_precision.allocation import BitAllocation, Planned
from palmtop.quantize.rtn import rtn

from .tensors import stored_tensors


class StoredPrecision(Planned):
    """The plan that a bundle was made with, its results included."""

    __slots__ = ("_folder",)
    _folder: Path

    def __init__(self, folder: Path) -> None:
        """Set up the plan of the bundle in ``folder``; nothing is read yet."""
        super().__init__(plan=BitAllocation(method="stored", tensors={}), quantizer=rtn, statistics=lambda key: None)
        object.__setattr__(self, "_folder", folder)

    def precision(self, part: str, default: Precision) -> PlannedPrecision:
        """Return the precision of every linear of one graph: the bundle's scheme and codes."""
        found = stored_tensors(ir.load(self._folder / f"{part}.onnx"))
        level = default.accuracy_level
        own = {
            name: Precision(scheme=stored.scheme, accuracy_level=level, stored=stored.quantized)
            if stored.scheme
            else Precision(scheme=None)
            for name, stored in found.items()
        }
        floats = {name.removesuffix(".weight"): p for name, p in own.items() if p.scheme is None}
        return PlannedPrecision(by_name=floats | own, default=default)
