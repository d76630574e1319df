"""Sizes of the vision tower, checked once; values that the graph does not support are refused."""

from __future__ import annotations

from dataclasses import dataclass

from palmtop.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """Sizes of the tower, with the names of the checkpoint's vision_config.

    Attributes:
        image_size: side of a tile in pixels.
        feature_layer: index into [embeddings, output of layer 0, of layer 1, ...]; -2 leaves out the last layer.
        output_size: hidden size of the text model.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    feature_layer: int
    layer_norm_eps: float
    output_size: int
    hidden_act: str = "gelu_pytorch_tanh"

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise UnsupportedModelError(
                f"vision_config: hidden_size {self.hidden_size} is not a multiple of its "
                f"{self.num_attention_heads} heads"
            )
        if not -self.num_hidden_layers - 1 <= self.feature_layer <= self.num_hidden_layers:
            raise UnsupportedModelError(
                f"vision_config: feature_layer is {self.feature_layer}, expected one of {self.num_hidden_layers} layers"
            )
        if self.patches < 2:
            raise UnsupportedModelError(
                f"vision_config: image_size {self.image_size} has {self.patches} patches of {self.patch_size}"
                f", expected at least 2"
            )

    @property
    def patches(self) -> int:
        """Number of patches along one side of a tile."""
        return self.image_size // self.patch_size

    @property
    def pooled(self) -> int:
        """Number of feature rows along one side of a tile."""
        return (self.patches + 1) // 2

    @property
    def layers_run(self) -> int:
        """Number of layers that the features depend on."""
        return self.feature_layer + (self.num_hidden_layers + 1 if self.feature_layer < 0 else 0)
