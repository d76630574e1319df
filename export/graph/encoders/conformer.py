"""Audio graph: mean-variance norm, subsampling, conformer blocks and both projectors, one window per run.

The runtime feeds a sound longer than the window window by window. The result equals the reference, which subsamples the
whole sound first and cuts it afterwards: every window but the first brings ``time_reduction`` frames of the one before
it, whose single step is dropped (``left_context``), and the last one is padded with zero steps that take part in
attention (``window``).

Reference: transformers 5.23, models/phi4_multimodal/modeling_phi4_multimodal.py, Phi4MultimodalAudioModel and
Phi4MultimodalAudioEmbedding at batch 1. There the mask is one for every key and is added to the scores, which
softmax does not see; the graph leaves it out. ``downsample_rate`` > 1 is upstream's (the port cannot run it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict, from_array
from palmtop.export.graph.activation import activation, gelu
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import ENCODER
from palmtop.export.graph.building.source import BuildContext
from palmtop.export.graph.linear import FLOAT, Precisions, float_array, linear
from palmtop.runtime.bundle.processor_config import ProcessorSpec

from .audio_config import AudioConfig
from .encoder_block import ENCODERS, attention, layer_norm, module_linear, query_key_value, static_attention
from .subsampling import CHANNELS_AT_ONCE, subsample, subsample_masked

LAYER_NORM_EPS = 1e-5  # torch's default; no config contains it
TOWER = "audio_embed.encoder."
PROJECTORS = {"speech": "speech", "vision": "vision_speech"}  # projector by output of a graph of fixed shapes
SHORT_STEPS = 64  # seconds of sound of its smaller graph


@dataclass(frozen=True, slots=True)
class Conformer:
    """Audio encoder graph (``source.EncoderSource``).

    Attributes:
        config: sizes of the tower.
    """

    config: AudioConfig

    def bytes_per_item(self, processor: ProcessorSpec) -> int:
        """Approximate bytes of memory for one full window during a run.

        The convolutions are the peak; the reference model's process grows by 170 to 290 MB for 500 steps
        (onnxruntime 1.31, x86-64), and this gives 256 MB.
        """
        assert processor.audio is not None  # the model has this encoder
        config, window_steps = self.config, processor.audio.window_steps
        frames, halved = window_steps * config.time_reduction, 4 if config.reductions > 1 else 2
        channel = 4 * (frames // halved) * -(-config.input_size // halved)
        convolutions = 2 * config.nemo_conv_channels * channel + CHANNELS_AT_ONCE * frames * config.input_size
        blocks = 4 * window_steps * (6 * config.intermediate_size + 16 * config.hidden_size)
        return convolutions + blocks

    def build(self, g: GraphBuilder, context: BuildContext) -> None:
        """Add the whole audio graph.

        Inputs: ``log_mel`` float32 [1, T, mels]; ``left_context`` int64 [1], steps to drop at the front, 0 or 1;
            ``window`` int64 [1], number of steps to pad to with zeros, 0 for none; ``projector`` int64 [1], 0 for the
            one trained with speech alone, 1 for the one trained with images.
        Output: ``audio_features`` float32 [rows, H], rows = ceil((ceil(T / R) - left_context) / downsample_rate).

        Args:
            g: an empty graph.
            context: its precision applies to the linear layers; convolutions, norms and the relative bias stay float32.

        Raises:
            CheckpointError: a weight is missing, misshapen or not finite.
            UnsupportedModelError: an activation is not known.
        """
        config, precision, weights = self.config, context.precision.linears, context.weights.within(ENCODERS)
        mel = g.input("log_mel", ir.DataType.FLOAT, [1, "T", config.input_size])
        left_context = g.input("left_context", ir.DataType.INT64, [1])
        window = g.input("window", ir.DataType.INT64, [1])
        projector = g.input("projector", ir.DataType.INT64, [1])
        tower = weights.within(TOWER)

        x = subsample(g, tower.within("embed."), config, normalise(g, tower, config, mel), left_context, precision)
        steps = g.op("Shape", x, start=1, end=2)  # [1]
        x = _fill_up(g, x, g.op("Max", window, steps), steps)
        bias = _relative_bias(g, tower, config, g.op("Max", window, steps))

        def attend(g: GraphBuilder, weights: StateDict, x: ir.Value) -> ir.Value:
            q, k, v = query_key_value(g, weights, x, config.hidden_size, precision)
            return attention(g, q, k, v, config.num_attention_heads, bias=bias)

        for index in range(config.num_blocks):
            x = block(g, tower.within(f"encoders.{index}."), config, x, attend, precision)
        x = g.op("Slice", x, g.constant([0]), steps, g.constant([1]))  # [1, S, h]

        rows = _stack(g, config, x, steps)  # [rows, downsample_rate * h]
        chosen = g.op(
            "If",
            g.op("Cast", g.op("Squeeze", projector), to=int(ir.DataType.BOOL)),
            then_branch=g.branch(
                "beside_images", lambda b: project(b, weights, config, "vision_speech", rows, precision)
            ),
            else_branch=g.branch("alone", lambda b: project(b, weights, config, "speech", rows, precision)),
        )
        g.output(chosen, "audio_features", ir.DataType.FLOAT, ["rows", config.output_size])

    def static_lengths(self, name: str, processor: ProcessorSpec) -> dict[str, int]:
        """Return the lengths of a full window, and of a short one for a few seconds of sound."""
        assert processor.audio is not None  # the model has this encoder
        window, short = processor.audio.window_steps, SHORT_STEPS - SHORT_STEPS % self.config.downsample_rate
        return ({f"{name}.{short}": short} if short < window else {}) | {name: window}

    def build_static(self, g: GraphBuilder, weights: StateDict, length: int) -> None:
        """Add the graph of fixed shapes, float32: one window of S steps a run, both projectors.

        Padding of an incomplete window, and the step of context that the first window lacks, are frames under a mask: a
        masked value is zero wherever a convolution reads it, like the padding of the other graph.

        Inputs: ``log_mel`` [1, (S + 1) * R, mels], the first R frames context; ``frame_mask`` [1, 1, (S + 1) * R, 1], 1
            for a valid frame; ``key_bias`` [1, 1, 1, S], 0 for a valid step. Outputs: ``features_speech`` and
            ``features_vision`` [S / downsample_rate, H], one for each projector.

        Args:
            g: an empty graph.
            weights: weights of the whole model.
            length: S, a multiple of ``downsample_rate``.

        Raises:
            CheckpointError: a weight is missing, misshapen or not finite.
            UnsupportedModelError: an activation is not known.
        """
        config, steps, weights = self.config, length, weights.within(ENCODERS)
        frames = (steps + 1) * config.time_reduction
        mel = g.input("log_mel", ir.DataType.FLOAT, [1, frames, config.input_size])
        mask = g.input("frame_mask", ir.DataType.FLOAT, [1, 1, frames, 1])
        hidden_keys = g.input("key_bias", ir.DataType.FLOAT, [1, 1, 1, steps])
        tower, h = weights.within(TOWER), config.hidden_size
        x, there = subsample_masked(g, tower.within("embed."), config, normalise(g, tower, config, mel), mask, steps)
        x = g.op("Mul", x, there)
        near = g.weight(f"relative_bias.{steps}", _relative_biases(tower, config, steps))

        def attend(g: GraphBuilder, weights: StateDict, x: ir.Value) -> ir.Value:
            return static_attention(g, weights, x, config.num_attention_heads, steps, h, [near, hidden_keys])

        for index in range(config.num_blocks):
            x = block(g, tower.within(f"encoders.{index}."), config, x, attend, FLOAT)
        rows, rate = steps // config.downsample_rate, config.downsample_rate
        if rate > 1:
            x = g.op("Mul", x, there)  # zeros fill the last row
        x = g.op("Reshape", x, g.constant([rows, rate * h]))
        for name in PROJECTORS:
            projected = project(g, weights, config, PROJECTORS[name], x, FLOAT)
            g.output(projected, f"features_{name}", ir.DataType.FLOAT, [rows, config.output_size])


def normalise(g: GraphBuilder, weights: StateDict, config: AudioConfig, mel: ir.Value) -> ir.Value:
    """Subtract mean and variance of the training data from frames [1, T, mels]."""
    mean = weights.get("encoder_embedding.global_mean", config.input_size)
    inverse = weights.get("encoder_embedding.global_invstd", config.input_size)
    centred = g.op("Sub", mel, g.weight(mean.name, float_array(mean)))
    return g.op("Mul", centred, g.weight(inverse.name, float_array(inverse)))


def _fill_up(g: GraphBuilder, x: ir.Value, length: ir.Value, steps: ir.Value) -> ir.Value:
    """Pad [1, S, h] -> [1, length, h] with zeros at the end."""
    end = g.op("Concat", g.constant([0, 0, 0, 0]), g.op("Sub", length, steps), g.constant([0]), axis=0)
    return g.op("Pad", x, end)


def _relative_bias(g: GraphBuilder, weights: StateDict, config: AudioConfig, length: ir.Value) -> ir.Value:
    """Relative bias [1, heads, length, length]: one number per head and clipped distance."""
    table = weights.get("relative_attention_bias_layer.bias_values.weight", config.buckets, config.num_attention_heads)
    by_head = g.weight(table.name, np.ascontiguousarray(float_array(table).T))  # [heads, buckets]
    zero, one = g.constant(np.array(0, np.int64)), g.constant(np.array(1, np.int64))
    places = g.op("Range", zero, g.op("Squeeze", length), one)
    distance = g.op(
        "Sub", g.op("Unsqueeze", places, g.constant([0])), g.op("Unsqueeze", places, g.constant([1]))
    )  # [query, key]
    if config.bias_symmetric:
        # The reference reads past its table from max_distance on; here the last entry is repeated.
        distance, low = g.op("Abs", distance), 0
    else:
        low = -config.bias_max_distance
    high = config.bias_max_distance - 1
    clipped = g.op("Clip", distance, g.constant(np.array(low, np.int64)), g.constant(np.array(high, np.int64)))
    index = g.op("Sub", clipped, g.constant(np.array(low, np.int64)))
    return g.op("Unsqueeze", g.op("Gather", by_head, index, axis=1), g.constant([0]))


def _relative_biases(
    weights: StateDict, config: AudioConfig, steps: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Relative bias [1, heads, S, S] as a constant, with the values of ``_relative_bias``."""
    name = "relative_attention_bias_layer.bias_values.weight"
    table = float_array(weights.get(name, config.buckets, config.num_attention_heads))
    places = np.arange(steps)
    distance = places[None, :] - places[:, None]  # [query, key]
    low = 0 if config.bias_symmetric else -config.bias_max_distance
    distance = np.abs(distance) if config.bias_symmetric else distance
    index = distance.clip(low, config.bias_max_distance - 1) - low
    return np.ascontiguousarray(table[index].transpose(2, 0, 1)[None])


