"""Phi-3, Phi-3.5-mini, Phi-4-mini and Phi-4-mini-reasoning: the text backbone alone, as ``Phi3ForCausalLM`` has it.

One frozen decoder without adapters and media. What it shares with Phi-4-multimodal, which is this backbone with two
towers, is read here: ``phi4mm`` imports it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import Keys
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import Weights
from palmtop.export.graph.attention import AttentionConfig
from palmtop.export.graph.decoder import DecoderConfig
from palmtop.export.graph.rope import RopeConfig, longrope_attention_factor
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.processor_config import ProcessorSpec, TextSpec

from . import Model

END_OF_TURN = "<|end|>"
# Only an answer that begins with the first of them is cut, so the models that never think aloud lose nothing.
THINKING = ("<think>", "</think>")
# Values that a config could have and whose meaning no reader of this family builds, transformers' own included.
TEXT_VALUES: dict[tuple[str, ...], tuple[object, ...]] = {
    ("attention_bias",): (False,),
    ("mlp_bias",): (False,),
    ("lm_head_bias",): (False,),
    ("hidden_act",): ("silu", "swish"),
}
# What transformers' Phi3Config takes for granted, where others of the family take something else or nothing.
DEFAULTS = {
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
ROPE_KINDS = ("longrope", "su", "yarn")  # older spellings: Phi3Config reads all three as LongRoPE
LAYER_TENSORS = (
    "input_layernorm",
    "self_attn.qkv_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_up_proj",
    "mlp.down_proj",
)


def read_model(checkpoint: Checkpoint, context: int) -> Model:
    """Interpret a checkpoint of ``Phi3ForCausalLM``."""
    config = Keys({**DEFAULTS, **checkpoint.config, **plain_rope(checkpoint.config)}, "config.json")
    check_values(config, TEXT_VALUES)
    if "quantization_config" in config.data:
        raise CheckpointError("config.json: quantization_config is there, expected a checkpoint of float weights")
    is_tied = config.flag("tie_word_embeddings", default=False)
    decoder = read_decoder(config, context, has_media=False, is_tied=is_tied)
    _refuse_other_tensors(checkpoint, decoder.num_layers)
    return Model(
        architecture="phi3",
        decoder=decoder,
        weights=Weights(lambda name: checkpoint.weight(name if name == "lm_head.weight" else f"model.{name}")),
        adapters=(),
        vision=None,
        audio=None,
        processor=ProcessorSpec(text=text_spec(checkpoint, config, thinking=THINKING), image=None, audio=None),
        routes={"text": Route(adapters={}, audio_projector="speech")},
        chat_template=chat_template(checkpoint),
        original_context=decoder.rope.original_context,
    )


def read_decoder(config: Keys, context: int, *, has_media: bool, is_tied: bool) -> DecoderConfig:
    """The decoder that a config describes.

    Args:
        config: in the words of transformers 4: ``rope_theta``, ``rope_scaling``.
        context: tokens the bundle shall serve.
        has_media: the graph takes media rows.
        is_tied: the head is the embedding table.

    Raises:
        CheckpointError: a key is missing, contradicts another, or the model does not reach that far.
    """
    limit = config.size("max_position_embeddings")
    if context > limit:
        raise CheckpointError(
            f"config.json: max_position_embeddings is {limit}, expected at least {context}, the context of the bundle"
        )
    num_layers, heads = config.size("num_hidden_layers"), config.size("num_attention_heads")
    kv_heads = config.optional_size("num_key_value_heads") or heads
    if heads % kv_heads:
        raise CheckpointError(f"config.json: num_key_value_heads is {kv_heads}, expected a divisor of {heads} heads")
    window = config.optional_size("sliding_window")
    if window == 0:
        raise CheckpointError("config.json: sliding_window is 0, expected a positive number or null")
    head_size = _head_size(config)
    return DecoderConfig(
        vocab_size=config.size("vocab_size"),
        hidden_size=config.size("hidden_size"),
        intermediate_size=config.size("intermediate_size"),
        num_layers=num_layers,
        attention=AttentionConfig(
            num_layers=num_layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_size=head_size,
            window=window if window is not None and window < context else None,
        ),
        rope=_rope(config, head_size),
        rms_norm_eps=config.number("rms_norm_eps"),
        is_tied=is_tied,
        has_media=has_media,
        context=context,
    )


def check_values(config: Keys, expected: Mapping[tuple[str, ...], tuple[object, ...]]) -> None:
    """Refuse a config that asks for something the graphs do not do, rather than export a wrong model.

    Raises:
        CheckpointError: a value is there and is none of those expected.
    """
    for path, allowed in expected.items():
        value: Any = config.data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and value not in allowed:
            raise CheckpointError(f"config.json: {'.'.join(path)} is {value!r}, expected {allowed[0]!r}")


def plain_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings of transformers 5 (``rope_parameters``) in the words of 4 and upstream."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return {}
    keys = ("short_factor", "long_factor", "factor", "attention_factor")
    kind = rope.get("rope_type", rope.get("type"))
    scaling = {"type": kind, **{key: rope[key] for key in keys if rope.get(key) is not None}}
    return {
        "rope_theta": rope.get("rope_theta", 10000.0),
        "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0),
        "rope_scaling": None if kind in (None, "default") else scaling,
    }


def text_spec(checkpoint: Checkpoint, config: Keys, *, thinking: tuple[str, str] | None = None) -> TextSpec:
    """How messages become token ids, and what ends an answer.

    Raises:
        CheckpointError: nothing says which ids end an answer.
    """
    tokens = _special_tokens(checkpoint)
    eos_ids = _eos_ids(checkpoint, config.data.get("eos_token_id", config.data.get("bos_token_id")), tokens)
    if not eos_ids:
        raise CheckpointError("config.json: eos_token_id is missing, expected the ids that end an answer")
    bos, pad = _named_id(checkpoint, "bos_token", tokens), config.optional_size("pad_token_id")
    return TextSpec(
        bos_id=config.optional_size("bos_token_id") if bos is None else bos,
        eos_ids=eos_ids,
        end_of_turn_id=tokens.get(END_OF_TURN),
        pad_id=eos_ids[0] if pad is None else pad,
        adds_bos=False,  # apply_chat_template leaves it to the template
        image_placeholder="<|image_{n}|>",
        audio_placeholder="<|audio_{n}|>",
        thinking=thinking,
    )


def chat_template(checkpoint: Checkpoint) -> str:
    """The jinja source, from its own file or from tokenizer_config.json.

    Raises:
        CheckpointError: there is none.
    """
    apart = checkpoint.text("chat_template.jinja")
    if apart is not None:
        return apart
    template = checkpoint.json("tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several named templates: the default one
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if not isinstance(template, str):
        raise CheckpointError(f"tokenizer_config.json: chat_template is {json.dumps(template)}, expected a template")
    return template


def _refuse_other_tensors(checkpoint: Checkpoint, num_layers: int) -> None:
    """A bias or a layer that no graph reads would be lost without a word."""
    known = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    known |= {f"model.layers.{layer}.{name}.weight" for layer in range(num_layers) for name in LAYER_TENSORS}
    for name in checkpoint.names:
        if name not in known and not name.endswith("rotary_emb.inv_freq"):  # old checkpoints keep that buffer
            raise CheckpointError(
                f"{checkpoint.path}: tensor '{name}' has no place in a phi3 model of {num_layers} layers,"
                " expected none beside the decoder's own"
            )


def _head_size(config: Keys) -> int:
    explicit = config.optional_size("head_dim")
    if explicit is not None:
        return explicit
    hidden_size, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if hidden_size % heads:
        raise CheckpointError(f"config.json: hidden_size is {hidden_size}, expected a multiple of {heads} heads")
    return hidden_size // heads


def _rope(config: Keys, head_size: int) -> RopeConfig:
    rotary_size = int(head_size * config.number("partial_rotary_factor", default=1.0))
    if rotary_size % 2 or not 2 <= rotary_size <= head_size:
        raise CheckpointError(
            f"config.json: heads rotate {rotary_size} dimensions, expected an even number up to {head_size}"
        )
    theta = config.number("rope_theta", default=10000.0)
    scaling = config.optional("rope_scaling")
    if scaling is None:
        return RopeConfig(
            theta=theta,
            rotary_size=rotary_size,
            short_factor=None,
            long_factor=None,
            original_context=None,
            attention_factor=1.0,
        )
    kind = scaling.text("type", default=scaling.text("rope_type", default="longrope"))
    if kind not in ROPE_KINDS:
        raise CheckpointError(f"config.json: rope_scaling.type is '{kind}', expected 'longrope'")
    original = config.optional_size("original_max_position_embeddings")
    if not original:
        raise CheckpointError("config.json: original_max_position_embeddings is missing, longrope needs it")
    return RopeConfig(
        theta=theta,
        rotary_size=rotary_size,
        short_factor=scaling.numbers("short_factor", rotary_size // 2),
        long_factor=scaling.numbers("long_factor", rotary_size // 2),
        original_context=original,
        attention_factor=_attention_factor(config, scaling, original),
    )


def _attention_factor(config: Keys, scaling: Keys, original: int) -> float:
    """Stated, or from the stated extension, or from the two lengths: transformers' order."""
    if scaling.data.get("attention_factor") is not None:
        return scaling.number("attention_factor")
    if scaling.data.get("factor") is not None:
        return longrope_attention_factor(scaling.number("factor") * original, original)
    return longrope_attention_factor(config.size("max_position_embeddings"), original)


