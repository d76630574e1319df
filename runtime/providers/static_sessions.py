"""Onnxruntime sessions of a static decoder's graphs, open for the route in use.

A provider compiles a separate copy of the weights for every graph. So only the two graphs of one route are open at a
time: another route closes them; another mix of adapters invalidates the cache anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.targets import StaticRoute, StaticSpec
from palmtop.runtime.decoding.decoder import DecoderInputs

from .static_decoder import Feeds, StaticDecoder


class GraphSession(Protocol):
    """Interface of ``onnxruntime.InferenceSession``, as far as it is used."""

    def get_outputs(self) -> list[Any]:
        """Return the outputs of the graph, each with a name."""

    def run(self, outputs: list[str] | None, feeds: Any, options: Any = None) -> list[Any]:
        """Return the arrays of the outputs."""


OpenGraph = Callable[[Path], GraphSession]
"""Function that opens a graph file on a provider; raises ``PalmtopError`` for problems that a user can cause."""


class StaticSessions:
    """Graphs of one bundle's static decoder (``static_decoder.StaticGraphs``).

    Args:
        folder: folder of the bundle.
        spec: description of the target's graphs and their files.
        open_graph: function that opens prefill and decode graphs on the target's provider.
        open_embedding: function that opens the embedding graph on the CPU.
        keep: whether graphs of routes that are not in use stay open.
        copies: memory of a route's two graphs, as a multiple of the size of its weights.

    Attributes:
        spec: description of the target's graphs.
        copies: memory of a route's two graphs, as a multiple of the size of its weights.
    """

    def __init__(
        self,
        folder: Path,
        spec: StaticSpec,
        open_graph: OpenGraph,
        open_embedding: OpenGraph,
        *,
        keep: bool = False,
        copies: float = 2.0,
    ) -> None:
        self.spec = spec
        self.copies = copies
        self._folder = folder
        self._open = open_graph
        self._keep = keep
        self._sessions: dict[str, GraphSession] = {}
        self._embedding = open_embedding(folder / spec.embedding)

    def decoder(self, manifest: Manifest, inputs: DecoderInputs) -> StaticDecoder:
        """Return a decoder with an empty cache of its own."""
        return StaticDecoder(self, self.spec, manifest, inputs)

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows of the embedding table: [1, S] -> [1, S, H]."""
        rows: NDArray[np.float32] = _run(self._embedding, "the embedding", {"input_ids": ids})["rows"]
        return rows

    def run(self, route: StaticRoute, role: str, feeds: Feeds) -> Mapping[str, NDArray[np.float32]]:
        """Run a graph of the route, opening it if necessary."""
        file = getattr(route, role)
        if file not in self._sessions:
            if not self._keep:
                for other in self._sessions.keys() - {route.prefill, route.decode}:
                    del self._sessions[other]
            self._sessions[file] = self._open(self._folder / file)
        return _run(self._sessions[file], file, feeds)

    def close(self) -> None:
        """Close all open graphs."""
        self._sessions.clear()


def _run(session: GraphSession, name: str, feeds: Feeds) -> Mapping[str, NDArray[np.float32]]:
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise BundleError(f"{name}: could not be run ({' '.join(str(error).split())}), expected logits") from error
