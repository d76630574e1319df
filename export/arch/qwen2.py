"""Qwen2 and Qwen2.5: text only, as in ``Qwen2ForCausalLM``; Llama's form with biases of queries, keys and values."""

from __future__ import annotations

from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.reading.decoder import read_decoder
from palmtop.export.reading.rope import EVERY_KIND
from palmtop.export.reading.tensors import TABLE, read_head
from palmtop.export.reading.windows import settled_window

from . import About, Model, text_model

ABOUT = About(
    models="Qwen2, Qwen2.5, Qwen2.5-Coder, QwQ, DeepSeek-R1-Distill-Qwen",
    refused=("a sliding window of some layers only",),
)
# Values that transformers' Qwen2Config implies.
DEFAULTS = {"tie_word_embeddings": False, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6}


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of ``Qwen2ForCausalLM``."""
    config = ConfigSection({**DEFAULTS, **settled_window(checkpoint.config)}, "config.json")
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=False))
    decoder = read_decoder(config, EVERY_KIND, is_tied=head.is_tied, has_qkv_bias=True)
    return text_model("qwen2", checkpoint, config, decoder, head)
