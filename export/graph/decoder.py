"""Decoder composed of layers: token ids and media rows in, logits of the last position out (``lm_head.py``).

Every layer is a mixer of positions and a feed-forward network, each behind a norm and added to the residual stream.
``build`` makes the graph with dynamic shapes: a KV cache that genai owns, media rows by absolute position, gated
adapters on every linear (docs/architecture.md). ``build_static`` makes the same arithmetic with fixed shapes in plain
ONNX operators, without control flow: adapters of one route are always on, embedding and rotary tables are computed
outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import HEAD
from palmtop.export.graph.building.run import Run, StaticRun
from palmtop.export.graph.building.source import BuildContext, StaticContext
from palmtop.runtime.bundle.states import StateSpec, kv_states

from .attention import Attention
from .cache_inputs import begin_run, begin_static_run, declare_present, declare_static_present
from .embedding import EMBEDDING, EMBEDDING_WEIGHT, add_table, embed
from .linear import with_bias
from .lm_head import HEAD_BIAS, add_logits
from .norm import Norm
from .rope import RopeConfig


class Sublayer(Protocol):
    """Mixer or feed-forward network: from normalised hidden states to the addend of the residual stream."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its tensors inside a layer."""
        ...

    def emit(self, g: GraphBuilder, run: Run, prefix: str, x: ir.Value) -> ir.Value:
        """Add the layer with dynamic shapes and fused operators: [B, S, H] -> [B, S, H]."""
        ...

    def emit_static(self, g: GraphBuilder, run: StaticRun, prefix: str, x: ir.Value) -> ir.Value:
        """Add the layer with fixed shapes and plain operators: [1, S, H] -> [1, S, H]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of a decoder: mixer, feed-forward network and norms.

    Attributes:
        mixer: mixer of positions, such as attention.
        ffn: feed-forward network.
        norms: norms before the mixer and before the feed-forward network.
        residual_scale: factor of what both add to the residual stream.
    """

    mixer: Attention
    ffn: Sublayer
    norms: tuple[Norm, Norm]
    residual_scale: float = 1.0

    def scaled(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        """Return a value with the factor of the residual stream."""
        return scaled(g, x, self.residual_scale)


def scaled(g: GraphBuilder, x: ir.Value, by: float, name: str = "") -> ir.Value:
    """Return ``x * by``; x itself for a factor of 1."""
    return x if by == 1.0 else g.op("Mul", x, g.constant(float(by)), name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Decoder graph of a model (``source.GraphSource``).

    Attributes:
        vocab_size: V, number of token ids.
        hidden_size: H, width between layers.
        layers: layers in order.
        norm: norm before the head.
        rope: rotary embedding.
        is_tied: whether the head is the embedding table.
        has_media: whether the graph takes media rows.
        max_tokens: longest sequence of the model, in tokens.
        limit: setting that ``max_tokens`` comes from, for errors.
        embedding_scale: factor of the rows that enter the first layer, media rows included.
        logit_scale: factor of the logits.
        has_head_bias: whether the logits have a bias.
    """

    vocab_size: int
    hidden_size: int
    layers: Sequence[Layer]
    norm: Norm
    rope: RopeConfig
    is_tied: bool
    has_media: bool
    max_tokens: int
    limit: str = "max_position_embeddings"
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    has_head_bias: bool = False

    @property
    def num_layers(self) -> int:
        """Number of layers of the decoder."""
        return len(self.layers)

    @property
    def attention(self) -> Attention:
        """Attention of the first layer, whose sizes all layers share."""
        return self.layers[0].mixer

    @property
    def tensors(self) -> set[str]:
        """Canonical names of the tensors that the graph reads; of the two ends table, norm and bias of the head."""
        names = {EMBEDDING_WEIGHT, *self.norm.tensors, *([HEAD_BIAS] if self.has_head_bias else [])}
        for number, layer in enumerate(self.layers):
            norms = [name for norm in layer.norms for name in norm.tensors]
            names |= {f"layers.{number}.{name}" for name in (*norms, *layer.mixer.tensors, *layer.ffn.tensors)}
        return names

    def states(self, kv_bits: int) -> tuple[StateSpec, ...]:
        """Return the states carried from one run to the next, with the cache stored in ``kv_bits`` bits."""
        heads = self.attention
        return kv_states(range(self.num_layers), heads.num_kv_heads, heads.cache_head_size, kv_bits)

    def build(self, g: GraphBuilder, context: BuildContext) -> None:
        """Add the graph with dynamic shapes."""
        input_ids = g.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        run = begin_run(g, input_ids, self.attention, self.num_layers, self.rope, self.hidden_size, context)
        head = context.precision.head
        table = add_table(g, context.weights, self.vocab_size, self.hidden_size, self.is_tied, head)
        x = embed(g, table, input_ids, run.positions, self.hidden_size, has_media=self.has_media)
        x = scaled(g, x, self.embedding_scale, "embedding_scale")
        skip: ir.Value | None = None
        for number, layer in enumerate(self.layers):
            prefix = f"layers.{number}."
            own = context.weights.within(prefix)
            x, skip = layer.norms[0].emit(g, prefix, own, x, skip)
            x = layer.scaled(g, layer.mixer.emit(g, run, prefix, x))
            x, skip = layer.norms[1].emit(g, prefix, own, x, skip)
            x = layer.scaled(g, layer.ffn.emit(g, run, prefix, x))
        hidden = x if skip is None else g.op("Add", x, skip, name="last_residual")

        def last_norm(rows: ir.Value) -> ir.Value:
            return scaled(g, self.norm.emit(g, "", context.weights, rows)[0], self.logit_scale, "logit_scale")

        bias = context.weights.get(HEAD_BIAS, self.vocab_size) if self.has_head_bias else None
        add_logits(g, hidden, input_ids, table, context.weights, last_norm, head, context.draft_rows, bias)
        declare_present(g, run, self.attention)

    def build_static(self, g: GraphBuilder, context: StaticContext) -> None:
        """Add a graph of fixed shapes.

        Inputs: inputs_embeds [1, S, H], rope_cos and rope_sin [1, S, R/2], attention_bias [1, 1, S, C + S] (added to
        the scores), past_key.N and past_value.N [1, KV, C, D] and, where S > 1, last_row [1] int32. Outputs: logits
        [1, 1, V] of that row, present_key.N and present_value.N [1, KV, S, D] of the new rows.
        """
        shape, weights = context.shape, context.weights
        x = g.input("inputs_embeds", ir.DataType.FLOAT, [1, shape.rows, self.hidden_size])
        x = scaled(g, x, self.embedding_scale, "embedding_scale")
        run = begin_static_run(g, self.attention, self.num_layers, self.rope, self.hidden_size, context)
        last_row = g.input("last_row", ir.DataType.INT32, [1]) if shape.rows > 1 else None
        for number, layer in enumerate(self.layers):
            prefix = f"layers.{number}."
            own = weights.within(prefix)
            mixed = layer.mixer.emit_static(g, run, prefix, layer.norms[0].emit_static(g, prefix, own, x))
            x = g.op("Add", x, layer.scaled(g, mixed), name=f"{prefix}after_attention")
            fed = layer.ffn.emit_static(g, run, prefix, layer.norms[1].emit_static(g, prefix, own, x))
            x = g.op("Add", x, layer.scaled(g, fed), name=f"{prefix}after_mlp")
        if last_row is not None:
            x = g.op("Gather", x, last_row, axis=1, name="last_position")  # [1, S, H] -> [1, 1, H]
        x = scaled(g, self.norm.emit_static(g, "", weights, x), self.logit_scale, "logit_scale")
        name = EMBEDDING if self.is_tied else "lm_head"
        matrix = weights.get(f"{name}.weight", self.vocab_size, self.hidden_size)
        logits = context.linear(g, name, x, matrix, HEAD)
        if self.has_head_bias:
            logits = with_bias(g, "lm_head", logits, weights.get(HEAD_BIAS, self.vocab_size))
        g.output(logits, "logits", ir.DataType.FLOAT, [1, 1, self.vocab_size])
        declare_static_present(g, run, self.attention)
