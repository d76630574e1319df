"""Adapters on an unchanged bundle, for trial: a graph in memory that contains the new weights."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from palmtop.export.bundle.external_data import ExternalData
from palmtop.quantize.search import search
from palmtop.runtime.bundle.manifest import AdapterSpec
from palmtop.runtime.bundle.opening import Bundle

from .adapter_source import fitted_pairs, quantise, read_peft
from .graph import DecoderGraph, Delta, max_rank
from .matrix import Matrix, read


class Trial:
    """Decoder graph in memory to which adapters are added.

    Attributes:
        manifest: manifest of the bundle with the added adapters.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.manifest = bundle.manifest
        self._graph = DecoderGraph(bundle.file(bundle.manifest.decoder.file))
        self._heads = self._graph.heads(bundle.manifest.decoder)

    def add(self, source: Path) -> str:
        """Add a PEFT folder, quantised as a bundle's adapters are; return its name.

        Raises:
            CheckpointError: the adapter does not fit the base.
        """
        name = f"trial-{len(self.manifest.adapters)}"
        adapter = read_peft(source, name)
        pairs = fitted_pairs(adapter, self._graph, self._heads)
        with tempfile.TemporaryDirectory() as folder:
            with ExternalData(Path(folder), "weights.bin") as sink:
                stored = quantise(pairs, name, self._graph, sink, search)
            deltas = {linear: Delta(_in_memory(d.a), _in_memory(d.b)) for linear, d in stored.items()}
        gate = self._graph.insert(name, deltas)
        spec = AdapterSpec(
            name=name,
            rank=max_rank(deltas),
            alpha=adapter.alpha,
            gate=gate,
            base_sha256=self.manifest.source_sha256,
            combine="add",
        )
        adapters = (*self.manifest.adapters, spec)
        self.manifest = replace(self.manifest, adapters=adapters, adapter_mode="gated")
        return name

    def graph_bytes(self) -> bytes:
        """Return the content of the .onnx file."""
        data: bytes = ir.to_proto(self._graph.model).SerializeToString()
        return data


def _in_memory(matrix: Matrix) -> Matrix:
    return replace(matrix, tensors={kind: ir.tensor(read(tensor)) for kind, tensor in matrix.tensors.items()})
