"""RMSNorm and LayerNorm, each together with the residual sum before it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.graph.building.builder import MICROSOFT, GraphBuilder

from .linear import float_array


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """RMSNorm over the last axis: ``x / sqrt(mean(x * x) + eps) * weight``.

    Attributes:
        name: name of its module inside the layer, or inside the model.
        size: H, size of the last axis.
        eps: number added to the mean.
    """

    name: str
    size: int
    eps: float

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its tensors beside its module."""
        return (f"{self.name}.weight",)

    def emit(
        self, g: GraphBuilder, prefix: str, weights: StateDict, x: ir.Value, skip: ir.Value | None = None
    ) -> tuple[ir.Value, ir.Value]:
        """Add the norm with onnxruntime's fused operators.

        Args:
            g: the graph.
            prefix: prefix of the name, such as "layers.0.".
            weights: weights below the prefix.
            x: [..., H] input.
            skip: residual stream that x is added to; None where x is the stream.

        Returns:
            The normalised sum, and the sum: [..., H] each.
        """
        scale, name = self._scale(g, prefix, weights), f"{prefix}{self.name}"
        if skip is None:
            fused = "SimplifiedLayerNormalization"
            return g.op(fused, x, scale, axis=-1, epsilon=self.eps, stash_type=1, name=name), x
        fused = "SkipSimplifiedLayerNormalization"
        y, _, _, total = g.ops(fused, x, skip, scale, outputs=4, domain=MICROSOFT, epsilon=self.eps, name=name)
        return y, total

    def emit_static(self, g: GraphBuilder, prefix: str, weights: StateDict, x: ir.Value) -> ir.Value:
        """Add the norm in plain operators; opset 23 has it as one, but the providers support older opsets only."""
        scale = self._scale(g, prefix, weights)
        mean = g.op("ReduceMean", g.op("Mul", x, x), g.constant([-1]), keepdims=1)
        size = g.op("Sqrt", g.op("Add", mean, g.constant(float(self.eps))))
        return g.op("Mul", g.op("Div", x, size), scale, name=f"{prefix}{self.name}")

    def _scale(self, g: GraphBuilder, prefix: str, weights: StateDict) -> ir.Value:
        return g.weight(f"{prefix}{self.name}.weight", float_array(weights.get(f"{self.name}.weight", self.size)))


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """LayerNorm over the last axis: ``(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias``.

    Attributes:
        name: name of its module inside the layer, or inside the model.
        size: H, size of the last axis.
        eps: number added to the variance.
    """

    name: str
    size: int
    eps: float

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its tensors beside its module."""
        return (f"{self.name}.weight", f"{self.name}.bias")

    def emit(
        self, g: GraphBuilder, prefix: str, weights: StateDict, x: ir.Value, skip: ir.Value | None = None
    ) -> tuple[ir.Value, ir.Value]:
        """Add the norm with onnxruntime's fused operators; see ``RmsNorm.emit``."""
        (scale, bias), name = self._weights(g, prefix, weights), f"{prefix}{self.name}"
        if skip is None:
            return g.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=self.eps, stash_type=1, name=name), x
        fused = "SkipLayerNormalization"
        y, _, _, total = g.ops(fused, x, skip, scale, bias, outputs=4, domain=MICROSOFT, epsilon=self.eps, name=name)
        return y, total

    def emit_static(self, g: GraphBuilder, prefix: str, weights: StateDict, x: ir.Value) -> ir.Value:
        """Add the norm in plain operators, for providers of older opsets."""
        scale, bias = self._weights(g, prefix, weights)
        off = g.op("Sub", x, g.op("ReduceMean", x, g.constant([-1]), keepdims=1))
        mean = g.op("ReduceMean", g.op("Mul", off, off), g.constant([-1]), keepdims=1)
        size = g.op("Sqrt", g.op("Add", mean, g.constant(float(self.eps))))
        return g.op("Add", g.op("Mul", g.op("Div", off, size), scale), bias, name=f"{prefix}{self.name}")

    def _weights(self, g: GraphBuilder, prefix: str, weights: StateDict) -> tuple[ir.Value, ir.Value]:
        scale, bias = (g.weight(f"{prefix}{each}", float_array(weights.get(each, self.size))) for each in self.tensors)
        return scale, bias


Norm = RmsNorm | LayerNorm
