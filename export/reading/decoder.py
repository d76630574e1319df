"""Sizes of a dense decoder with pre-norm layers, from the usual keys of a config."""

from __future__ import annotations

from dataclasses import replace

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.graph.attention import Attention
from palmtop.export.graph.decoder import Decoder, Layer
from palmtop.export.graph.mlp import GatedMlp
from palmtop.export.graph.norm import RmsNorm

from .rope import RopeRules, read_rope


def read_decoder(
    config: ConfigSection,
    rules: RopeRules,
    *,
    is_tied: bool,
    has_media: bool = False,
    has_attention_bias: bool = False,
    has_qkv_bias: bool = False,
    has_mlp_bias: bool = False,
    has_head_norms: bool = False,
) -> Decoder:
    """Return the decoder that a config describes.

    Args:
        config: the whole config.
        rules: rotary settings of the architecture.
        is_tied: whether the head is the embedding table.
        has_media: whether the graph takes media rows.
        has_attention_bias: whether all projections of attention have biases.
        has_qkv_bias: whether those of queries, keys and values have biases.
        has_mlp_bias: whether the linears of the feed-forward network have biases.
        has_head_norms: whether each head's query and key are normalised before the rotation.

    Raises:
        CheckpointError: a key is missing, impossible, or contradicts another.
    """
    max_tokens = config.size("max_position_embeddings")
    heads, hidden_size, eps = (
        config.size("num_attention_heads"),
        config.size("hidden_size"),
        config.number("rms_norm_eps"),
    )
    kv_heads = config.optional_size("num_key_value_heads") or heads
    if heads % kv_heads:
        raise CheckpointError(f"config.json: num_key_value_heads is {kv_heads}, expected a divisor of {heads} heads")
    head_size = _head_size(config)
    attention = Attention(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        window=_window(config, max_tokens),
        has_bias=has_attention_bias or has_qkv_bias,
        has_output_bias=has_attention_bias,
        norm_eps=eps if has_head_norms else None,
    )
    mlp = GatedMlp(size=config.size("intermediate_size"), has_bias=has_mlp_bias)
    return Decoder(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        layers=(pre_norm_layer(attention, mlp, hidden_size, eps),) * config.size("num_hidden_layers"),
        norm=RmsNorm("norm", hidden_size, eps),
        rope=read_rope(config, head_size, rules),
        is_tied=is_tied,
        has_media=has_media,
        max_tokens=max_tokens,
    )


def with_multipliers(
    decoder: Decoder, *, embedding: float, residual: float, logits: float, scores: float | None = None
) -> Decoder:
    """Return the decoder with factors at four places, as models have whose widths were scaled by muP.

    Args:
        decoder: a decoder.
        embedding: factor of the rows that enter the first layer.
        residual: factor of what each half of a layer adds to the residual stream.
        logits: factor of the logits.
        scores: factor of the attention scores; None for the usual one.
    """
    layers = [
        replace(layer, residual_scale=residual, mixer=replace(layer.mixer, scale=scores)) for layer in decoder.layers
    ]
    return replace(decoder, layers=tuple(layers), embedding_scale=embedding, logit_scale=logits)


def pre_norm_layer(attention: Attention, mlp: GatedMlp, hidden_size: int, eps: float) -> Layer:
    """Return a layer with an RMSNorm before each half."""
    names = ("input_layernorm", "post_attention_layernorm")
    first, second = (RmsNorm(name, hidden_size, eps) for name in names)
    return Layer(mixer=attention, ffn=mlp, norms=(first, second))


def _head_size(config: ConfigSection) -> int:
    explicit = config.optional_size("head_dim")
    if explicit is not None:
        return explicit
    hidden_size, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if hidden_size % heads:
        raise CheckpointError(f"config.json: hidden_size is {hidden_size}, expected a multiple of {heads} heads")
    return hidden_size // heads


def _window(config: ConfigSection, max_tokens: int) -> int | None:
    """Number of keys that a token attends to, itself included; None where no sequence of the model is longer.

    Raises:
        CheckpointError: the window is not positive, or not the same for every layer.
    """
    window = config.optional_size("sliding_window")
    if window == 0:
        raise CheckpointError("config.json: sliding_window is 0, expected a positive number or null")
    counts = window is not None and window < max_tokens
    if config.raw("use_sliding_window") is False and counts:
        raise CheckpointError(
            f"config.json: use_sliding_window is false and sliding_window is {window}, expected null: it would be used"
        )
    wanted = "sliding_attention" if counts else "full_attention"
    types = config.raw("layer_types")
    other = (
        [t for t in types if t != wanted and (counts or t != "sliding_attention")] if isinstance(types, list) else []
    )
    if other:
        raise CheckpointError(f"config.json: layer_types has {other[0]!r}, expected '{wanted}' for every layer")
    return window if counts else None