def block(
    g: GraphBuilder,
    weights: StateDict,
    config: AudioConfig,
    x: ir.Value,
    attend: Callable[[GraphBuilder, StateDict, ir.Value], ir.Value],
    precision: Precisions,
) -> ir.Value:
    """Add one conformer block, [1, S, h] -> [1, S, h].

    Args:
        g: the graph.
        weights: weights of the block.
        config: sizes of the tower.
        x: hidden states.
        attend: attention on normalised states, given the weights of its module.
        precision: precision of the linear layers.
    """
    h = config.hidden_size
    x = g.op("Add", x, _half_feed_forward(g, weights.within("feed_forward_in."), config, x, precision))
    normed = layer_norm(g, weights, "layer_norm_att", x, h, LAYER_NORM_EPS)
    mixed = attend(g, weights.within("self_attn."), normed)
    x = g.op("Add", x, module_linear(g, weights, "self_attn.o_proj", mixed, (h, h), precision))
    x = g.op("Add", x, _convolution(g, weights.within("conv."), config, x, precision))
    x = g.op("Add", x, _half_feed_forward(g, weights.within("feed_forward_out."), config, x, precision))
    return layer_norm(g, weights, "layer_norm", x, h, LAYER_NORM_EPS)


def _half_feed_forward(
    g: GraphBuilder, weights: StateDict, config: AudioConfig, x: ir.Value, precision: Precisions
) -> ir.Value:
    h, f = config.hidden_size, config.intermediate_size
    x = layer_norm(g, weights, "layer_norm", x, h, LAYER_NORM_EPS)
    both = module_linear(g, weights, "gate_up_proj", x, (2 * f, h), precision)
    up, gate = g.ops("Split", both, outputs=2, axis=-1, num_outputs=2)
    act = activation(config.activation, "audio_config: activation")
    gated = g.op("Mul", up, act(g, gate))
    return module_linear(g, weights, "down_proj", gated, (h, f), precision, factor=0.5)


