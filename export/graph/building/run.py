"""Objects that the layers of one decoder graph share while it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict
from palmtop.export.checkpoint.lora import LoraPair
from palmtop.export.graph.kv_cache import KvCache
from palmtop.export.graph.linear import GraphPrecision
from palmtop.export.graph.rope import RopeConfig

from .builder import GraphBuilder

Fit = Callable[[LoraPair], LoraPair]
"""Function that gives a delta the layout of the linear's weight in the graph."""


class Linears(Protocol):
    """Interface for adding linear layers, with their adapters, in the form that a graph stores."""

    def add(
        self,
        g: GraphBuilder,
        name: str,
        x: ir.Value,
        weight: LazyTensor,
        role: str,
        *,
        bias: LazyTensor | None = None,
        fit: Fit | None = None,
    ) -> ir.Value:
        """Add ``x @ weight.T + deltas + bias``: [..., K] -> [..., N].

        Args:
            g: the graph.
            name: name of the linear in the checkpoint, and of its node.
            x: [..., K] input.
            weight: [N, K] weight.
            role: role of ``mark.Mark``.
            bias: [N] bias, or None.
            fit: layout function of deltas, where the weight's layout differs from the checkpoint's.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Shared objects of a graph with dynamic shapes.

    Attributes:
        weights: weights of the whole model.
        hidden_size: H, width of the hidden states.
        linears: adds linear layers.
        precision: precision of the matrices.
        rope: rotary embedding.
        tables: rotary cos and sin, [tokens, R/2].
        tokens: longest sequence in tokens.
        cache: element type of keys and values.
        positions: [B, S] int64 absolute positions of the tokens of this run.
        last_index: [B] int32, sequence length minus one.
        total_length: scalar int32, length of the attention mask.
        past: key and value of each layer, before the run.
        present: key and value of each layer, after the run; filled by the layers.
    """

    weights: StateDict
    hidden_size: int
    linears: Linears
    precision: GraphPrecision
    rope: RopeConfig
    tables: tuple[ir.Value, ir.Value]
    tokens: int
    cache: KvCache
    positions: ir.Value
    last_index: ir.Value
    total_length: ir.Value
    past: list[tuple[ir.Value, ir.Value]]
    present: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StaticShape:
    """Sizes of a graph with fixed shapes.

    Attributes:
        context: C, positions of the cache.
        rows: S, tokens of a run: the chunk of a prefill graph, 1 for a decode graph.
        is_apart: whether scores over the cache and over the new rows are separate products. That copies no cache: half
            the time of a decode step's attention at 4,096 positions (OpenVINO and onnxruntime on x86), for more
            operators.
    """

    context: int
    rows: int
    is_apart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRun:
    """Shared objects of a graph with fixed shapes.

    Attributes:
        weights: weights of the whole model.
        hidden_size: H, width of the hidden states.
        linears: adds linear layers.
        rope: rotary embedding.
        shape: S and C.
        cos: [1, 1, S, R/2] rotary cos.
        sin: [1, 1, S, R/2] rotary sin.
        bias: [1, 1, S, C + S] mask, added to the scores.
        past: key and value of each layer, [1, KV, C, D].
        present: new rows of key and value of each layer, [1, KV, S, D]; filled by the layers.
    """

    weights: StateDict
    hidden_size: int
    linears: Linears
    rope: RopeConfig
    shape: StaticShape
    cos: ir.Value
    sin: ir.Value
    bias: ir.Value
    past: list[tuple[ir.Value, ir.Value]]
    present: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)
