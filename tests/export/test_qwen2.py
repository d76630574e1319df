"""The family ``qwen2`` against transformers' Qwen2ForCausalLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from palmtop.errors import CheckpointError
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.recipe import Recipe
from tests.export.families import LINEAR, LLAMA3, SMALL, YARN, Family, ends, write_model
from tests.export.test_phi3 import edit_config

WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}
SHAPES: dict[str, dict[str, Any]] = {
    "as Qwen2.5 0.5B": {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1},
    "as Qwen2.5 1.5B": {"tie_word_embeddings": True, "vocab_size": 544},
    "as R1-Distill": {"sliding_window": 9, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "as Qwen2.5 7B": {"hidden_size": 112, "num_attention_heads": 14, "rope_parameters": YARN},
    "all heads": {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 48, "num_hidden_layers": 3},
    "padded heads": {"hidden_size": 48, "rope_parameters": LINEAR},
    "wide heads": {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1},
    "odd widths": {"hidden_size": 42, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 37},
    "a window": WINDOW,
    "a window of no layer": {**WINDOW, "max_window_layers": 2},
    "long waves": {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    "one layer": {"num_hidden_layers": 1, "vocab_size": 496, "num_key_value_heads": 4},
}


def write(folder: Path, seed: int, **changes: Any) -> Qwen2ForCausalLM:
    return write_model(folder, seed, Qwen2ForCausalLM(Qwen2Config(**{**SMALL, **ends(), **changes})))


FAMILY = Family(write=write, shapes=SHAPES)


def test_a_window_of_some_layers_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1, **{**WINDOW, "max_window_layers": 1})
    with pytest.raises(CheckpointError, match="1 of 2 layers have the window, expected all or none"):
        read_model(open_checkpoint(tmp_path), Recipe(context=64))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("use_sliding_window", "yes", "use_sliding_window is 'yes', expected true or false"),
        ("use_sliding_window", 1, "use_sliding_window is 1, expected true or false"),
        ("max_window_layers", "two", "max_window_layers is 'two', expected a number or null"),
        ("max_window_layers", -1, "max_window_layers is -1, expected a number or null"),
    ],
)
def test_a_window_of_another_kind_of_value_is_refused(key: str, value: object, message: str, tmp_path: Path) -> None:
    write(tmp_path, 1, **WINDOW)
    edit_config(tmp_path, lambda config: config.update({key: value}))
    with pytest.raises(CheckpointError, match=message):
        read_model(open_checkpoint(tmp_path), Recipe(context=64))


def test_the_spelling_of_transformers_4(tmp_path: Path) -> None:
    """As Qwen2.5's own files: a window that is not used, no types of layers."""
    write(tmp_path, 1)

    def older(config: dict[str, Any]) -> None:
        theta = config.pop("rope_parameters")["rope_theta"]
        config.pop("layer_types")
        config.update(rope_theta=theta, sliding_window=32, use_sliding_window=False, max_window_layers=28)

    edit_config(tmp_path, older)
    decoder = read_model(open_checkpoint(tmp_path), Recipe(context=64)).decoder
    assert decoder.attention.window is None
    assert decoder.attention.has_bias and not decoder.attention.has_output_bias
