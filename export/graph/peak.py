"""How many bytes of activations an encoder pass needs at its peak: an input of the runtime's memory plan.

Estimates from shapes: the largest layer's inputs and outputs that are alive together, in float32.
"""

from __future__ import annotations

from .audio_config import AudioConfig
from .siglip import VisionConfig

FLOAT = 4


def vision_peak_bytes(config: VisionConfig) -> int:
    """Of one tile: attention scores before and after softmax, or the MLP's two widths."""
    patches = config.patches**2
    scores = 2 * config.num_attention_heads * patches * patches
    mlp = patches * 2 * config.intermediate_size
    stream = 6 * patches * config.hidden_size
    pixels = 3 * config.image_size**2
    return FLOAT * (max(scores, mlp) + stream + pixels)


def audio_peak_bytes(config: AudioConfig, window_steps: int) -> int:
    """Of one window: the first convolution's maps, the attention scores, or the feed-forward."""
    frames = window_steps * config.time_reduction
    convolution = 2 * config.nemo_conv_channels * (frames // 2) * (config.input_size // 2)
    scores = 3 * config.num_attention_heads * window_steps * window_steps
    mlp = window_steps * 3 * config.intermediate_size
    return FLOAT * (max(convolution, scores, mlp) + 6 * window_steps * config.hidden_size)
