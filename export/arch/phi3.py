"""Phi-3, Phi-3.5-mini, Phi-4-mini and Phi-4-mini-reasoning: the text backbone alone, as ``Phi3ForCausalLM`` has it.

One frozen decoder without adapters and media. What it shares with Phi-4-multimodal, which is this backbone with two
towers, is read here: ``phi4mm`` imports it.
"""

from __future__ import annotations

import json
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import Keys
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import Weights
from palmtop.export.graph.attention import AttentionConfig
from palmtop.export.graph.decoder import DecoderConfig
from palmtop.export.reading.rope import RopeRules, read_rope
from palmtop.export.reading.settings import refuse_unread
from palmtop.export.reading.tensors import TABLE, decoder_names, read_head, refuse_other_tensors
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.processor_config import ProcessorSpec, TextSpec, wrong_generation

from . import Model

END_OF_TURN = "<|end|>"
# Only an answer that begins with the first of them is cut, so the models that never think aloud lose nothing.
THINKING = ("<think>", "</think>")
# What transformers' Phi3Config takes for granted, where others of the family take something else or nothing.
DEFAULTS = {"tie_word_embeddings": False, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
# Phi3Config reads the older spellings "su" and "yarn" as LongRoPE, and knows no other scaling.
ROPE = RopeRules(
    kinds={"longrope": "longrope", "su": "longrope", "yarn": "longrope", "default": "default"}, original_context=4096
)


def read_model(checkpoint: Checkpoint, context: int) -> Model:
    """Interpret a checkpoint of ``Phi3ForCausalLM``."""
    config = Keys({**DEFAULTS, **checkpoint.config}, "config.json")
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=False))
    decoder = read_decoder(config, context, has_media=False, is_tied=head.is_tied)
    text = text_spec(checkpoint, config, thinking=THINKING)
    refuse_unread(config)
    read = {f"model.{name}" for name in decoder_names(decoder.num_layers) - {TABLE}} | head.names
    refuse_other_tensors(checkpoint, read, f"a phi3 model of {decoder.num_layers} layers")
    return Model(
        architecture="phi3",
        decoder=decoder,
        weights=Weights(lambda name: checkpoint.weight(head.place(name, f"model.{name}"))),
        adapters=(),
        vision=None,
        audio=None,
        processor=ProcessorSpec(text=text, image=None, audio=None),
        routes={"text": Route(adapters={}, audio_projector="speech")},
        chat_template=chat_template(checkpoint),
        original_context=decoder.rope.original_context,
        notes=head.notes,
    )


def read_decoder(config: Keys, context: int, *, has_media: bool, is_tied: bool) -> DecoderConfig:
    """The decoder that a config describes.

    Args:
        config: the whole of it.
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
            window=_window(config, context),
        ),
        rope=read_rope(config, head_size, ROPE),
        rms_norm_eps=config.number("rms_norm_eps"),
        is_tied=is_tied,
        has_media=has_media,
        context=context,
    )


def text_spec(checkpoint: Checkpoint, config: Keys, *, thinking: tuple[str, str] | None = None) -> TextSpec:
    """How messages become token ids, and what ends an answer.

    Raises:
        CheckpointError: nothing says which ids end an answer.
    """
    tokens = special_tokens(checkpoint)
    eos_ids = _eos_ids(
        checkpoint, config.raw("eos_token_id") if "eos_token_id" in config.data else config.raw("bos_token_id"), tokens
    )
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
        generation=generation_defaults(checkpoint),
    )


def generation_defaults(checkpoint: Checkpoint) -> dict[str, float] | None:
    """What ``generation_config.json`` says about length and sampling; None where it says nothing.

    Without ``do_sample`` transformers takes the likeliest token, whatever else the file says.

    Raises:
        CheckpointError: a value that no answer can be sampled with.
    """
    if checkpoint.text("generation_config.json") is None:
        return None
    given = checkpoint.json("generation_config.json")
    names = {"max_tokens": "max_new_tokens", "repetition_penalty": "repetition_penalty"}
    if given.get("do_sample") is True:
        names |= {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p"}
        given = {"temperature": 1.0, **{key: value for key, value in given.items() if value is not None}}
    found = {ours: given[theirs] for ours, theirs in names.items() if given.get(theirs) is not None}
    for name, value in found.items():
        if (wrong := wrong_generation(name, value)) is not None:
            raise CheckpointError(f"generation_config.json: {names[name]} is {value!r:.60}, expected {wrong}")
    return found or None


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


def _head_size(config: Keys) -> int:
    explicit = config.optional_size("head_dim")
    if explicit is not None:
        return explicit
    hidden_size, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if hidden_size % heads:
        raise CheckpointError(f"config.json: hidden_size is {hidden_size}, expected a multiple of {heads} heads")
    return hidden_size // heads


def _window(config: Keys, context: int) -> int | None:
    """Keys that a token sees, itself included; None where the context is no longer than that.

    Raises:
        CheckpointError: it is not positive, or not that of every layer.
    """
    window = config.optional_size("sliding_window")
    if window == 0:
        raise CheckpointError("config.json: sliding_window is 0, expected a positive number or null")
    counts = window is not None and window < context
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


def special_tokens(checkpoint: Checkpoint) -> dict[str, int]:
    """Ids of the tokenizer's added tokens by their text."""
    added = checkpoint.json("tokenizer.json").get("added_tokens", [])
    return {t["content"]: int(t["id"]) for t in added}
