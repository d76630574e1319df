"""The family ``phimoe`` against transformers' PhimoeForCausalLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PhimoeConfig, PhimoeForCausalLM

from palmtop.errors import CheckpointError, InputError
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from tests.export.families import SMALL, Family, ends, write_model
from tests.export.test_phi3 import edit_config

OF_PHI = {"num_local_experts": 16, "attention_bias": True, "lm_head_bias": True, "rope_theta": 10000.0}
MSCALES = {"short_mscale": 1.243163121016122, "long_mscale": 1.243163121016122}


def longrope(size: int, original: int = 4096) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.02 * i for i in range(size // 2)],
        "long_factor": [1.0 + 0.5 * i for i in range(size // 2)],
        "original_max_position_embeddings": original,
        **MSCALES,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "as Phi-mini-MoE": {"sliding_window": 47},
    "as Phi-tiny-MoE": {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 13},
    "as Phi-3.5-MoE": {
        "rope_parameters": longrope(16),
        "max_position_embeddings": 131072,
        "sliding_window": 131072,
    },
    "no biases": {"attention_bias": False, "lm_head_bias": False},
    "two experts": {"num_local_experts": 2, "num_key_value_heads": 4},
    "five experts, a wide band": {"num_local_experts": 5, "router_jitter_noise": 0.3, "hidden_size": 48},
    "no band": {"router_jitter_noise": 0.0, "num_hidden_layers": 3, "vocab_size": 544},
    "tied": {"tie_word_embeddings": True, "num_local_experts": 7},
    "odd widths": {"hidden_size": 42, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 37},
    "wide heads": {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 24},
    "default theta": {"rope_parameters": None, "rope_theta": None, "rms_norm_eps": 1e-3, "num_hidden_layers": 1},
}


def write(folder: Path, seed: int, **changes: Any) -> PhimoeForCausalLM:
    settings = {**SMALL, **OF_PHI, **ends(), **changes}
    theta = settings.pop("rope_theta")
    if theta is not None:
        settings.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": theta})
    head_dim = settings.pop("head_dim", None)
    config = PhimoeConfig(**settings)
    if head_dim is not None:
        config.head_dim = head_dim
    config._experts_implementation = "eager"  # torch's grouped product wants widths that are multiples of four
    return write_model(folder, seed, PhimoeForCausalLM(config))


FAMILY = Family(write=write, shapes=SHAPES)


def check(folder: Path) -> None:
    read_model(open_checkpoint(folder), Recipe(context=64))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_experts_per_tok", 1, "num_experts_per_tok is 1, expected 2"),
        ("num_experts_per_tok", 4, "num_experts_per_tok is 4, expected 2"),
        ("num_local_experts", 1, "num_local_experts is 1, expected at least 2"),
        ("num_local_experts", 17, "tensor 'model.layers.0.block_sparse_moe.experts.16.w1.weight' is missing"),
        ("num_local_experts", 15, "tensor 'model.layers.0.block_sparse_moe.experts.15.w1.weight' has no place"),
        ("router_jitter_noise", -0.1, "router_jitter_noise is -0.1, expected at least 0"),
        ("router_jitter_noise", "little", "router_jitter_noise is 'little', expected a number"),
        ("attention_bias", False, r"tensor 'model.layers.0.self_attn.\w+.bias' has no place"),
        ("lm_head_bias", False, "tensor 'lm_head.bias' has no place"),
        ("hidden_act", "gelu", "hidden_act is 'gelu', expected 'silu'"),
        ("num_shared_experts", 1, "num_shared_experts is 1, which this architecture does not read"),
    ],
)
def test_another_mixture_is_refused(key: str, value: object, message: str, tmp_path: Path) -> None:
    write(tmp_path, 1)
    edit_config(tmp_path, lambda config: config.update({key: value}))
    with pytest.raises(CheckpointError, match=message):
        check(tmp_path)


def test_factors_with_different_mscales_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 1, rope_parameters={**longrope(16), "long_mscale": 1.5}, max_position_embeddings=131072)
    with pytest.raises(CheckpointError, match=r"short_mscale and long_mscale are \[1.5, 1.24\d+\], expected the same"):
        check(tmp_path)


def test_the_spelling_of_transformers_4(tmp_path: Path) -> None:
    """As in the published files: no head_dim and no rope_parameters, training's noise, code of the repository."""
    write(tmp_path, 1)
    before = read_model(open_checkpoint(tmp_path), Recipe(context=64)).decoder

    def older(config: dict[str, Any]) -> None:
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config.update(rope_scaling=None, input_jitter_noise=0.01, auto_map={"AutoConfig": "c.C"}, head_dim=None)

    edit_config(tmp_path, older)
    assert read_model(open_checkpoint(tmp_path), Recipe(context=64)).decoder == before


def test_a_target_that_would_compute_every_expert_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", 1)
    recipe = Recipe(context=64, target="qnn", soc="sm8750")
    with pytest.raises(InputError, match="target is 'qnn' for a model of 16 experts, expected no target"):
        export_model(tmp_path / "checkpoint", tmp_path / "bundle", recipe)


@pytest.mark.parametrize("method", ["gptq", "gptq-in-order"])
def test_a_calibrated_mixture_is_right_and_its_experts_with_few_tokens_are_named(method: str, tmp_path: Path) -> None:
    """In order, a linear that made up for another routing would be another matrix: 10 dB, less than rounding leaves."""
    write(tmp_path / "checkpoint", 3)
    notes: list[str] = []
    recipe = Recipe(context=256, method=method)
    export_model(tmp_path / "checkpoint", tmp_path / "bundle", recipe, verify=True, on_note=notes.append)
    assert any("experts that received fewer than 32 tokens of the samples" in note for note in notes)
