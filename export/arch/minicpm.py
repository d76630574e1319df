"""MiniCPM 1B and 2B, MiniCPM4 and 4.1: text only; Llama's form with the scales of muP.

Transformers has no such class; the formulas are those of OpenBMB's modeling_minicpm.py, and equal to Granite's with
``embedding_multiplier`` scale_emb, ``residual_multiplier`` scale_depth / sqrt(layers) and ``logits_scaling``
hidden_size / dim_model_base.
"""

from __future__ import annotations

import math
from dataclasses import replace

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.graph.decoder import Decoder
from palmtop.export.reading.decoder import read_decoder, with_multipliers
from palmtop.export.reading.rope import RopeRules
from palmtop.export.reading.settings import check_values, positive
from palmtop.export.reading.tensors import TABLE, read_head

from . import About, Model, text_model

ABOUT = About(
    models="MiniCPM-1B, MiniCPM-2B, MiniCPM4, MiniCPM4.1",
    refused=(
        "contexts from sparse_config.dense_len on, where attention is sparse",
        "MiniCPM3 (latent attention)",
        "MiniCPM-MoE",
    ),
)
# Values that MiniCPMConfig implies: old files have none of these keys.
DEFAULTS = {"tie_word_embeddings": True, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
KINDS = ("default", "linear", "dynamic", "longrope")
ROPE = RopeRules(kinds={kind: kind for kind in KINDS}, rotates_part=False)


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of ``MiniCPMForCausalLM``."""
    config = ConfigSection({**DEFAULTS, **checkpoint.config}, "config.json")
    check_values(config, {("sliding_window",): (None,), ("num_experts",): (0,)})
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=True))
    has_bias = config.flag("attention_bias", default=False)
    decoder = _dense(config, read_decoder(config, ROPE, is_tied=head.is_tied, has_attention_bias=has_bias))
    # Of the modelling code, depth and width count, not this copy of the first.
    config.skip("mup_denominator")
    scaled = with_multipliers(
        decoder,
        embedding=positive(config, "scale_emb", default=1.0),
        residual=positive(config, "scale_depth", default=1.0) / math.sqrt(decoder.num_layers),
        logits=positive(config, "dim_model_base", default=1.0) / decoder.hidden_size,
    )
    return text_model("minicpm", checkpoint, config, scaled, head)


def _dense(config: ConfigSection, decoder: Decoder) -> Decoder:
    """Return the decoder with its length limited to sequences of dense attention.

    Attention is sparse (InfLLM v2) where ``dense_len`` or more keys are there.

    Raises:
        CheckpointError: attention is always sparse.
    """
    sparse = config.optional("sparse_config")
    if sparse is None:
        return decoder
    length = sparse.raw("dense_len")
    if not isinstance(length, int) or length < 2:
        raise CheckpointError(
            f"{sparse.named('dense_len')} is {length!r:.60}, expected more than 1: attention would always be sparse"
        )
    config.skip("sparse_config")
    if length > decoder.max_tokens:
        return decoder
    limit = "the longest sequence with dense attention, below sparse_config.dense_len,"
    return replace(decoder, max_tokens=length - 1, limit=limit)
