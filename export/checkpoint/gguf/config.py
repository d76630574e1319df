"""The config.json of a GGUF file's metadata; metadata that is not read is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.safetensors_reader import SafetensorsReader

from .families import Family
from .metadata import Metadata
from .scaling import rope_scaling

ENDS = ("eos", "eot", "eom")  # ids of tokens that end an answer; such a file has no generation_config.json


def make_config(family: Family, fields: Mapping[str, Any], tensors: SafetensorsReader) -> dict[str, Any]:
    """Return the content of config.json.

    Args:
        family: table of the file's architecture.
        fields: the file's metadata.
        tensors: tensors by the file's own names.

    Raises:
        CheckpointError: a key or tensor is missing, of another kind, or would not be read.
    """
    said = Metadata(str(tensors.path), family.name, fields)
    table = tensors.shape("token_embd.weight")
    if table is None:
        raise CheckpointError(f"{tensors.path}: tensor 'token_embd.weight' is missing")
    sizes = [said.wanted(key) for key in ("embedding_length", "attention.head_count", "context_length")]
    if not all(isinstance(value, int) and value > 0 for value in sizes):
        raise CheckpointError(
            f"{tensors.path}: {family.name}.embedding_length, attention.head_count and context_length are"
            f" {sizes[0]}, {sizes[1]} and {sizes[2]}, expected positive numbers"
        )
    hidden, heads, context = sizes
    stated = said.given("attention.key_length")
    head = stated or _head_of_rows(tensors, heads) or hidden // heads
    rotated = said.given("rope.dimension_count") or head
    if stated is None and rotated == hidden // heads:  # a converter's guess where the config has no size of heads
        rotated = head
    values = said.given("attention.value_length")
    if values not in (None, head):
        raise CheckpointError(f"{tensors.path}: {family.name}.attention.value_length is {values}, expected {head}")
    ids = {key: fields.get(f"tokenizer.ggml.{key}_token_id") for key in (*ENDS, "bos", "padding")}
    ends = [ids[key] for key in ENDS if ids[key] is not None]
    made = {
        "model_type": family.model_type,
        "_name_or_path": fields.get("general.name") or tensors.path.stem,
        "vocab_size": table[0],
        "hidden_size": hidden,
        "intermediate_size": said.wanted("feed_forward_length"),
        "num_hidden_layers": said.wanted("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": said.given("attention.head_count_kv") or heads,
        "head_dim": head,
        "rms_norm_eps": said.wanted("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": context,
        "original_max_position_embeddings": said.given("rope.scaling.original_context_length") or context,
        "rope_theta": said.given("rope.freq_base") or 10000.0,
        "partial_rotary_factor": rotated / head,
        "rope_scaling": rope_scaling(family, said, tensors),
        "sliding_window": said.given("attention.sliding_window") or None,  # 0 means none
        "tie_word_embeddings": tensors.shape("output.weight") is None,
        "eos_token_id": list(dict.fromkeys(ends)) or None,
        "bos_token_id": ids["bos"],
        "pad_token_id": ids["padding"],
    }
    for key, tensor in family.biases.items():
        made[key] = tensors.shape(f"blk.0.{tensor}.bias") is not None
    if tensors.shape("output.bias") is not None:
        made["lm_head_bias"] = True
    made |= family.settings(said, made)
    said.refuse_unread()
    return made


def _head_of_rows(tensors: SafetensorsReader, heads: int) -> int | None:
    """Size of a head by the rows of the queries' matrix; None where they are not the same for each head."""
    rows = tensors.shape("blk.0.attn_q.weight")
    return None if rows is None or rows[0] % heads else rows[0] // heads
