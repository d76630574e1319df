"""Qwen3, the dense models: text only, as in ``Qwen3ForCausalLM``; Llama's form with norms of each head's q and k."""

from __future__ import annotations

from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.reading.decoder import read_decoder
from palmtop.export.reading.rope import EVERY_KIND
from palmtop.export.reading.tensors import TABLE, read_head
from palmtop.export.reading.windows import settled_window

from . import About, Model, text_model

ABOUT = About(
    models="Qwen3 0.6B to 32B, their 2507 releases",
    refused=("a sliding window of some layers only", "the mixtures of experts (qwen3_moe)"),
)
# Values that transformers' Qwen3Config implies.
DEFAULTS = {"tie_word_embeddings": False, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "head_dim": 128}


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of ``Qwen3ForCausalLM``."""
    config = ConfigSection({**DEFAULTS, **settled_window(checkpoint.config)}, "config.json")
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=False))
    has_bias = config.flag("attention_bias", default=False)
    decoder = read_decoder(config, EVERY_KIND, is_tied=head.is_tied, has_attention_bias=has_bias, has_head_norms=True)
    return text_model("qwen3", checkpoint, config, decoder, head)
