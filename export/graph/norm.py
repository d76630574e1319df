"""RMSNorm together with the residual sum before it."""

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
