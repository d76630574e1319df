"""Convolutional subsampling of log-mel frames in the manner of NeMo: the front of the audio graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.graph.activation import activation
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.linear import FLOAT, Precisions, float_array

from .audio_config import AudioConfig
from .encoder_block import module_linear

# Up to the first pointwise convolution channels are independent, so they run in groups: the first output for a 40 s
# window of the reference model is 328 MB for all 1024 at once.
CHANNELS_AT_ONCE = 128


def subsample(
    g: GraphBuilder,
    weights: StateDict,
    config: AudioConfig,
    frames: ir.Value,
    left_context: ir.Value,
    precision: Precisions,
) -> ir.Value:
    """Subsample normalised frames to encoder steps.

    Args:
        g: the graph.
        weights: weights of the module ``encoder.embed``.
        config: sizes of the tower.
        frames: [1, T, mels] normalised frames.
        left_context: [1] int64, steps to drop at the front.
        precision: precision of the output linear; convolutions stay float32.

    Returns:
        The steps, [1, S, h], S = ceil(T / time_reduction) - left_context.
    """
    act = activation(config.nemo_activation, "audio_config: nemo_activation")
    channels, stages = config.nemo_conv_channels, weights.within("conv.")
    x = g.op("Unsqueeze", frames, g.constant([1]))  # [1, 1, T, mels]

    # In the port's Sequential a convolution and an activation come first, then three modules per halving.
    first = kernel_of(stages, 0, channels, 3)
    second = kernel_of(stages, 2, channels, 3) if config.reductions > 1 else None
    groups = []
    for start in range(0, channels, CHANNELS_AT_ONCE):
        part = slice(start, min(start + CHANNELS_AT_ONCE, channels))
        y = act(g, halve(g, f"{first.name}.{start}", x, first.of(part), 1))
        if second is not None:
            y = halve(g, f"{second.name}.{start}", y, second.of(part), part.stop - start)
        groups.append(y)
    x = groups[0] if len(groups) == 1 else g.op("Concat", *groups, axis=1)  # [1, channels, T/4, mels/4]

    for halving in range(1, config.reductions):
        if halving > 1:
            depthwise = kernel_of(stages, 3 * halving - 1, channels, 3)
            x = halve(g, depthwise.name, x, depthwise.of(slice(None)), channels)
        weight = stages.get(f"{3 * halving}.weight", channels, channels, 1, 1)
        bias = stages.get(f"{3 * halving}.bias", channels)
        mixed = g.op("Conv", x, g.weight(weight.name, float_array(weight)), g.weight(bias.name, float_array(bias)))
        x = act(g, mixed)

    by_time = g.op("Transpose", x, perm=[0, 2, 1, 3])  # [1, S, channels, mels / time_reduction]
    one = g.constant([1])
    kept = g.op("Slice", by_time, left_context, g.constant([np.iinfo(np.int64).max]), one)
    width = channels * config.reduced_mels
    flat = g.op("Reshape", kept, g.constant([0, 0, width]))
    return module_linear(g, weights, "out", flat, (config.hidden_size, width), precision)


def subsample_masked(
    g: GraphBuilder, weights: StateDict, config: AudioConfig, frames: ir.Value, mask: ir.Value, steps: int
) -> tuple[ir.Value, ir.Value]:
    """Subsample with fixed shapes and a mask [1, 1, (S + 1) * R, 1]: [1, (S + 1) * R, mels] -> [1, S, h].

    Also returns the mask of valid steps, [1, S, 1].
    """
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


class Kernel:
    """Weight and bias of a convolution with one input channel per output channel."""

    def __init__(self, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        self.name, self.weight, self.bias = name, weight, bias

    def of(self, channels: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return weight and bias of a range of channels."""
        return self.weight[channels], self.bias[channels]


def kernel_of(weights: StateDict, place: int, channels: int, size: int) -> Kernel:
    """Return the square kernel at this index of the port's Sequential."""
    weight = weights.get(f"{place}.weight", channels, 1, size, size)
    bias = weights.get(f"{place}.bias", channels)
    return Kernel(weight.name.removesuffix(".weight"), float_array(weight), float_array(bias))


def halve(
    g: GraphBuilder,
    name: str,
    x: ir.Value,
    kernel: tuple[NDArray[np.float32], NDArray[np.float32]],
    groups: int,
) -> ir.Value:
    """Add a 3x3 convolution of stride 2 that pads both axes with one zero."""
    weight, bias = g.weight(f"{name}.weight", kernel[0]), g.weight(f"{name}.bias", kernel[1])
    return g.op("Conv", x, weight, bias, strides=[2, 2], pads=[1, 1, 1, 1], group=groups)
