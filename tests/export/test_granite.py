"""The family ``granite`` against transformers' GraniteForCausalLM; no greedy answer shows the logits' scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GraniteConfig, GraniteForCausalLM

from palmtop.errors import CheckpointError
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.recipe import Recipe
from tests.export.families import LINEAR, LLAMA3, SMALL, YARN, Family, ends, write_model
from tests.export.test_phi3 import edit_config

MULTIPLIERS = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.4,
    "logits_scaling": 8.0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "as Granite 3.3": {"tie_word_embeddings": True},
    "as Granite 4.2": {**dict.fromkeys(MULTIPLIERS, 1.0), "attention_multiplier": 0.25},
    "whole numbers": {"embedding_multiplier": 6, "logits_scaling": 16, "num_key_value_heads": 1},
    "no multiplier": dict.fromkeys(MULTIPLIERS, 1.0),
    "biases of attention": {"attention_bias": True, "num_key_value_heads": 4},
    "biases of the MLP": {"mlp_bias": True, "tie_word_embeddings": True},
    "padded heads": {"hidden_size": 48, "attention_bias": True, "mlp_bias": True, "rope_parameters": LINEAR},
    "wide heads": {"head_dim": 32, "rope_parameters": LLAMA3},
    "all heads": {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1},
    "odd widths": {"hidden_size": 42, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 37},
    "three layers": {"num_hidden_layers": 3, "rms_norm_eps": 1e-3, "vocab_size": 544, "rope_parameters": YARN},
}


def write(folder: Path, seed: int, **changes: Any) -> GraniteForCausalLM:
    return write_model(folder, seed, GraniteForCausalLM(GraniteConfig(**{**SMALL, **MULTIPLIERS, **ends(), **changes})))


FAMILY = Family(write=write, shapes=SHAPES)


@pytest.mark.parametrize("key", MULTIPLIERS)
@pytest.mark.parametrize("value", [0, -1.0, "12", True])
def test_a_factor_is_a_positive_number(key: str, value: object, tmp_path: Path) -> None:
    write(tmp_path, 1, num_hidden_layers=1)
    edit_config(tmp_path, lambda config: config.update({key: value}))
    with pytest.raises(CheckpointError, match=f"{key} is .*, expected a"):
        read_model(open_checkpoint(tmp_path), Recipe(context=64))


def test_a_missing_factor_is_one(tmp_path: Path) -> None:
    """Also that of the scores, as in GraniteConfig."""
    write(tmp_path, 1, num_hidden_layers=1)
    edit_config(tmp_path, lambda config: [config.pop(key) for key in MULTIPLIERS])
    decoder = read_model(open_checkpoint(tmp_path), Recipe(context=64)).decoder
    assert (decoder.embedding_scale, decoder.logit_scale, decoder.layers[0].residual_scale) == (1, 1, 1)
    assert decoder.attention.score_scale == 1