def _convolution(
    g: GraphBuilder, weights: StateDict, config: AudioConfig, x: ir.Value, precision: Precisions
) -> ir.Value:
    """Convolution module, causal: a step depends on itself and ``kernel_size - 1`` steps before it."""
    h, wide = config.hidden_size, config.hidden_size * config.depthwise_multiplier
    x = layer_norm(g, weights, "layer_norm", x, h, LAYER_NORM_EPS)
    x = _gated(g, weights.within("glu."), config, x, precision)
    kernel = weights.get("dw_sep_conv_1d.dw_conv.weight", wide, 1, config.kernel_size)
    bias = weights.get("dw_sep_conv_1d.dw_conv.bias", wide)
    x = g.op(
        "Conv",
        g.op("Transpose", x, perm=[0, 2, 1]),
        g.weight(kernel.name, float_array(kernel)),
        g.weight(bias.name, float_array(bias)),
        pads=[config.kernel_size - 1, 0],
        group=h,
    )
    x = g.op("Transpose", x, perm=[0, 2, 1])
    x = _pointwise(g, weights, "dw_sep_conv_1d.pw_conv", x, h, wide, precision)
    x = activation(config.conv_activation, "audio_config: conv_activation")(g, x)
    return _pointwise(g, weights, "ext_pw_conv_1d", x, h, h, precision)


