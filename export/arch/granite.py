"""Granite, the dense models: text only, as in ``GraniteForCausalLM``; Llama's form with four multipliers."""

from __future__ import annotations

from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.graph.decoder import Decoder
from palmtop.export.reading.decoder import read_decoder, with_multipliers
from palmtop.export.reading.rope import EVERY_KIND
from palmtop.export.reading.settings import check_values, positive
from palmtop.export.reading.tensors import TABLE, Head, read_head

from . import About, Model, text_model

ABOUT = About(
    models="Granite 3.0 to 3.3, 4.1, 4.2 (dense)",
    refused=("sliding windows (granite_swa)", "the mixtures of experts (granitemoe)"),
)
# Values that transformers' GraniteConfig implies.
DEFAULTS = {"tie_word_embeddings": False, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of ``GraniteForCausalLM``."""
    config = ConfigSection({**DEFAULTS, **checkpoint.config}, "config.json")
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=False))
    return text_model("granite", checkpoint, config, read_granite(config, head), head)


def read_granite(config: ConfigSection, head: Head) -> Decoder:
    """Return the decoder of a config with Granite's multipliers; a missing one is 1, also that of the scores."""
    check_values(config, {("sliding_window",): (None,)})
    decoder = read_decoder(
        config,
        EVERY_KIND,
        is_tied=head.is_tied,
        has_attention_bias=config.flag("attention_bias", default=False),
        has_mlp_bias=config.flag("mlp_bias", default=False),
    )
    return with_multipliers(
        decoder,
        embedding=positive(config, "embedding_multiplier", default=1.0),
        residual=positive(config, "residual_multiplier", default=1.0),
        scores=positive(config, "attention_multiplier", default=1.0),
        logits=1.0 / positive(config, "logits_scaling", default=1.0),
    )
