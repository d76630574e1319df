"""The numbers that shape a Phi-4-multimodal checkpoint, and its config as upstream and the port spell it.

Knows nothing about weights. The defaults are those of the reference model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.reference.upstream_config import AUDIO_EMBEDDING, conformer, image_embedding, lora

LORA_TARGETS = r"model\.layers\.\d+\.((self_attn\.(qkv_proj|o_proj))|(mlp\.(gate_up|down)_proj))"
"""The linears both adapters sit on; anchored, so that the conformer's own gate_up_proj is never hit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Every size that upstream's `config.json` states, plus the vision tower's, which it leaves out."""

    vocab_size: int = 512
    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 3
    num_key_value_heads: int = 1
    head_dim: int = 64
    intermediate_size: int = 512
    tie_word_embeddings: bool = True
    partial_rotary_factor: float = 0.75
    rope_theta: float = 10000.0
    longrope: bool = True
    original_max_position_embeddings: int = 4096
    max_position_embeddings: int = 131072
    sliding_window: int = 262144

    crop_size: int = 56
    patch_size: int = 14
    vision_hidden_size: int = 128
    vision_intermediate_size: int = 256
    vision_layers: int = 5
    vision_heads: int = 4
    feature_layer: int = -2
    dynamic_hd: int = 36

    audio_hidden_size: int = 144
    audio_intermediate_size: int = 288
    audio_blocks: int = 4
    audio_heads: int = 4
    nemo_conv_channels: int = 64
    kernel_size: int = 3
    bias_max_distance: int = 500

    vision_rank: int = 16
    vision_alpha: int = 32
    speech_rank: int = 24
    speech_alpha: int = 48

    @property
    def rotary_dim(self) -> int:
        """How many of each head's columns are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)


def long_factors(sizes: Sizes) -> list[float]:
    """Upstream-like long factors: 1 for the fastest pair, rising to 30 for the slowest."""
    pairs = sizes.rotary_dim // 2
    return [round(30.0 ** (i / max(pairs - 1, 1)), 4) for i in range(pairs)]


def upstream_config(sizes: Sizes, token_ids: dict[str, int]) -> dict[str, Any]:
    """The `config.json` of a checkpoint of these sizes, as Microsoft spells it (model_type `phi4mm`).

    Args:
        sizes: what to describe.
        token_ids: name to id of at least <|endoftext|>, <|end|>, <|endoftext10|> and <|endoftext11|>.
    """
    eos, end = token_ids["<|endoftext|>"], token_ids["<|end|>"]
    config: dict[str, Any] = {
        "architectures": ["Phi4MMForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "audio_processor": {"name": "cascades", "config": _audio_config(sizes)},
        "audio_token_id": token_ids["<|endoftext11|>"],
        "bos_token_id": eos,
        "embd_layer": _embd_layer(sizes),
        "embd_pdrop": 0.0,
        "eos_token_id": [eos, end],
        "full_attn_mod": 1,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden_size,
        "image_token_id": token_ids["<|endoftext10|>"],
        "initializer_range": 0.02,
        "intermediate_size": sizes.intermediate_size,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": sizes.max_position_embeddings,
        "mlp_bias": False,
        "model_type": "phi4mm",
        "num_attention_heads": sizes.num_attention_heads,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_key_value_heads": sizes.num_key_value_heads,
        "original_max_position_embeddings": sizes.original_max_position_embeddings,
        "pad_token_id": eos,
        "partial_rotary_factor": sizes.partial_rotary_factor,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": sizes.rope_theta,
        "sliding_window": sizes.sliding_window,
        "speech_lora": lora(sizes.speech_rank, sizes.speech_alpha, 0.01),
        "tie_word_embeddings": sizes.tie_word_embeddings,
        "_name_or_path": "palmtop-reference",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.1",
        "use_cache": True,
        "vision_lora": lora(sizes.vision_rank, sizes.vision_alpha, 0.0),
        "vocab_size": sizes.vocab_size,
    }
    if sizes.longrope:
        short = [1.0] * (sizes.rotary_dim // 2)
        config["rope_scaling"] = {
            "type": "longrope",
            "short_factor": short,
            "long_factor": long_factors(sizes),
        }
    if sizes.head_dim * sizes.num_attention_heads != sizes.hidden_size:
        config["head_dim"] = sizes.head_dim
    return config


def _embd_layer(sizes: Sizes) -> dict[str, Any]:
    tower = {
        "feature_layer": sizes.feature_layer,
        "hidden_size": sizes.vision_hidden_size,
        "image_size": sizes.crop_size,
        "intermediate_size": sizes.vision_intermediate_size,
        "num_attention_heads": sizes.vision_heads,
        "num_hidden_layers": sizes.vision_layers,
        "patch_size": sizes.patch_size,
    }
    return {
        "audio_embd_layer": AUDIO_EMBEDDING,
        "embedding_cls": "image_audio",
        "image_embd_layer": image_embedding(sizes.crop_size, tower),
    }


def _audio_config(sizes: Sizes) -> dict[str, Any]:
    return conformer(
        hidden=sizes.audio_hidden_size,
        heads=sizes.audio_heads,
        intermediate=sizes.audio_intermediate_size,
        blocks=sizes.audio_blocks,
        conv_channels=sizes.nemo_conv_channels,
        bias_distance=sizes.bias_max_distance,
        kernel_size=sizes.kernel_size,
    )
