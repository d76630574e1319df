"""Checkpoints of random weights with the true dimensions of Phi-mini-MoE and Phi-tiny-MoE (model_type ``phimoe``)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.full_size import Plan
from benchmarks.full_size_tokenizer import special_ids, write_tokenizer
from benchmarks.make_checkpoint import SHARD_BYTES, RandomValues, _write_shard, size_bytes, split
from palmtop.export.bundle.atomic_directory import written_beside
from palmtop.export.checkpoint.safetensors_reader import INDEX_FILE

SIZES: dict[str, dict[str, Any]] = {
    "mini": {"intermediate_size": 960, "num_attention_heads": 32, "num_key_value_heads": 8},
    "tiny": {"intermediate_size": 448, "num_attention_heads": 16, "num_key_value_heads": 4},
}
HIDDEN, HEAD, EXPERTS, VOCABULARY = 4096, 128, 16, 32064


def config(name: str, layers: int) -> dict[str, Any]:
    """Return the content of config.json."""
    return {
        "architectures": ["PhimoeForCausalLM"],
        "model_type": "phimoe",
        "hidden_size": HIDDEN,
        "head_dim": HEAD,
        "num_hidden_layers": layers,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "vocab_size": VOCABULARY,
        "attention_bias": True,
        "lm_head_bias": True,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
        "sliding_window": 2047,
        "router_jitter_noise": 0.01,
        "tie_word_embeddings": False,
        **SIZES[name],
    }


def tensors(described: dict[str, Any]) -> Iterator[Plan]:
    """Every tensor of the checkpoint in order."""
    inner = described["intermediate_size"]
    queries, keys = (HEAD * described[f"num_{kind}_heads"] for kind in ("attention", "key_value"))

    def matrix(name: str, rows: int, columns: int) -> Plan:
        return Plan(f"{name}.weight", (rows, columns), 1 / math.sqrt(columns))

    def norm(name: str) -> Iterator[Plan]:
        yield Plan(f"{name}.weight", (HIDDEN,), 0.1, 1.0)
        yield Plan(f"{name}.bias", (HIDDEN,), 0.1)

    yield Plan("model.embed_tokens.weight", (VOCABULARY, HIDDEN), 4 / math.sqrt(HIDDEN))
    for layer in range(described["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for part, rows in (("q", queries), ("k", keys), ("v", keys), ("o", HIDDEN)):
            yield matrix(f"{prefix}self_attn.{part}_proj", rows, queries if part == "o" else HIDDEN)
            yield Plan(f"{prefix}self_attn.{part}_proj.bias", (rows,), 0.1)
        yield matrix(f"{prefix}block_sparse_moe.gate", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            name = f"{prefix}block_sparse_moe.experts.{expert}"
            yield matrix(f"{name}.w1", inner, HIDDEN)
            yield matrix(f"{name}.w2", HIDDEN, inner)
            yield matrix(f"{name}.w3", inner, HIDDEN)
        for each in ("input_layernorm", "post_attention_layernorm"):
            yield from norm(prefix + each)
    yield from norm("model.norm")
    yield matrix("lm_head", VOCABULARY, HIDDEN)
    yield Plan("lm_head.bias", (VOCABULARY,), 0.1)


def write(target: Path, name: str, layers: int) -> int:
    """Write a checkpoint folder and return the bytes of its weights; it appears whole or not at all."""
    described = config(name, layers)
    plans, ids = list(tensors(described)), special_ids(VOCABULARY)
    with written_beside(target) as folder:
        values, weight_map = RandomValues(0), dict[str, str]()
        for number, shard in enumerate(split(plans, SHARD_BYTES), 1):
            file = f"model-{number:05d}.safetensors"
            weight_map |= {plan.name: file for plan in shard}
            _write_shard(folder / file, shard, values, None)
        write_tokenizer(folder, VOCABULARY)
        ends = {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|end|>"]}
        (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")
        (folder / "config.json").write_text(json.dumps({**described, **ends}), "utf-8")
    return sum(size_bytes(plan) for plan in plans)
