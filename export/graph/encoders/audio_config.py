"""Sizes and options of the audio tower, checked once; options that the graph does not support are refused."""

from __future__ import annotations

from dataclasses import dataclass

from palmtop.errors import UnsupportedModelError
from palmtop.export.graph.activation import activation


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioConfig:
    """Configuration of the audio tower, with the names of the port's audio_config.

    Attributes:
        input_size: number of mel bands.
        time_reduction: mel frames per encoder step, a power of two.
        bias_max_distance: relative positions beyond it share a bias.
        bias_symmetric: one bias for both directions.
        downsample_rate: encoder steps stacked into one feature row.
        chunk_size: -1 for attention over the whole window.
        output_size: hidden size of the text model.
    """

    input_size: int
    hidden_size: int
    intermediate_size: int
    num_blocks: int
    num_attention_heads: int
    nemo_conv_channels: int
    kernel_size: int
    depthwise_multiplier: int
    depthwise_separable_out_channel: int
    ext_pw_out_channel: int
    time_reduction: int
    bias_max_distance: int
    bias_symmetric: bool
    downsample_rate: int
    chunk_size: int
    output_size: int
    activation: str = "swish"
    conv_activation: str = "swish"
    conv_glu_type: str = "swish"
    nemo_activation: str = "relu"

    def __post_init__(self) -> None:
        if self.chunk_size != -1:
            # The reference adds its streaming mask to the scores as 0 and 1, upstream hides keys.
            raise UnsupportedModelError(f"audio_config: chunk_size is {self.chunk_size}, expected -1 (no streaming)")
        if self.time_reduction < 2 or self.time_reduction & (self.time_reduction - 1):
            raise UnsupportedModelError(
                f"audio_config: time_reduction is {self.time_reduction}, expected a power of two from 2 on"
            )
        if self.hidden_size % self.num_attention_heads:
            raise UnsupportedModelError(
                f"audio_config: hidden_size {self.hidden_size} is not a multiple of its "
                f"{self.num_attention_heads} heads"
            )
        for key in ("depthwise_separable_out_channel", "ext_pw_out_channel"):
            if (value := getattr(self, key)) != self.hidden_size:
                raise UnsupportedModelError(f"audio_config: {key} is {value}, expected hidden_size {self.hidden_size}")
        for key in (
            "input_size",
            "num_blocks",
            "nemo_conv_channels",
            "kernel_size",
            "depthwise_multiplier",
            "bias_max_distance",
            "downsample_rate",
        ):
            if (value := getattr(self, key)) < 1:
                raise UnsupportedModelError(f"audio_config: {key} is {value}, expected at least 1")
        for key in ("activation", "conv_activation", "conv_glu_type", "nemo_activation"):
            activation(getattr(self, key), f"audio_config: {key}")

    @property
    def reductions(self) -> int:
        """Number of convolutions that halve the time axis (and the mel axis)."""
        return self.time_reduction.bit_length() - 1

    @property
    def reduced_mels(self) -> int:
        """Number of mel bands after the convolutions."""
        size = self.input_size
        for _ in range(self.reductions):
            size = (size + 1) // 2
        return size

    @property
    def buckets(self) -> int:
        """Rows of the table of relative biases."""
        return self.bias_max_distance * (1 if self.bias_symmetric else 2)
