"""Size of a bundle in bytes before it is written, from the exporter's own code with empty weights.

Graphs are built from weights of zeros without quantisation; a sink adds up the bytes that would be written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.arch import Model
from palmtop.export.bundle.bundle_writer import build_graph
from palmtop.export.bundle.external_data import LINE, PAGE, PAGE_ALIGNED_FROM
from palmtop.export.bundle.manifest_builder import PLAN_FILE, manifest_text
from palmtop.export.bundle.storage_summary import count_parts
from palmtop.export.bundle.stored_matrix import stored_matrices
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict
from palmtop.export.checkpoint.lora import Adapter, LoraPair
from palmtop.export.recipe import Recipe
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.statistics import Statistics
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.manifest import MANIFEST_FILE, FileSpec, Manifest

from .allocation import BitAllocation, Planned

# predictions of a solved plan, and the number of its neighbours
PREDICTED, FRONTIER_POINTS = (1_000_000_000, 0.0123456), 40


class CountingSink:
    """Weight sink that adds up the bytes of an external data file.

    Attributes:
        size_bytes: bytes so far.
        workers: one thread; no blocks are made.
        names: names of the tensors.
    """

    def __init__(self, part: str) -> None:
        self._location = f"weights/{part}.bin"
        self.size_bytes = 0
        self.names: list[str] = []
        self.workers = Workers()

    def add(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[NDArray[Any]]
    ) -> ir.ExternalTensor:
        """Count a tensor; its blocks are not made."""
        self.names.append(name)
        length = int(np.prod(shape)) * dtype.itemsize
        self.size_bytes += -self.size_bytes % (PAGE if length >= PAGE_ALIGNED_FROM else LINE)
        offset = self.size_bytes
        self.size_bytes += length
        kind = ir.DataType.from_numpy(dtype)
        return ir.ExternalTensor(self._location, offset, length, kind, shape=ir.Shape(shape), name=name)

    def add_set(
        self,
        name: str,
        tensors: Sequence[tuple[str, tuple[int, ...], np.dtype[Any]]],
        blocks: Iterable[tuple[NDArray[Any], ...]],
    ) -> list[ir.ExternalTensor]:
        """Count tensors one after the other, as ``ExternalData`` writes them."""
        return [self.add(each, shape, dtype, ()) for each, shape, dtype in tensors]

    def inlined(self, name: str, array: NDArray[Any]) -> None:
        """Do nothing: the weight is counted with the graph."""


def graph_bytes(model: Model, recipe: Recipe, plan: BitAllocation) -> int:
    """Return the bytes of the graphs and their weights, as ``write_bundle`` would write them."""
    return sum(_built(model, recipe, plan)[0].values())


def bundle_bytes(folder: Path, manifest: Manifest, model: Model, recipe: Recipe, plan: BitAllocation) -> int:
    """Return the bytes of a whole bundle that follows a plan, without ``quality.json``.

    Args:
        folder: folder of the float reference; its configuration and tokenizer are those of the planned bundle.
        manifest: manifest of the float reference, with these files.
        model: the checkpoint's model.
        recipe: recipe of the planned bundle.
        plan: the plan; missing predictions are counted with the usual number of digits.
    """
    sizes, graphs = _built(model, recipe, plan)
    size_bytes, loss = PREDICTED
    filled = replace(plan, size_bytes=size_bytes, loss=loss, frontier=(PREDICTED,) * FRONTIER_POINTS)
    listed = manifest.files | {
        name: FileSpec(size_bytes=count, sha256="0" * 64) for name, count in (sizes | {PLAN_FILE: 10_000}).items()
    }
    parts = count_parts(graphs)
    described = replace(manifest, parts=parts, files=listed, recipe=recipe.to_dict())
    own = (".onnx", ".bin", MANIFEST_FILE)
    others = (p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.name.endswith(own))
    return sum(sizes.values()) + len(filled.text().encode()) + len(manifest_text(described).encode()) + sum(others)


def _built(model: Model, recipe: Recipe, plan: BitAllocation) -> tuple[dict[str, int], list[tuple[str, ir.Model]]]:
    """Bytes of every graph and weight file by name, and the graphs."""
    blank, sizes, graphs = _blank_model(model), {}, []
    for part in model.graphs:
        sink = CountingSink(part)
        graph = build_graph(blank, recipe, part, sink, _without_codes(plan))
        with tempfile.TemporaryDirectory() as folder:
            ir.save(graph, Path(folder) / "graph.onnx")
            sizes[f"{part}.onnx"] = (Path(folder) / "graph.onnx").stat().st_size
        sizes[f"weights/{part}.bin"] = sink.size_bytes
        graphs.append((part, graph))
    return sizes, graphs


def linear_names(model: Model, recipe: Recipe) -> set[str]:
    """Return ``part: linear`` of every tensor that a plan may name."""
    found, blank = set(), _blank_model(model)
    everything = replace(recipe, bits=4, head_bits=None, encoder_bits=None)
    for part in model.graphs:
        graph = build_graph(
            blank, everything, part, CountingSink(part), _without_codes(BitAllocation(method="", tensors={}))
        )
        found |= {f"{part}: {stored.mark.name}" for stored in stored_matrices(graph) if stored.is_quantized}
    return found


def _without_codes(plan: BitAllocation) -> Planned:
    return Planned(plan=plan, quantizer=_empty, statistics=lambda key: None)


def _blank_model(model: Model) -> Model:
    weights = StateDict(lambda name: _blank(model.weights.find(name)))
    return replace(model, weights=weights, adapters=tuple(map(_bare, model.adapters)))


def _empty(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /) -> QuantizedTensor:
    rows, groups = len(weight), scheme.groups_per_row(weight.shape[1])
    zeros = None if scheme.symmetric else np.zeros((rows, -(-groups * scheme.bits // 8)), np.uint8)
    return QuantizedTensor(
        scheme=scheme,
        columns=weight.shape[1],
        codes=np.zeros((rows, groups, scheme.group * scheme.bits // 8), np.uint8),
        scales=np.zeros((rows, groups), np.float32),
        zero_points=zeros,
    )


def _blank(weight: LazyTensor) -> LazyTensor:
    return LazyTensor(weight.name, weight.shape, lambda a, b: np.zeros((b - a, *weight.shape[1:]), np.float32))


def _bare(adapter: Adapter) -> Adapter:
    def pair(target: str) -> LoraPair | None:
        found = adapter.pair(target)
        return None if found is None else LoraPair(_blank(found.a), _blank(found.b))

    return replace(adapter, pair=pair)
