"""What a model's graphs offer to an export: to be built with dynamic shapes, or with fixed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from palmtop.export.checkpoint.lazy_tensor import Weights
from palmtop.export.checkpoint.lora import Adapter
from palmtop.runtime.bundle.processor_config import ProcessorSpec

from .builder import GraphBuilder
from .kv_cache import FLOAT_CACHE, KvCache
from .linear import FLOAT_GRAPH, GraphPrecision, StaticLinear
from .lora import On
from .run import StaticShape


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """What an export chooses.

    Attributes:
        weights: of the whole model, or with adapters merged into them.
        precision: how matrices are stored.
        tokens: longest sequence of the decoder.
        adapters: gated ones, in gate order; merged ones are in the weights already.
        cache: what the decoder's keys and values are stored as.
        draft_rows: longest step of the decoder that gives logits of each of its positions (``lm_head``).
    """

    weights: Weights
    precision: GraphPrecision = FLOAT_GRAPH
    tokens: int = 0
    adapters: Sequence[Adapter] = ()
    cache: KvCache = FLOAT_CACHE
    draft_rows: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticContext:
    """What a provider chooses of a decoder with fixed shapes.

    Attributes:
        weights: of the whole model, or with adapters merged into them.
        shape: S and C.
        linear: how a matrix is stored and multiplied.
        on: adapters of the route, with their weights.
    """

    weights: Weights
    shape: StaticShape
    linear: StaticLinear
    on: On = ()


class GraphSource(Protocol):
    """One graph of a model."""

    def build(self, g: GraphBuilder, context: BuildContext) -> None:
        """Add the whole graph, reading and writing one tensor at a time.

        Args:
            g: an empty graph.
            context: what the export chooses.

        Raises:
            CheckpointError: a tensor is missing, of the wrong shape, or not finite.
        """
        ...


class EncoderSource(GraphSource, Protocol):
    """The graph of an encoder: pixels or sounds in, rows of the text model's width out."""

    def bytes_per_item(self, processor: ProcessorSpec) -> int:
        """Memory that a run of it needs, about, for ``EncoderSpec``."""
        ...

    def static_lengths(self, name: str, processor: ProcessorSpec) -> Mapping[str, int]:
        """Names of its graphs with fixed shapes and the length of each, shortest first; ``name`` is the longest's."""
        ...

    def build_static(self, g: GraphBuilder, weights: Weights, length: int) -> None:
        """Add a graph of fixed shapes, float32, in plain operators."""
        ...