def _eos_ids(checkpoint: Checkpoint, configured: Any, tokens: dict[str, int]) -> tuple[int, ...]:
    """Every id that ends an answer; the tokenizer's own comes first, templates call that one ``eos_token``."""
    own = _named_id(checkpoint, "eos_token", tokens)
    ids = [*_ids(own), *_ids(_generation_eos(checkpoint)), *_ids(configured), *_ids(tokens.get(END_OF_TURN))]
    return tuple(dict.fromkeys(ids))


def _named_id(checkpoint: Checkpoint, name: str, tokens: dict[str, int]) -> int | None:
    """The id of the token that tokenizer_config.json calls so; None without one."""
    named = checkpoint.json("tokenizer_config.json").get(name)
    return tokens.get(str(named.get("content")) if isinstance(named, dict) else str(named))


def _generation_eos(checkpoint: Checkpoint) -> Any:
    if checkpoint.text("generation_config.json") is None:
        return None
    return checkpoint.json("generation_config.json").get("eos_token_id")


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) for i in ids):
        raise CheckpointError(f"config.json: eos_token_id is {value!r}, expected numbers")
    return ids


def _special_tokens(checkpoint: Checkpoint) -> dict[str, int]:
    added = checkpoint.json("tokenizer.json").get("added_tokens", [])
    return {t["content"]: int(t["id"]) for t in added}
