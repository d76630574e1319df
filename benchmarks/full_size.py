"""True dimensions, tensor names and configs of Phi-4-multimodal-instruct and Phi-4-mini; no weights.

Names are upstream's (model_type ``phi4mm``: adapters inside the shards) or those of transformers'
``Phi3ForCausalLM`` for the text model alone. ``Dimensions`` scales everything down for tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.reference.upstream_config import AUDIO_EMBEDDING, conformer, image_embedding, lora

IMAGE_EMBED, AUDIO_EMBED = "model.embed_tokens_extend.image_embed.", "model.embed_tokens_extend.audio_embed."


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Every size of the checkpoint; the defaults are Phi-4-multimodal-instruct's.

    ``vision_layers`` counts the last SigLIP layer too, which the model does not use.
    """

    vocab_size: int = 200064
    hidden: int = 3072
    intermediate: int = 8192
    layers: int = 32
    heads: int = 24
    kv_heads: int = 8
    vision_rank: int = 256
    speech_rank: int = 320
    vision_hidden: int = 1152
    vision_intermediate: int = 4304
    vision_layers: int = 27
    vision_heads: int = 16
    crop: int = 448
    patch: int = 14
    audio_hidden: int = 1024
    audio_intermediate: int = 1536
    audio_blocks: int = 24
    audio_heads: int = 16
    conv_channels: int = 1024
    bias_distance: int = 500
    text_only: bool = False

    @property
    def head_size(self) -> int:
        """Columns of one attention head."""
        return self.hidden // self.heads

    @property
    def rotary_pairs(self) -> int:
        """Entries of a LongRoPE factor list: three quarters of a head rotate."""
        return self.head_size * 3 // 8


@dataclass(frozen=True, slots=True)
class Plan:
    """A tensor to write: values are normal with this mean and standard deviation."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0


def tensors(d: Dimensions) -> Iterator[Plan]:
    """Every tensor of a checkpoint, in the order in which upstream's shards hold them."""
    yield Plan("model.embed_tokens.weight", (d.vocab_size, d.hidden), 4.0 / d.hidden**0.5)
    if not d.text_only:
        yield from _vision(d)
        yield from _audio(d)
    for layer in range(d.layers):
        yield from _layer(d, f"model.layers.{layer}.")
    yield Plan("model.norm.weight", (d.hidden,), 0.1, 1.0)


def _layer(d: Dimensions, prefix: str) -> Iterator[Plan]:
    linears = {
        "self_attn.qkv_proj": ((d.heads + 2 * d.kv_heads) * d.head_size, d.hidden),
        "self_attn.o_proj": (d.hidden, d.heads * d.head_size),
        "mlp.gate_up_proj": (2 * d.intermediate, d.hidden),
        "mlp.down_proj": (d.hidden, d.intermediate),
    }
    for target, (rows, columns) in linears.items():
        if d.text_only:
            yield _linear(f"{prefix}{target}.weight", rows, columns)
            continue
        yield _linear(f"{prefix}{target}.base_layer.weight", rows, columns)
        for adapter, rank in (("vision", d.vision_rank), ("speech", d.speech_rank)):
            yield _linear(f"{prefix}{target}.lora_A.{adapter}.weight", rank, columns)
            # an adapter of about a quarter of the base's effect, alpha / r = 2 included
            yield Plan(f"{prefix}{target}.lora_B.{adapter}.weight", (rows, rank), 0.125 / rank**0.5)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield Plan(f"{prefix}{norm}.weight", (d.hidden,), 0.1, 1.0)


def _linear(name: str, rows: int, *columns: int) -> Plan:
    fan_in = 1
    for size in columns:
        fan_in *= size
    return Plan(name, (rows, *columns), fan_in**-0.5)


def _module(prefix: str, rows: int, *columns: int) -> Iterator[Plan]:
    yield _linear(f"{prefix}.weight", rows, *columns)
    yield Plan(f"{prefix}.bias", (rows,), 0.1)


def _norm(prefix: str, size: int) -> Iterator[Plan]:
    yield Plan(f"{prefix}.weight", (size,), 0.1, 1.0)
    yield Plan(f"{prefix}.bias", (size,), 0.1)


