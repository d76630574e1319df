"""Every key of config.json files as their makers publish them is known: nothing in them is refused or misread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.recipe import Recipe
from tests.export.families import SMALL
from tests.export.test_journey import family_of

# What is not a size: those are the tiny checkpoint's.
PUBLISHED: dict[str, dict[str, Any]] = {
    "llama": {  # Llama-3.2-3B-Instruct
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [7, 8, 9],
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mlp_bias": False,
        "model_type": "llama",
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    },
    "qwen2": {  # Qwen2.5-7B-Instruct
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 7,
        "eos_token_id": 8,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_window_layers": 28,
        "model_type": "qwen2",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1",
        "use_cache": True,
        "use_sliding_window": False,
    },
    "qwen3": {  # Qwen3-4B
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 7,
        "eos_token_id": 8,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_window_layers": 36,
        "model_type": "qwen3",
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
    },
    "granite": {  # granite-3.3-2b-instruct
        "architectures": ["GraniteForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_multiplier": 0.015625,
        "bos_token_id": 0,
        "embedding_multiplier": 12.0,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "logits_scaling": 8.0,
        "mlp_bias": False,
        "model_type": "granite",
        "pad_token_id": 0,
        "residual_multiplier": 0.22,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
    "minicpm": {  # MiniCPM4-8B
        "architectures": ["MiniCPMForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "pad_token_id": 2,
        "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMConfig"},
        "hidden_act": "silu",
        "initializer_range": 0.1,
        "model_type": "minicpm",
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "rope_type": "longrope",
            "long_factor": [1.0, 1.5] * 4,
            "short_factor": [1.0, 1.5] * 4,
            "original_max_position_embeddings": 256,
        },
        "rope_theta": 10000.0,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "mup_denominator": 32,
        "dim_model_base": 256,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    },
}
SIZES = {**SMALL, "head_dim": 16}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read_whole(name: str, tmp_path: Path) -> None:
    published = PUBLISHED[name]
    more = {"head_dim": 16} if name == "qwen3" else {}
    family_of(name).write(tmp_path, 1, tie_word_embeddings=published["tie_word_embeddings"], **more)
    sizes = SIZES if name in ("llama", "qwen3") else SMALL
    (tmp_path / "config.json").write_text(json.dumps({**sizes, **published}))
    model = read_model(open_checkpoint(tmp_path), Recipe(context=64))
    decoder = model.decoder
    assert decoder.rope.theta == published["rope_theta"]
    assert decoder.norm.eps == published["rms_norm_eps"]
    assert decoder.attention.window is None
    assert model.notes == ()
    if name == "minicpm":
        assert (decoder.embedding_scale, decoder.logit_scale) == (12, 4.0)
        assert decoder.layers[0].residual_scale == pytest.approx(1.4 / 2**0.5)
        assert decoder.rope.long_factor is None and decoder.rope.attention_factor == 1.0
    if name == "granite":
        assert (decoder.attention.score_scale, decoder.logit_scale) == (0.015625, 0.125)