def _gated(g: GraphBuilder, weights: StateDict, config: AudioConfig, x: ir.Value, precision: Precisions) -> ir.Value:
    """Pointwise convolution to twice the channels; the second half gates the first."""
    h = config.hidden_size
    # b1 and b2 shift the two halves after the convolution, so they are added to its bias.
    shifts = np.concatenate([float_array(weights.get(name, 1, h, 1)).ravel() for name in ("b1", "b2")])
    both = _pointwise(g, weights, "ext_pw_conv_1d", x, 2 * h, h, precision, shifts)
    value, gate = g.ops("Split", both, outputs=2, axis=-1, num_outputs=2)
    return g.op("Mul", value, activation(config.conv_glu_type, "audio_config: conv_glu_type")(g, gate))


def _pointwise(
    g: GraphBuilder,
    weights: StateDict,
    name: str,
    x: ir.Value,
    outputs: int,
    inputs: int,
    precision: Precisions,
    shifts: np.ndarray[tuple[int], np.dtype[np.float32]] | None = None,
) -> ir.Value:
    """Convolution of kernel size 1 as a linear layer: [1, S, inputs] -> [1, S, outputs]."""
    kernel = weights.get(f"{name}.weight", outputs, inputs, 1)
    bias = weights.get(f"{name}.bias", outputs)
    matrix = LazyTensor(kernel.name, (outputs, inputs), lambda a, b: kernel.rows(a, b).reshape(b - a, inputs))
    if shifts is not None:
        bias = from_array(bias.name, float_array(bias) + shifts)
    return linear(g, kernel.name.removesuffix(".weight"), x, matrix, precision, ENCODER, bias)


def _stack(g: GraphBuilder, config: AudioConfig, x: ir.Value, steps: ir.Value) -> ir.Value:
    """Stack neighbouring steps: [1, S, h] -> [rows, rate * h], the last row padded with zeros."""
    rate = config.downsample_rate
    if rate > 1:
        missing = g.op("Mod", g.op("Neg", steps), g.constant([rate]))
        x = _fill_up(g, x, g.op("Add", steps, missing), steps)
    return g.op("Reshape", x, g.constant([-1, rate * config.hidden_size]))


def project(
    g: GraphBuilder, weights: StateDict, config: AudioConfig, name: str, rows: ir.Value, precision: Precisions
) -> ir.Value:
    """Apply one of the two projectors: [rows, K] -> [rows, H]."""
    wide, k = config.output_size, config.hidden_size * config.downsample_rate
    up = module_linear(g, weights, f"audio_embed.up_proj_for_{name}", rows, (wide, k), precision)
    return module_linear(g, weights, f"audio_embed.down_proj_for_{name}", gelu(g, up), (wide, wide), precision)
