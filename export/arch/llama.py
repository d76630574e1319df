"""Llama and models of its form: text only, as in ``LlamaForCausalLM``.

Queries, keys and values, gate and up are separate tensors, which the export stacks.
"""

from __future__ import annotations

from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.reading.decoder import read_decoder
from palmtop.export.reading.rope import EVERY_KIND
from palmtop.export.reading.settings import check_values
from palmtop.export.reading.tensors import TABLE, read_head

from . import About, Model, text_model

ABOUT = About(
    models="Llama 3.x, SmolLM2, MiniCPM5, DeepSeek-R1-Distill-Llama",
    tested="SmolLM2-135M-Instruct; random weights",
    refused=("sliding windows", "heads that rotate in part"),
)
# Values that transformers' LlamaConfig implies.
DEFAULTS = {"tie_word_embeddings": False, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of ``LlamaForCausalLM``."""
    config = ConfigSection({**DEFAULTS, **checkpoint.config}, "config.json")
    check_values(config, {("sliding_window",): (None,)})  # transformers' class has none
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=False))
    decoder = read_decoder(
        config,
        EVERY_KIND,
        is_tied=head.is_tied,
        has_attention_bias=config.flag("attention_bias", default=False),
        has_mlp_bias=config.flag("mlp_bias", default=False),
    )
    return text_model("llama", checkpoint, config, decoder, head)
