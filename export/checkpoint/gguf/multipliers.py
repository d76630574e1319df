"""Settings in a GGUF file's metadata that one architecture has, in the terms of its config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from palmtop.errors import CheckpointError

from .metadata import Metadata

GRANITE = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
}
MINICPM = ("embedding_scale", "residual_scale", "logit_scale")
MSCALE = 1.243163121016122  # of Phi-3.5-MoE, as its config.json has it twice
OLD = {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 256.0}  # of the models that files of 2024 hold


def granite(said: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return Granite's four multipliers; 0 is another word for a missing one, whose place has no factor.

    Raises:
        CheckpointError: the logits' multiplier is missing, or one is no number.
    """
    found = {name: said.given(key) or None for key, name in GRANITE.items()}
    if found["attention_multiplier"] is None:
        found["attention_multiplier"] = config["head_dim"] ** -0.5
    if found["logits_scaling"] is None:
        raise CheckpointError(f"{said.where}: metadata key 'granite.logit_scale' is missing")
    return {name: _positive(said, f"granite.{name}", value) for name, value in found.items() if value is not None}


def minicpm(said: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``scale_emb``, ``scale_depth`` and ``dim_model_base``.

    Files of 2024 have none of the keys; their readers had the values of MiniCPM-2B built in. Their converter also
    ordered the rows of keys wrongly where there are fewer heads of keys than of queries.

    Raises:
        CheckpointError: a key is missing or no number, or the file is an old one of grouped heads.
    """
    found = [said.given(key) for key in MINICPM]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    if all(value is None for value in found):
        if heads != kv_heads:
            raise CheckpointError(
                f"{said.where}: metadata key 'minicpm.embedding_scale' is missing, as in files of 2024, whose keys are"
                f" in an unknown order with {kv_heads} heads of {heads}; expected a newer conversion"
            )
        return dict(OLD)
    pairs = zip(MINICPM, found, strict=True)
    embedding, residual, logits = (_positive(said, f"minicpm.{key}", value) for key, value in pairs)
    depth, width = config["num_hidden_layers"], config["hidden_size"]
    return {"scale_emb": embedding, "scale_depth": residual * math.sqrt(depth), "dim_model_base": width / logits}


def phimoe(said: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of experts, and the attention factor of LongRoPE, which files of Phi-3.5-MoE lack.

    The converter writes Phi-3's factor, sqrt(1 + ln(extension) / ln(original context)), for a model that has another.

    Raises:
        CheckpointError: a number is missing, or the factor is of a model whose factor is unknown.
    """
    found = {
        "num_local_experts": said.wanted("expert_count"),
        "num_experts_per_tok": said.wanted("expert_used_count"),
    }
    scaling = config["rope_scaling"]
    if scaling is None:
        return found
    context, original = config["max_position_embeddings"], config["original_max_position_embeddings"]
    usual = math.sqrt(1 + math.log(context / original) / math.log(original)) if context > original > 1 else 1.0
    stated = scaling.get("attention_factor", usual)
    if not math.isclose(stated, usual, rel_tol=1e-3):
        return {**found, "rope_scaling": {**scaling, "attention_factor": stated}}
    if (context, original) != (131072, 4096):
        raise CheckpointError(
            f"{said.where}: phimoe.rope.scaling.attn_factor is {stated:.6g}, which the converter computes from the two"
            " contexts and not from the model's mscale; expected the model's own factor, or Phi-3.5-MoE's contexts"
        )
    factors = {key: scaling[key] for key in ("type", "short_factor", "long_factor")}
    return {**found, "rope_scaling": {**factors, "short_mscale": MSCALE, "long_mscale": MSCALE}}


def _positive(said: Metadata, key: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise CheckpointError(f"{said.where}: {key} is {value!r:.60}, expected a positive number")
    return float(value)
