"""The decoder graph: token ids and media rows in, logits of the last position out (``head.py``).

Pre-norm transformer with fused qkv and gate_up projections, grouped-query attention over a KV cache that
genai owns, media rows by absolute position, gated adapters on every linear (design section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import Weights
from palmtop.export.checkpoint.lora import Adapter, LoraPair

from .attention import AttentionConfig, AttentionInputs, attention, attention_inputs
from .builder import MICROSOFT, GraphBuilder
from .embedding import add_table, embed
from .head_padding import attention_weights, padded_pair
from .linear import Precisions, float_array
from .lm_head import add_logits
from .lora import Gate, adapted_linear, add_gates
from .mark import ADAPTER, FFN, HEAD, MIXER, TABLE
from .rope import RopeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Sizes of a decoder.

    Attributes:
        vocab_size: V.
        hidden_size: width between layers.
        intermediate_size: width inside the MLP.
        num_layers: decoder layers.
        attention: heads, head size, window.
        rope: rotary embedding.
        rms_norm_eps: of every norm.
        is_tied: the head is the embedding table.
        has_media: the graph takes media rows.
        context: tokens that the rotary tables cover.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    attention: AttentionConfig
    rope: RopeConfig
    rms_norm_eps: float
    is_tied: bool
    has_media: bool
    context: int


@dataclass(frozen=True, slots=True)
class DecoderPrecision:
    """How each class of the decoder's weights is stored."""

    linears: Precisions
    head: Precisions
    adapters: Precisions

    def of(self, role: str) -> Precisions:
        """That of linears of a role (``mark.Mark``)."""
        return {HEAD: self.head, TABLE: self.head, ADAPTER: self.adapters}.get(role, self.linears)


def build_decoder(
    g: GraphBuilder,
    weights: Weights,
    config: DecoderConfig,
    adapters: Sequence[Adapter],
    precision: DecoderPrecision,
    draft_rows: int = 1,
) -> None:
    """Build the whole graph, reading and writing one tensor at a time.

    Args:
        g: an empty builder.
        weights: by checkpoint name below ``model.`` (embed_tokens, layers.N..., norm) plus ``lm_head`` when untied.
        config: sizes.
        adapters: gated ones, in gate order; merged ones are in the weights already.
        precision: per class.
        draft_rows: longest step that gives logits of each of its positions (``head``).

    Raises:
        CheckpointError: a tensor is missing, of the wrong shape, or not finite.
    """
    input_ids = g.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
    inputs = attention_inputs(g, input_ids, config.attention, config.rope, config.context)
    gates = add_gates(g, adapters)

    table = add_table(g, weights, config.vocab_size, config.hidden_size, config.is_tied, precision.head)
    x = embed(g, table, input_ids, inputs.positions, config.hidden_size, has_media=config.has_media)

    norm = _Norm(g, config.rms_norm_eps)
    layer_weights = weights.within("layers.0.")
    skip = x
    x = norm.first("layers.0.input_layernorm", x, layer_weights, "input_layernorm.weight", config.hidden_size)
    for layer in range(config.num_layers):
        prefix = f"layers.{layer}."
        layer_weights = weights.within(prefix)
        a = _attention_block(g, layer, x, layer_weights, config, gates, inputs, precision)
        x, skip = norm.after_residual(
            f"{prefix}post_attention_layernorm",
            a,
            skip,
            layer_weights.get("post_attention_layernorm.weight", config.hidden_size),
        )
        m = _mlp_block(g, prefix, x, layer_weights, config, gates, precision)
        if layer + 1 < config.num_layers:
            following = f"layers.{layer + 1}.input_layernorm"
            x, skip = norm.after_residual(following, m, skip, weights.get(f"{following}.weight", config.hidden_size))
        else:
            skip = g.op("Add", m, skip, name="last_residual")

    def last_norm(rows: ir.Value) -> ir.Value:
        return norm.first("norm", rows, weights, "norm.weight", config.hidden_size)

    add_logits(g, skip, input_ids, table, weights, last_norm, precision.head, draft_rows)
    inputs.declare_outputs(g)


@dataclass(frozen=True, slots=True)
class _Norm:
    """RMSNorm, with and without the residual sum in front of it."""

    g: GraphBuilder
    eps: float

    def first(self, name: str, x: ir.Value, weights: Weights, weight: str, size: int) -> ir.Value:
        scale = self.g.weight(f"{name}.weight", float_array(weights.get(weight, size)))
        return self.g.op("SimplifiedLayerNormalization", x, scale, axis=-1, epsilon=self.eps, stash_type=1, name=name)

    def after_residual(self, name: str, x: ir.Value, skip: ir.Value, weight: object) -> tuple[ir.Value, ir.Value]:
        """RMSNorm(x + skip), and the sum itself."""
        scale = self.g.weight(f"{name}.weight", float_array(weight))  # type: ignore[arg-type]
        y, _, _, total = self.g.ops(
            "SkipSimplifiedLayerNormalization",
            x,
            skip,
            scale,
            outputs=4,
            domain=MICROSOFT,
            epsilon=self.eps,
            name=name,
        )
        return y, total


def _with_pairs(gates: Sequence[Gate], target: str, attention: AttentionConfig) -> list[tuple[Gate, LoraPair | None]]:
    pairs = [(gate, gate.adapter.pair(target)) for gate in gates]
    return [(gate, None if pair is None else padded_pair(pair, target, attention)) for gate, pair in pairs]


def _attention_block(
    g: GraphBuilder,
    layer: int,
    x: ir.Value,
    weights: Weights,
    config: DecoderConfig,
    gates: Sequence[Gate],
    inputs: AttentionInputs,
    precision: DecoderPrecision,
) -> ir.Value:
    sizes, prefix = config.attention, f"layers.{layer}.self_attn."
    qkv_weight, o_weight = attention_weights(weights, sizes, config.hidden_size)
    qkv_pairs = _with_pairs(gates, f"{prefix}qkv_proj", sizes)
    o_pairs = _with_pairs(gates, f"{prefix}o_proj", sizes)
    qkv = adapted_linear(g, f"{prefix}qkv_proj", x, qkv_weight, precision.linears, MIXER, qkv_pairs, precision.adapters)
    mixed = attention(g, layer, qkv, inputs, sizes, config.rope)
    return adapted_linear(g, f"{prefix}o_proj", mixed, o_weight, precision.linears, MIXER, o_pairs, precision.adapters)


def _mlp_block(
    g: GraphBuilder,
    prefix: str,
    x: ir.Value,
    weights: Weights,
    config: DecoderConfig,
    gates: Sequence[Gate],
    precision: DecoderPrecision,
) -> ir.Value:
    width = config.intermediate_size
    gate_up = adapted_linear(
        g,
        f"{prefix}mlp.gate_up_proj",
        x,
        weights.get("mlp.gate_up_proj.weight", 2 * width, config.hidden_size),
        precision.linears,
        FFN,
        _with_pairs(gates, f"{prefix}mlp.gate_up_proj", config.attention),
        precision.adapters,
    )
    gate, up = g.ops("Split", gate_up, outputs=2, axis=-1, num_outputs=2, name=f"{prefix}mlp/split")
    activated = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
    return adapted_linear(
        g,
        f"{prefix}mlp.down_proj",
        activated,
        weights.get("mlp.down_proj.weight", config.hidden_size, width),
        precision.linears,
        FFN,
        _with_pairs(gates, f"{prefix}mlp.down_proj", config.attention),
        precision.adapters,
    )
