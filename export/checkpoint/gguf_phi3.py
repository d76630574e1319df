"""GGUF's architecture ``phi3`` (Phi-3, Phi-3.5-mini, Phi-4-mini) in the words of transformers' Phi3Config.

What Phi-4-multimodal becomes there is this too: its text backbone with the vision adapter folded in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from palmtop.errors import CheckpointError

from .safetensors_reader import TensorFolder

ARCHITECTURE = "phi3"
MODEL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",  # gate above up, as the checkpoint has them
    "ffn_down": "mlp.down_proj",
}
FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}


def transformers_name(name: str) -> str:
    """The checkpoint's name of a GGUF tensor; one that has no place in the model keeps its own."""
    if name in MODEL_NAMES:
        return MODEL_NAMES[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in LAYER_NAMES:
        return name
    return f"model.layers.{match[1]}.{LAYER_NAMES[match[2]]}.weight"


def config(fields: Mapping[str, Any], tensors: TensorFolder) -> dict[str, Any]:
    """What config.json would say.

    Args:
        fields: the file's metadata.
        tensors: under the file's own names.

    Raises:
        CheckpointError: a key or tensor is missing, or of another kind.
    """
    read = {"vocab_size", "tensor_data_layout", "rope.scaling.finetuned"}  # said by tensors; of training

    def wanted(key: str) -> Any:
        read.add(key)
        full = f"{ARCHITECTURE}.{key}"
        if full not in fields:
            raise CheckpointError(f"{tensors.path}: metadata key '{full}' is missing")
        return fields[full]

    def given(key: str) -> Any:
        read.add(key)
        return fields.get(f"{ARCHITECTURE}.{key}")

    table = tensors.shape("token_embd.weight")
    if table is None:
        raise CheckpointError(f"{tensors.path}: tensor 'token_embd.weight' is missing")
    hidden, heads, context = wanted("embedding_length"), wanted("attention.head_count"), wanted("context_length")
    if not all(isinstance(value, int) and value > 0 for value in (hidden, heads, context)):
        raise CheckpointError(
            f"{tensors.path}: {ARCHITECTURE}.embedding_length, attention.head_count and context_length are"
            f" {hidden}, {heads} and {context}, expected positive numbers"
        )
    head = given("attention.key_length") or hidden // heads
    ids = {key: fields.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "bos", "padding")}
    ends = [ids[key] for key in ("eos", "eot") if ids[key] is not None]
    values = given("attention.value_length")
    if values not in (None, head):
        raise CheckpointError(f"{tensors.path}: {ARCHITECTURE}.attention.value_length is {values}, expected {head}")
    scaling, factor = given("rope.scaling.type"), given("rope.scaling.factor")
    if scaling not in (None, "none", "longrope") or factor not in (None, 0, 1):
        raise CheckpointError(
            f"{tensors.path}: {ARCHITECTURE}.rope.scaling is of type {scaling!r} with factor {factor}, expected"
            " longrope"
        )
    made = {
        "model_type": "phi3",
        "_name_or_path": fields.get("general.name") or tensors.path.stem,
        "vocab_size": table[0],
        "hidden_size": hidden,
        "intermediate_size": wanted("feed_forward_length"),
        "num_hidden_layers": wanted("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": given("attention.head_count_kv") or heads,
        "head_dim": head,
        "rms_norm_eps": wanted("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": context,
        "original_max_position_embeddings": given("rope.scaling.original_context_length") or context,
        "rope_theta": given("rope.freq_base") or 10000.0,
        "partial_rotary_factor": (given("rope.dimension_count") or head) / head,
        "rope_scaling": _scaling(tensors, given("rope.scaling.attn_factor")),
        "sliding_window": given("attention.sliding_window") or None,  # 0 says none
        "tie_word_embeddings": tensors.shape("output.weight") is None,
        "eos_token_id": list(dict.fromkeys(ends)) or None,
        "bos_token_id": ids["bos"],
        "pad_token_id": ids["padding"],
    }
    for key, value in fields.items():
        name = key.removeprefix(f"{ARCHITECTURE}.")
        if name != key and name not in read:
            raise CheckpointError(
                f"{tensors.path}: metadata key '{key}' is {value!r:.60}, expected none: it is not read"
            )
    return made


def _scaling(tensors: TensorFolder, attention_factor: float | None) -> dict[str, Any] | None:
    """LongRoPE's factors, which are tensors here; None without."""
    found = {key: name for key, name in FACTORS.items() if tensors.shape(name) is not None}
    if not found:
        if attention_factor not in (None, 1.0):
            raise CheckpointError(
                f"{tensors.path}: {ARCHITECTURE}.rope.scaling.attn_factor is {attention_factor}, expected the factors"
                f" {' and '.join(FACTORS.values())} with it"
            )
        return None
    if missing := FACTORS.keys() - found.keys():
        raise CheckpointError(
            f"{tensors.path}: tensor '{FACTORS[missing.pop()]}' is missing, the other factors are there"
        )
    factors = {key: [float(f) for f in tensors.weight(name).array()] for key, name in found.items()}
    more = {} if attention_factor is None else {"attention_factor": attention_factor}
    return {"type": "longrope", **factors, **more}
