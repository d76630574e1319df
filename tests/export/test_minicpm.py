"""The family ``minicpm`` against Granite, whose formulas are the same: transformers has no class of MiniCPM."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import GraniteConfig, GraniteForCausalLM

from palmtop.errors import CheckpointError
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from tests.export.families import SMALL, Family, ends, write_model
from tests.export.test_phi3 import edit_config

FACTORS = [1.0 + 0.3 * i for i in range(8)]
STATIC = {"rope_type": "longrope", "short_factor": FACTORS, "long_factor": FACTORS}
MUP = {"scale_emb": 12, "scale_depth": 0.6, "dim_model_base": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "as MiniCPM-2B": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "as MiniCPM-1B": {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 96},
    "as MiniCPM4": {"rope": STATIC, "num_key_value_heads": 1},
    "as MiniCPM4.1": {"rope": STATIC, "original": 64, "tie_word_embeddings": True},
    "no scale": {"scale_emb": 1, "scale_depth": 1.0, "dim_model_base": 1},
    "small scales": {"scale_emb": 0.5, "scale_depth": 3.3, "dim_model_base": 256},
    "two sets of factors": {
        "rope": {**STATIC, "long_factor": [2.0 * f for f in FACTORS], "factor": 2.0},
        "original": 48,
    },
    "linear": {"rope": {"rope_type": "linear", "factor": 2.5}},
    "padded heads": {"hidden_size": 48, "num_hidden_layers": 3},
    "all heads": {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1},
    "odd widths": {"hidden_size": 42, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 37},
}


def write(folder: Path, seed: int, **changes: Any) -> GraniteForCausalLM:
    """Save Granite's tensors, which have MiniCPM's names, with MiniCPM's config."""
    sizes = {**SMALL, "tie_word_embeddings": False, **changes}
    own = {**MUP, **{key: sizes.pop(key) for key in MUP if key in sizes}}
    rope, original = sizes.pop("rope", {"rope_type": "default"}), sizes.pop("original", None)
    lengths = {} if original is None else {"original_max_position_embeddings": original}
    model = GraniteForCausalLM(
        GraniteConfig(
            **{**sizes, **ends()},
            embedding_multiplier=own["scale_emb"],
            residual_multiplier=own["scale_depth"] / math.sqrt(sizes["num_hidden_layers"]),
            attention_multiplier=(sizes["hidden_size"] // sizes["num_attention_heads"]) ** -0.5,
            logits_scaling=sizes["hidden_size"] / own["dim_model_base"],
            rope_parameters={**rope, "rope_theta": 10000.0, **lengths},
        )
    )
    model = write_model(folder, seed, model)
    scaling = None if rope["rope_type"] == "default" else {**rope, **lengths}
    config = {
        "architectures": ["MiniCPMForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMConfig"},
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_scaling": scaling,
        "mup_denominator": 7,
        **sizes,
        **ends(),
        **own,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return model


FAMILY = Family(write=write, shapes=SHAPES)


def test_equal_factors_make_one_table(tmp_path: Path) -> None:
    """A sequence that passes the original length is not computed again."""
    write(tmp_path / "checkpoint", 1, **SHAPES["as MiniCPM4.1"])
    bundle = open_bundle(export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=128)))
    assert bundle.manifest.decoder.original_context is None


def test_an_old_file_has_neither_model_type_nor_key_of_the_tie(tmp_path: Path) -> None:
    write(tmp_path, 1, tie_word_embeddings=True)
    edit_config(tmp_path, lambda config: [config.pop(key) for key in ("tie_word_embeddings", "rope_scaling")])
    assert "model_type" not in json.loads((tmp_path / "config.json").read_text())
    assert read_model(open_checkpoint(tmp_path), Recipe(context=64)).decoder.is_tied


def sparse(folder: Path, dense_len: object) -> None:
    more = {"kernel_size": 32, "block_size": 64, "topk": 64, "dense_len": dense_len}
    edit_config(folder, lambda config: config.update(sparse_config=more))


def test_contexts_of_sparse_attention_are_refused_and_none_is_a_default(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", 1, num_hidden_layers=1)
    sparse(tmp_path / "checkpoint", 100)
    message = r"dense attention, below sparse_config\.dense_len, is 99, expected at least 128, the context"
    with pytest.raises(CheckpointError, match=message):
        export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=128))
    bundle = open_bundle(export_model(tmp_path / "checkpoint", tmp_path / "bundle"))
    assert bundle.manifest.decoder.context_length == 99


@pytest.mark.parametrize("dense_len", [-1, 0, None, "8192"])
def test_attention_that_is_always_sparse_is_refused(dense_len: object, tmp_path: Path) -> None:
    write(tmp_path, 1, num_hidden_layers=1)
    sparse(tmp_path, dense_len)
    with pytest.raises(CheckpointError, match="attention would always be sparse"):
        read_model(open_checkpoint(tmp_path), Recipe(context=64))
