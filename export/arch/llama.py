"""Llama and models of its form (SmolLM2, MiniCPM5, R1-Distill-Llama): text only, as in ``LlamaForCausalLM``.

Queries, keys and values, gate and up are separate tensors, which the export stacks.
"""

from __future__ import annotations

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.reading.decoder import read_decoder
from palmtop.export.reading.rope import READ_BY, RopeRules
from palmtop.export.reading.settings import check_values, refuse_unread
from palmtop.export.reading.tensors import (
    TABLE,
    decoder_names,
    parts_of,
    read_head,
    refuse_other_tensors,
    separate_weights,
)
from palmtop.export.reading.text import THINKING, chat_template, text_spec
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.processor_config import ProcessorSpec

from . import Model

# Values that transformers' LlamaConfig implies.
DEFAULTS = {"tie_word_embeddings": False, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
ROPE = RopeRules(kinds={kind: kind for kind in READ_BY})
ATTENTION, MLP = ("self_attn.qkv_proj", "self_attn.o_proj"), ("mlp.gate_up_proj", "mlp.down_proj")


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of ``LlamaForCausalLM``."""
    config = ConfigSection({**DEFAULTS, **checkpoint.config}, "config.json")
    check_values(config, {("sliding_window",): (None,)})  # transformers' class has none
    has_attention_bias = config.flag("attention_bias", default=False)
    has_mlp_bias = config.flag("mlp_bias", default=False)
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=False))
    decoder = read_decoder(
        config,
        ROPE,
        is_tied=head.is_tied,
        has_attention_bias=has_attention_bias,
        has_mlp_bias=has_mlp_bias,
    )
    head_size, rotary_size = decoder.attention.head_size, decoder.rope.rotary_size
    if rotary_size != head_size:
        raise CheckpointError(
            f"config.json: partial_rotary_factor rotates {rotary_size} of a head's {head_size} dimensions, expected all"
        )
    text = text_spec(checkpoint, config, thinking=THINKING)
    refuse_unread(config)
    biased = (ATTENTION if has_attention_bias else ()) + (MLP if has_mlp_bias else ())
    canonical = decoder_names(decoder.num_layers, biased) - {TABLE}
    read = {f"model.{part}" for name in canonical for part in parts_of(name)} | head.names
    refuse_other_tensors(checkpoint, read, f"a llama model of {decoder.num_layers} layers")
    return Model(
        architecture="llama",
        graphs={"decoder": decoder},
        weights=separate_weights(checkpoint, head),
        adapters=(),
        processor=ProcessorSpec(text=text, image=None, audio=None),
        routes={"text": Route(adapters={}, audio_projector="speech")},
        chat_template=chat_template(checkpoint),
        notes=head.notes,
    )
