"""The parts of upstream's config.json that do not depend on who trained the model, given its sizes. Plain data."""

from __future__ import annotations

from typing import Any

LORA_LAYERS = r"((layers.*self_attn\.(qkv|o)_proj)|(layers.*mlp\.(gate_up|down)_proj))"
AUDIO_EMBEDDING: dict[str, Any] = {
    "compression_rate": 8,
    "downsample_rate": 1,
    "embedding_cls": "audio",
    "enable_gradient_checkpointing": True,
    "projection_cls": "mlp",
    "use_conv_downsample": False,
    "use_qformer": False,
}


def lora(rank: int, alpha: int, dropout: float) -> dict[str, Any]:
    """``speech_lora`` or ``vision_lora``."""
    return {"dp": dropout, "layer": LORA_LAYERS, "lora_alpha": alpha, "r": rank}


def image_embedding(crop_size: int, tower: dict[str, Any] | None) -> dict[str, Any]:
    """``image_embd_layer``; upstream states no tower, a model with another one must."""
    found: dict[str, Any] = {
        "crop_size": crop_size,
        "embedding_cls": "tune_image",
        "enable_gradient_checkpointing": True,
        "hd_transform_order": "sub_glb",
        "image_token_compression_cls": "avg_pool_2d",
        "projection_cls": "mlp",
        "use_hd_transform": True,
        "with_learnable_separator": True,
    }
    return found if tower is None else found | {"vision_config": tower}


def conformer(
    *,
    hidden: int,
    heads: int,
    intermediate: int,
    blocks: int,
    conv_channels: int,
    bias_distance: int,
    kernel_size: int = 3,
) -> dict[str, Any]:
    """``audio_processor.config``; the kernel's default is upstream's."""
    return {
        "activation": "swish",
        "activation_checkpointing": {"interval": 1, "module": "transformer", "offload": False},
        "attention_dim": hidden,
        "attention_heads": heads,
        "batch_norm": False,
        "bias_in_glu": True,
        "causal": True,
        "chunk_size": -1,
        "cnn_layer_norm": True,
        "conv_activation": "swish",
        "conv_glu_type": "swish",
        "depthwise_multiplier": 1,
        "depthwise_seperable_out_channel": hidden,
        "dropout_rate": 0.0,
        "encoder_embedding_config": {"input_size": 80},
        "ext_pw_kernel_size": 1,
        "ext_pw_out_channel": hidden,
        "input_layer": "nemo_conv",
        "input_size": 80,
        "kernel_size": kernel_size,
        "left_chunk": 18,
        "linear_units": intermediate,
        "nemo_conv_settings": {"conv_channels": conv_channels},
        "num_blocks": blocks,
        "relative_attention_bias_args": {"t5_bias_max_distance": bias_distance, "type": "t5"},
        "time_reduction": 8,
    }
