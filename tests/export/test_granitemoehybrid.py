"""Dense Granite 4.0 against transformers' GraniteMoeHybridForCausalLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

from palmtop.errors import CheckpointError
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.recipe import Recipe
from tests.export.families import LINEAR, LLAMA3, SMALL, YARN, Family, ends, write_model
from tests.export.test_granite import MULTIPLIERS
from tests.export.test_phi3 import edit_config

DENSE = {"num_local_experts": 0, "position_embedding_type": "rope", "shared_intermediate_size": 72}
SHAPES: dict[str, dict[str, Any]] = {
    "as Granite 4.0 micro": {"tie_word_embeddings": True},
    "as Granite 4.0 350m": {"embedding_multiplier": 6, "num_key_value_heads": 1},
    "biases": {"attention_bias": True},
    "odd widths": {"hidden_size": 42, "mamba_n_heads": 4, "num_attention_heads": 3, "num_key_value_heads": 1},
    "another width": {"shared_intermediate_size": 40, "num_key_value_heads": 4},
    "three layers": {"num_hidden_layers": 3, "rms_norm_eps": 1e-3, "vocab_size": 544, "rope_parameters": YARN},
    "no multiplier": dict.fromkeys(MULTIPLIERS, 1.0),
    "whole numbers": {"embedding_multiplier": 6, "logits_scaling": 16, "num_key_value_heads": 1, "vocab_size": 531},
    "scaled positions": {"rope_parameters": LINEAR, "tie_word_embeddings": True, "attention_bias": True},
    "Llama's positions": {"rope_parameters": LLAMA3, "num_key_value_heads": 4},
    "one layer, all heads": {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1},
}


def write(folder: Path, seed: int, **changes: Any) -> GraniteMoeHybridForCausalLM:
    settings = {**SMALL, **DENSE, **MULTIPLIERS, **ends(), **changes}
    settings["layer_types"] = ["attention"] * settings["num_hidden_layers"]
    return write_model(folder, seed, GraniteMoeHybridForCausalLM(GraniteMoeHybridConfig(**settings)))


FAMILY = Family(write=write, shapes=SHAPES)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layer_types", ["mamba", "attention"]),
        ("num_local_experts", 4),
        ("position_embedding_type", "nope"),
    ],
)
def test_what_is_not_dense_is_refused(key: str, value: object, tmp_path: Path) -> None:
    write(tmp_path, 1)
    edit_config(tmp_path, lambda config: config.update({key: value}))
    with pytest.raises(CheckpointError, match=f"{key} is .*, expected"):
        read_model(open_checkpoint(tmp_path), Recipe(context=64))
