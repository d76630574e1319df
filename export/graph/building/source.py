"""Interfaces of a model's graphs: built with dynamic shapes, or with fixed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.checkpoint.lora import Adapter
from palmtop.export.graph.kv_cache import FLOAT_CACHE, KvCache
from palmtop.export.graph.linear import FLOAT_GRAPH, GraphPrecision, StaticLinear
from palmtop.export.graph.lora import On
from palmtop.runtime.bundle.processor_config import ProcessorSpec

from .builder import GraphBuilder
from .run import StaticShape


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """Choices of an export for building a graph.

    Attributes:
        weights: weights of the whole model, or with adapters merged into them.
        precision: precision of the matrices.
        tokens: longest sequence of the decoder.
        adapters: gated adapters in gate order; merged ones are in the weights already.
        cache: element type of the decoder's keys and values.
        draft_rows: longest step of the decoder that returns logits of each of its positions (``lm_head``).
    """

    weights: StateDict
    precision: GraphPrecision = FLOAT_GRAPH
    tokens: int = 0
    adapters: Sequence[Adapter] = ()
    cache: KvCache = FLOAT_CACHE
    draft_rows: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticContext:
    """Choices of a provider for a decoder with fixed shapes.

    Attributes:
        weights: weights of the whole model, or with adapters merged into them.
        shape: S and C.
        linear: function that stores and multiplies a matrix.
        on: adapters of the route with their weights.
    """

    weights: StateDict
    shape: StaticShape
    linear: StaticLinear
    on: On = ()


class GraphSource(Protocol):
    """Interface of one graph of a model."""

    def build(self, g: GraphBuilder, context: BuildContext) -> None:
        """Add the whole graph, reading and writing one tensor at a time.

        Args:
            g: an empty graph.
            context: choices of the export.

        Raises:
            CheckpointError: a tensor is missing, of the wrong shape, or not finite.
        """
        ...


class EncoderSource(GraphSource, Protocol):
    """Interface of an encoder's graph: from pixels or sounds to rows of the text model's width."""

    def bytes_per_item(self, processor: ProcessorSpec) -> int:
        """Approximate bytes of memory of a run, for ``EncoderSpec``."""
        ...

    def static_lengths(self, name: str, processor: ProcessorSpec) -> Mapping[str, int]:
        """Return its fixed-shape graphs' names and lengths, shortest first; the longest has the name ``name``."""
        ...

    def build_static(self, g: GraphBuilder, weights: StateDict, length: int) -> None:
        """Add a graph of fixed shapes, float32, in plain operators."""
        ...
