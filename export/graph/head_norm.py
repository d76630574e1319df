"""RMSNorm of each head's query or key, with one weight for all heads, on heads that may be stored padded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.graph.building.builder import GraphBuilder

from .linear import float_array


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RMSNorm over a head: ``x / sqrt(mean(x * x) + eps) * weight``.

    The zeros of a padded head make the mean smaller by size / padded: a factor of the weight and of eps undoes that.

    Attributes:
        name: name of its module inside the attention.
        size: D of the checkpoint.
        padded: D of the graph.
        eps: number added to the mean.
    """

    name: str
    size: int
    padded: int
    eps: float

    def emit(self, g: GraphBuilder, prefix: str, weights: StateDict, x: ir.Value) -> ir.Value:
        """Add the norm with onnxruntime's fused operator, [..., D] -> [..., D]."""
        scale, name = g.weight(f"{prefix}{self.name}.weight", self._scale(weights)), f"{prefix}{self.name}"
        fused = "SimplifiedLayerNormalization"
        return g.op(fused, x, scale, axis=-1, epsilon=self._eps, stash_type=1, name=name)

    def emit_static(self, g: GraphBuilder, prefix: str, weights: StateDict, x: ir.Value) -> ir.Value:
        """Add the norm in plain operators, [..., D] -> [..., D]."""
        mean = g.op("ReduceMean", g.op("Mul", x, x), g.constant([-1]), keepdims=1)
        root = g.op("Sqrt", g.op("Add", mean, g.constant(float(self._eps))))
        scale = g.weight(f"{prefix}{self.name}.weight", self._scale(weights))
        return g.op("Mul", g.op("Div", x, root), scale, name=f"{prefix}{self.name}")

    @property
    def _eps(self) -> float:
        return self.eps * self.size / self.padded

    def _scale(self, weights: StateDict) -> NDArray[np.float32]:
        weight = float_array(weights.get(f"{self.name}.weight", self.size))
        if self.padded == self.size:
            return weight
        scale = np.zeros(self.padded, np.float32)
        scale[: self.size] = weight * np.float32(math.sqrt(self.size / self.padded))
        return scale
