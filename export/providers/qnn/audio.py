"""The audio graph of fixed shapes: one window of S steps a run, both projectors, masks for what is not there.

The blocks are ``export.graph.conformer``'s. A window that is not full, and the step of context in front that the
first window does not have, are frames under a mask: a masked value is zero wherever a convolution looks at it, as
the padding of the ordinary graph is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import Weights
from palmtop.export.graph.activation import activation
from palmtop.export.graph.audio_config import AudioConfig
from palmtop.export.graph.builder import GraphBuilder
from palmtop.export.graph.conformer import TOWER, block, normalise, project
from palmtop.export.graph.encoder_block import module_linear
from palmtop.export.graph.linear import FLOAT, float_array
from palmtop.export.graph.subsampling import halve, kernel_of

from .attention import static_attention

PROJECTORS = ("speech", "vision")
_PROJECTOR_WEIGHTS = {"speech": "speech", "vision": "vision_speech"}


def build_static_audio(g: GraphBuilder, weights: Weights, config: AudioConfig, steps: int) -> None:
    """Add the whole graph, float32.

    Inputs: ``log_mel`` [1, (S + 1) * R, mels], the first R frames context; ``frame_mask`` [1, 1, (S + 1) * R, 1], 1
    for a frame that is there; ``key_bias`` [1, 1, 1, S], 0 for a step that is seen. Outputs: ``features_speech``
    and ``features_vision`` [S / downsample_rate, H], one for each projector.

    Args:
        g: an empty graph.
        weights: seen from ``model.embed_tokens_extend.``.
        config: sizes.
        steps: S, a multiple of ``downsample_rate``.

    Raises:
        CheckpointError: a weight is missing, misshapen or not finite.
        UnsupportedModelError: an activation is not known.
    """
    frames = (steps + 1) * config.time_reduction
    mel = g.input("log_mel", ir.DataType.FLOAT, [1, frames, config.input_size])
    mask = g.input("frame_mask", ir.DataType.FLOAT, [1, 1, frames, 1])
    hidden_keys = g.input("key_bias", ir.DataType.FLOAT, [1, 1, 1, steps])
    tower, h = weights.within(TOWER), config.hidden_size
    x, there = _subsample(g, tower.within("embed."), config, normalise(g, tower, config, mel), mask, steps)
    x = g.op("Mul", x, there)
    near = g.weight(f"relative_bias.{steps}", relative_bias(tower, config, steps))

    def attend(g: GraphBuilder, weights: Weights, x: ir.Value) -> ir.Value:
        return static_attention(g, weights, x, config.num_attention_heads, steps, h, FLOAT, [near, hidden_keys])

    for index in range(config.num_blocks):
        x = block(g, tower.within(f"encoders.{index}."), config, x, attend, FLOAT)
    rows, rate = steps // config.downsample_rate, config.downsample_rate
    if rate > 1:
        x = g.op("Mul", x, there)  # zeros fill the last row
    x = g.op("Reshape", x, g.constant([rows, rate * h]))
    for name in PROJECTORS:
        projected = project(g, weights, config, _PROJECTOR_WEIGHTS[name], x, FLOAT)
        g.output(projected, f"features_{name}", ir.DataType.FLOAT, [rows, config.output_size])


def relative_bias(
    weights: Weights, config: AudioConfig, steps: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """[1, heads, S, S]: one number per head and clipped distance, as ``conformer.build_audio`` computes it."""
    name = "relative_attention_bias_layer.bias_values.weight"
    table = float_array(weights.get(name, config.buckets, config.num_attention_heads))
    places = np.arange(steps)
    distance = places[None, :] - places[:, None]  # [query, key]
    low = 0 if config.bias_symmetric else -config.bias_max_distance
    distance = np.abs(distance) if config.bias_symmetric else distance
    index = distance.clip(low, config.bias_max_distance - 1) - low
    return np.ascontiguousarray(table[index].transpose(2, 0, 1)[None])


def _subsample(
    g: GraphBuilder, weights: Weights, config: AudioConfig, frames: ir.Value, mask: ir.Value, steps: int
) -> tuple[ir.Value, ir.Value]:
    """[1, (S + 1) * R, mels] -> [1, S, h] and the steps that are there, [1, S, 1]."""
    act = activation(config.nemo_activation, "audio_config: nemo_activation")
    channels, stages, bins = config.nemo_conv_channels, weights.within("conv."), config.reduced_mels
    x = g.op("Mul", g.op("Unsqueeze", frames, g.constant([1])), mask)  # [1, 1, T, mels]
    length = (steps + 1) * config.time_reduction
    for halving in range(config.reductions):
        length //= 2
        kernel = kernel_of(stages, 3 * halving - 1 if halving else 0, channels, 3)
        x = halve(g, kernel.name, x, kernel.of(slice(None)), channels if halving else 1)
        if halving:
            weight = stages.get(f"{3 * halving}.weight", channels, channels, 1, 1)
            bias = stages.get(f"{3 * halving}.bias", channels)
            x = g.op("Conv", x, g.weight(weight.name, float_array(weight)), g.weight(bias.name, float_array(bias)))
        every_other = (g.constant([0]), g.constant([2 * length]), g.constant([2]), g.constant([2]))
        mask = g.op("Slice", mask, *every_other)  # [1, 1, T / 2, 1]
        x = g.op("Mul", act(g, x), mask)  # [1, channels, T / 2, mels / 2]
    by_time = g.op("Transpose", x, perm=[0, 2, 1, 3])
    own = (g.constant([1]), g.constant([steps + 1]), g.constant([1]))
    flat = g.op("Reshape", g.op("Slice", by_time, *own), g.constant([1, steps, channels * bins]))
    there = g.op(
        "Reshape",
        g.op("Slice", mask, g.constant([1]), g.constant([steps + 1]), g.constant([2])),
        g.constant([1, steps, 1]),
    )
    return module_linear(g, weights, "out", flat, (config.hidden_size, channels * bins), FLOAT), there
