"""Phi-4-multimodal in the spelling of transformers' port: sub-configs, other tensor names, adapters as PEFT folders.

Only the spelling differs from upstream's: the config is translated to upstream's keys, and ``phi4mm`` does the rest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.peft_reader import read_adapter
from palmtop.export.reading.modalities import Modalities
from palmtop.export.reading.settings import check_values, refuse_unread
from palmtop.export.reading.tensors import HEAD

from . import About, Model
from .phi4mm import ADAPTERS, interpret

ABOUT = About(
    models="Phi-4-multimodal-instruct as transformers saves it, its adapters in folders",
    sources="transformers folder",
    tested="the packaged reference model; random weights",
    refused=("other towers than SigLIP and the conformer",),
)
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
    "num_channels",
)
AUDIO_KEYS = {  # upstream's key: the port's
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


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of the transformers port with its ``vision-lora`` and ``speech-lora`` folders."""
    port = ConfigSection(checkpoint.config, "config.json")
    there = Modalities.of(checkpoint, [name for name in ADAPTERS if checkpoint.has_beside(f"{name}-lora")])
    adapters = tuple(read_adapter(checkpoint.beside(f"{name}-lora"), name) for name in there.adapters)
    config = ConfigSection(_in_upstream_words(port, there), "config.json")
    model = interpret(checkpoint, config, adapters, there, spelled=_port_name)
    for key, has in (("vision_config", there.has_vision), ("audio_config", there.has_audio)):
        section = port.optional(key)
        if section is not None and has:
            refuse_unread(section)
    return replace(model, architecture="phi4_multimodal")


def _port_name(name: str) -> str:
    return name if name == HEAD else f"model.{name}"


def _in_upstream_words(port: ConfigSection, there: Modalities) -> dict[str, Any]:
    """Config in upstream's keys, with the sub-configs of existing encoders in upstream's places."""
    words = {key: value for key, value in port.data.items() if key not in ("vision_config", "audio_config")}
    words["tie_word_embeddings"] = port.flag("tie_word_embeddings", default=False)
    words["embd_layer"] = {}
    if there.has_vision:
        vision = port.within("vision_config")
        words["image_token_id"] = vision.raw("image_token_id")
        crop_size = vision.size("crop_size", default=448)
        tower = {key: vision.raw(key) for key in VISION_KEYS if key in vision.data}
        if tower.setdefault("image_size", crop_size) != crop_size:
            raise CheckpointError(
                f"{vision.where}: crop_size is {crop_size}, expected image_size, which is {tower['image_size']}"
            )
        words["embd_layer"]["image_embd_layer"] = {"vision_config": tower}
    if there.has_audio:
        audio = port.within("audio_config")
        words["audio_token_id"] = audio.raw("audio_token_id")
        words["embd_layer"]["audio_embd_layer"] = {"downsample_rate": audio.size("downsample_rate", default=1)}
        words["audio_processor"] = {"config": _conformer(audio)}
    return words


def _conformer(audio: ConfigSection) -> dict[str, Any]:
    check_values(audio, {("nemo_activation",): ("relu",)})
    for key in ("nemo_final_size", "feature_layer", "left_chunk"):
        audio.raw(key)  # derived, unused, and for streaming
    return {
        "causal": True,
        "num_blocks": 24,
        "attention_dim": 1024,
        "linear_units": 1536,
        "attention_heads": 16,
        **{up: audio.raw(key) for up, key in AUDIO_KEYS.items() if key in audio.data},
        "relative_attention_bias_args": {
            "t5_bias_max_distance": audio.size("bias_max_distance", default=1000),
            "t5_bias_symmetric": audio.flag("bias_symmetric", default=False),
        },
        "nemo_conv_settings": {"conv_channels": audio.size("nemo_conv_channels", default=1024)},
    }
