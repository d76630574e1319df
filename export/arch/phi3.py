"""Phi-3, Phi-3.5-mini, Phi-4-mini and Phi-4-mini-reasoning: the text backbone, as in ``Phi3ForCausalLM``.

One decoder without adapters and media. Code shared with Phi-4-multimodal, which is this backbone with two towers, is in
``reading``.
"""

from __future__ import annotations

from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.reading.decoder import read_decoder
from palmtop.export.reading.rope import RopeRules
from palmtop.export.reading.tensors import TABLE, read_head

from . import About, Model, text_model

ABOUT = About(
    models="Phi-3-mini, Phi-3.5-mini, Phi-4-mini, Phi-4-mini-reasoning",
    refused=("biases", "a sliding window of some layers only"),
)
# Values that transformers' Phi3Config implies, where others of the family differ.
DEFAULTS = {"tie_word_embeddings": False, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
# Phi3Config reads the older spellings "su" and "yarn" as LongRoPE, and has no other scaling.
ROPE = RopeRules(
    kinds={"longrope": "longrope", "su": "longrope", "yarn": "longrope", "default": "default"}, original_context=4096
)


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of ``Phi3ForCausalLM``."""
    config = ConfigSection({**DEFAULTS, **checkpoint.config}, "config.json")
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=False))
    decoder = read_decoder(config, ROPE, is_tied=head.is_tied)
    return text_model("phi3", checkpoint, config, decoder, head, parts={})  # its linears are stacked already
