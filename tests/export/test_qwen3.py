"""The family ``qwen3`` against transformers' Qwen3ForCausalLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen3Config, Qwen3ForCausalLM

from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.recipe import Recipe
from tests.export.families import LINEAR, LLAMA3, SMALL, YARN, Family, ends, write_model
from tests.export.test_phi3 import edit_config

SHAPES: dict[str, dict[str, Any]] = {
    "as Qwen3 0.6B": {"head_dim": 32, "tie_word_embeddings": True},
    "as Qwen3 4B": {"head_dim": 24, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "as Qwen3 8B": {"head_dim": 16},
    "with biases": {"head_dim": 16, "attention_bias": True},
    "all heads": {"head_dim": 16, "num_attention_heads": 3, "num_key_value_heads": 3, "rope_parameters": YARN},
    "padded heads": {"head_dim": 20, "rope_parameters": LINEAR},
    "padded heads with biases": {"head_dim": 12, "attention_bias": True, "rms_norm_eps": 1e-2},
    "narrow heads": {"head_dim": 8, "num_attention_heads": 6, "num_key_value_heads": 2, "rope_parameters": LLAMA3},
    "odd widths": {"head_dim": 16, "hidden_size": 42, "intermediate_size": 37, "vocab_size": 496},
    "a window": {"head_dim": 16, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0},
    "three layers": {"head_dim": 40, "num_hidden_layers": 3, "vocab_size": 544},
}


def write(folder: Path, seed: int, **changes: Any) -> Qwen3ForCausalLM:
    return write_model(folder, seed, Qwen3ForCausalLM(Qwen3Config(**{**SMALL, **ends(), **changes})))


FAMILY = Family(write=write, shapes=SHAPES)


def test_a_head_has_128_dimensions_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    write(tmp_path, 1, head_dim=128)
    edit_config(tmp_path, lambda config: config.pop("head_dim"))
    attention = read_model(open_checkpoint(tmp_path), Recipe(context=64)).decoder.attention
    assert attention.head_size == 128
    assert attention.norm_eps == 1e-6