def _vision(d: Dimensions) -> Iterator[Plan]:
    h, f, tower = d.vision_hidden, d.vision_intermediate, f"{IMAGE_EMBED}img_processor."
    yield Plan(f"{IMAGE_EMBED}glb_GN", (1, 1, h), 0.3)
    yield Plan(f"{IMAGE_EMBED}sub_GN", (1, 1, 1, h), 0.3)
    yield from _module(f"{tower}embeddings.patch_embedding", h, 3, d.patch, d.patch)
    yield Plan(f"{tower}embeddings.position_embedding.weight", ((d.crop // d.patch) ** 2, h), 0.3)
    for layer in range(d.vision_layers):
        prefix = f"{tower}encoder.layers.{layer}."
        yield from _norm(f"{prefix}layer_norm1", h)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _module(f"{prefix}self_attn.{part}", h, h)
        yield from _norm(f"{prefix}layer_norm2", h)
        yield from _module(f"{prefix}mlp.fc1", f, h)
        yield from _module(f"{prefix}mlp.fc2", h, f)
    yield from _norm(f"{tower}post_layernorm", h)
    yield Plan(f"{tower}head.probe", (1, 1, h), 0.3)
    yield _linear(f"{tower}head.attention.in_proj_weight", 3 * h, h)
    yield Plan(f"{tower}head.attention.in_proj_bias", (3 * h,), 0.1)
    yield from _module(f"{tower}head.attention.out_proj", h, h)
    yield from _norm(f"{tower}head.layernorm", h)
    yield from _module(f"{tower}head.mlp.fc1", f, h)
    yield from _module(f"{tower}head.mlp.fc2", h, f)
    yield from _module(f"{IMAGE_EMBED}img_projection.0", d.hidden, h)
    yield from _module(f"{IMAGE_EMBED}img_projection.2", d.hidden, d.hidden)


def _audio(d: Dimensions) -> Iterator[Plan]:
    h, f, c, encoder = d.audio_hidden, d.audio_intermediate, d.conv_channels, f"{AUDIO_EMBED}encoder."
    yield Plan(f"{encoder}encoder_embedding.global_mean", (80,), 1.0, 15.0)
    yield Plan(f"{encoder}encoder_embedding.global_invstd", (80,), 0.02, 0.2)
    for number in (0, 2, 5):
        yield from _module(f"{encoder}embed.conv.{number}", c, 1, 3, 3)
    for number in (3, 6):
        yield from _module(f"{encoder}embed.conv.{number}", c, c, 1, 1)
    yield from _module(f"{encoder}embed.out", h, c * 10)  # 80 mels, halved three times
    yield Plan(f"{encoder}relative_attention_bias_layer.bias_values.weight", (2 * d.bias_distance, d.audio_heads), 0.3)
    for block in range(d.audio_blocks):
        prefix = f"{encoder}encoders.{block}."
        for side in ("feed_forward_in", "feed_forward_out"):
            yield from _norm(f"{prefix}{side}.layer_norm", h)
            yield from _module(f"{prefix}{side}.net.0.linear", 2 * f, h)
            yield from _module(f"{prefix}{side}.net.2", h, f)
        for part in ("linear_q", "linear_k", "linear_v", "linear_out"):
            yield from _module(f"{prefix}self_attn.{part}", h, h)
        yield from _norm(f"{prefix}conv.layer_norm", h)
        yield Plan(f"{prefix}conv.glu.b1", (1, h, 1), 0.3)
        yield Plan(f"{prefix}conv.glu.b2", (1, h, 1), 0.3)
        yield from _module(f"{prefix}conv.glu.ext_pw_conv_1d", 2 * h, h, 1)
        yield from _module(f"{prefix}conv.dw_sep_conv_1d.dw_conv", h, 1, 3)
        yield from _module(f"{prefix}conv.dw_sep_conv_1d.pw_conv", h, h, 1)
        yield from _module(f"{prefix}conv.ext_pw_conv_1d", h, h, 1)
        yield from _norm(f"{prefix}layer_norm_att", h)
        yield from _norm(f"{prefix}layer_norm", h)
    for projector in ("speech", "vision"):
        yield from _module(f"{AUDIO_EMBED}audio_projection.{projector}.0", d.hidden, h)
        yield from _module(f"{AUDIO_EMBED}audio_projection.{projector}.2", d.hidden, d.hidden)


def config(d: Dimensions, token_ids: dict[str, int]) -> dict[str, Any]:
    """config.json: model_type ``phi4mm``, or ``phi3`` for the text model alone."""
    end_of_text, pairs = token_ids["<|endoftext|>"], d.rotary_pairs
    text = {
        "architectures": ["Phi3ForCausalLM" if d.text_only else "Phi4MMForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "embd_pdrop": 0.0,
        "eos_token_id": end_of_text if d.text_only else [end_of_text, token_ids["<|end|>"]],
        "full_attn_mod": 1,
        "hidden_act": "silu",
        "hidden_size": d.hidden,
        "initializer_range": 0.02,
        "intermediate_size": d.intermediate,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "phi3" if d.text_only else "phi4mm",
        "num_attention_heads": d.heads,
        "num_hidden_layers": d.layers,
        "num_key_value_heads": d.kv_heads,
        "original_max_position_embeddings": 4096,
        "pad_token_id": end_of_text,
        "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * pairs,
            # upstream's rise geometrically as well, to about 32
            "long_factor": [round(32.0 ** (i / max(pairs - 1, 1)), 6) for i in range(pairs)],
        },
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.1",
        "use_cache": True,
        "vocab_size": d.vocab_size,
    }
    return text if d.text_only else text | _multimodal(d, token_ids)


def _multimodal(d: Dimensions, token_ids: dict[str, int]) -> dict[str, Any]:
    tower = _tower(d)
    stated = None if tower == _tower(Dimensions()) else tower  # upstream states its own nowhere
    result: dict[str, Any] = {
        "audio_processor": {"name": "cascades", "config": _conformer(d)},
        "embd_layer": {
            "audio_embd_layer": AUDIO_EMBEDDING,
            "embedding_cls": "image_audio",
            "image_embd_layer": image_embedding(d.crop, stated),
        },
        "speech_lora": lora(d.speech_rank, 2 * d.speech_rank, 0.01),
        "vision_lora": lora(d.vision_rank, 2 * d.vision_rank, 0.0),
    }
    ids = {"image_token_id": token_ids["<|endoftext10|>"], "audio_token_id": token_ids["<|endoftext11|>"]}
    return result | ({} if set(ids.values()) == {200010, 200011} else ids)  # upstream takes these for granted


def _tower(d: Dimensions) -> dict[str, Any]:
    return {
        "feature_layer": -2,
        "hidden_size": d.vision_hidden,
        "image_size": d.crop,
        "intermediate_size": d.vision_intermediate,
        "num_attention_heads": d.vision_heads,
        "num_hidden_layers": d.vision_layers,
        "patch_size": d.patch,
    }


def _conformer(d: Dimensions) -> dict[str, Any]:
    return conformer(
        hidden=d.audio_hidden,
        heads=d.audio_heads,
        intermediate=d.audio_intermediate,
        blocks=d.audio_blocks,
        conv_channels=d.conv_channels,
        bias_distance=d.bias_distance,
    )
