"""Phi-4-multimodal as transformers' own port spells it: sub-configs, clean tensor names, adapters as PEFT folders.

Only the spelling differs from upstream's: the config is put into upstream's words, and the rest is ``phi4mm``'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from palmtop.export.checkpoint.config_section import Keys
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import Weights
from palmtop.export.checkpoint.peft_reader import read_adapter

from . import Model
from .phi3 import plain_rope
from .phi4mm import ADAPTERS, interpret

VISION_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "feature_layer",
    "layer_norm_eps",
    "hidden_act",
)
AUDIO_KEYS = {  # upstream's word: the port's
    "attention_dim": "hidden_size",
    "linear_units": "intermediate_size",
    "num_blocks": "num_blocks",
    "attention_heads": "num_attention_heads",
    "activation": "activation",
    "chunk_size": "chunk_size",
    "ext_pw_out_channel": "ext_pw_out_channel",
    "depthwise_seperable_out_channel": "depthwise_separable_out_channel",
    "depthwise_multiplier": "depthwise_multiplier",
    "kernel_size": "kernel_size",
    "conv_activation": "conv_activation",
    "conv_glu_type": "conv_glu_type",
    "input_size": "input_size",
    "time_reduction": "time_reduction",
}


def read_model(checkpoint: Checkpoint, context: int) -> Model:
    """Interpret a checkpoint of the transformers port with its ``vision-lora`` and ``speech-lora`` folders."""
    config = Keys(_in_upstream_words(checkpoint), "config.json")
    weights = Weights(lambda name: checkpoint.weight(name if name == "lm_head.weight" else f"model.{name}"))
    adapters = tuple(read_adapter(checkpoint.beside(f"{name}-lora"), name) for name in ADAPTERS)
    model = interpret(checkpoint, config, context, weights, adapters)
    return replace(model, architecture="phi4_multimodal")


def _in_upstream_words(checkpoint: Checkpoint) -> dict[str, Any]:
    config = Keys(checkpoint.config, "config.json")
    vision, audio = config.within("vision_config").data, config.within("audio_config").data
    defaults = {"num_blocks": 24, "attention_dim": 1024, "linear_units": 1536, "attention_heads": 16}
    return {
        **checkpoint.config,
        **plain_rope(checkpoint.config),
        "tie_word_embeddings": checkpoint.config.get("tie_word_embeddings", False),
        "image_token_id": vision.get("image_token_id"),
        "audio_token_id": audio.get("audio_token_id"),
        "embd_layer": {
            "image_embd_layer": {
                "crop_size": vision.get("crop_size", 448),
                "vision_config": {k: vision[k] for k in VISION_KEYS if k in vision},
            },
            "audio_embd_layer": {"downsample_rate": audio.get("downsample_rate", 1)},
        },
        "audio_processor": {
            "config": {
                "causal": True,
                **defaults,
                **{up: audio[port] for up, port in AUDIO_KEYS.items() if port in audio},
                "relative_attention_bias_args": {
                    "t5_bias_max_distance": audio.get("bias_max_distance", 1000),
                    "t5_bias_symmetric": audio.get("bias_symmetric", False),
                },
                "nemo_conv_settings": {"conv_channels": audio.get("nemo_conv_channels", 1024)},
            }
        },
    }
