"""Perspective resampler: a fixed number of trained queries attend to the patches of a view, whatever their number.

Positions are sines and cosines of the column and of the row of a patch, added to the keys alone.

Source: resampler.py beside the checkpoints of MiniCPM-V 2.6, 4.0 and 4.5 (Resampler, get_2d_sincos_pos_embed).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.errors import UnsupportedModelError
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict, from_array
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import ENCODER
from palmtop.export.graph.linear import Precisions, float_array, linear

from .encoder_block import attention, layer_norm, module_linear

HEAD_SIZE = 128
EPS = 1e-6
LONGEST_WAVE = 10000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampler:
    """Cross-attention from trained queries to the patches of a view.

    Attributes:
        queries: Q, number of queries.
        input_size: h, width of the vision tower.
        output_size: D, width of the text model.
        head_size: width of a head.
    """

    queries: int
    input_size: int
    output_size: int
    head_size: int = HEAD_SIZE

    def __post_init__(self) -> None:
        if self.output_size % self.head_size or self.output_size % 4:
            raise UnsupportedModelError(
                f"config.json: hidden_size is {self.output_size}, expected a multiple of {self.head_size}, the width of"
                " a head of the resampler"
            )

    @property
    def names(self) -> set[str]:
        """Names of the tensors that are read, below the resampler's prefix."""
        parts = {f"{norm}.{kind}" for norm in ("ln_q", "ln_kv", "ln_post") for kind in ("weight", "bias")}
        parts |= {f"attn.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")}
        return parts | {"query", "kv_proj.weight", "proj"}

    def emit(
        self,
        g: GraphBuilder,
        weights: StateDict,
        patches: ir.Value,
        grid: tuple[ir.Value, ir.Value],
        precision: Precisions,
    ) -> ir.Value:
        """Add the resampler, [N, P, h] -> [N, Q, D].

        Args:
            g: the graph.
            weights: weights below the resampler's prefix.
            patches: output of the vision tower, patches in rows.
            grid: int64 scalars, number of rows and of columns of patches.
            precision: precision of the linear layers.
        """
        d, h = self.output_size, self.input_size
        kv = weights.get("kv_proj.weight", d, h)
        name = kv.name.removesuffix(".weight")
        rows = layer_norm(g, weights, "ln_kv", linear(g, name, patches, kv, precision, ENCODER), d, EPS)
        placed = g.op("Add", rows, self._positions(g, *grid))
        key = self._third(g, weights, "k", placed, precision)
        value = self._third(g, weights, "v", rows, precision)
        mixed = attention(g, self._queries(g, weights, patches), key, value, d // self.head_size)
        out = layer_norm(
            g, weights, "ln_post", module_linear(g, weights, "attn.out_proj", mixed, (d, d), precision), d, EPS
        )
        return linear(
            g, f"{name.removesuffix('kv_proj')}proj", out, _turned(weights.get("proj", d, d)), precision, ENCODER
        )

    def _third(self, g: GraphBuilder, weights: StateDict, part: str, x: ir.Value, precision: Precisions) -> ir.Value:
        """Add one of the three projections that the checkpoint has stacked."""
        weight, bias = self._thirds(weights, part)
        return linear(g, weight.name, x, weight, precision, ENCODER, bias)

    def _thirds(self, weights: StateDict, part: str) -> tuple[LazyTensor, LazyTensor]:
        d, first = self.output_size, "qkv".index(part) * self.output_size
        stacked = weights.get("attn.in_proj_weight", 3 * d, d), weights.get("attn.in_proj_bias", 3 * d)
        order = np.arange(first, first + d)
        name = stacked[0].name.replace("in_proj_weight", f"{part}_proj")
        weight, bias = (tensor.permuted_rows(order) for tensor in stacked)
        return LazyTensor(name, weight.shape, weight.rows), LazyTensor(f"{name}.bias", bias.shape, bias.rows)

    def _queries(self, g: GraphBuilder, weights: StateDict, patches: ir.Value) -> ir.Value:
        """Queries of a batch, [N, Q, D]: they depend on no picture, so norm and projection are computed here."""
        query = float_array(weights.get("query", self.queries, self.output_size)).astype(np.float64)
        scale, shift = (float_array(weights.get(f"ln_q.{kind}", self.output_size)) for kind in ("weight", "bias"))
        centred = query - query.mean(axis=1, keepdims=True)
        normed = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + EPS) * scale + shift
        weight, bias = (float_array(tensor).astype(np.float64) for tensor in self._thirds(weights, "q"))
        name = weights.get("query", self.queries, self.output_size).name
        projected = g.weight(f"{name}.projected", (normed @ weight.T + bias).astype(np.float32)[None])
        count = g.op("Shape", patches, start=0, end=1)
        return g.op("Expand", projected, g.op("Concat", count, g.constant([1, 1]), axis=0))

    def _positions(self, g: GraphBuilder, rows: ir.Value, columns: ir.Value) -> ir.Value:
        """Positions of the patches, [rows * columns, D]: first the column's sines and cosines, then the row's."""
        waves = g.weight("resampler_waves", wave_numbers(self.output_size))
        down, across = (self._waves(g, count, waves) for count in (rows, columns))
        one, half = g.constant([1]), g.constant([self.output_size // 2])
        shape = g.op("Concat", *(g.op("Reshape", count, one) for count in (rows, columns)), half, axis=0)
        of_column = g.op("Expand", g.op("Unsqueeze", across, g.constant([0])), shape)
        of_row = g.op("Expand", g.op("Unsqueeze", down, one), shape)
        both = g.op("Concat", of_column, of_row, axis=-1)  # [rows, columns, D]
        return g.op("Reshape", both, g.constant([-1, self.output_size]))

    @staticmethod
    def _waves(g: GraphBuilder, count: ir.Value, waves: ir.Value) -> ir.Value:
        """Sines, then cosines, of the places along a side: [count, D / 2]."""
        zero, one = (g.constant(np.array(n, np.int64)) for n in (0, 1))
        places = g.op("Cast", g.op("Range", zero, count, one), to=int(ir.DataType.FLOAT))
        angles = g.op("Mul", g.op("Unsqueeze", places, g.constant([1])), waves)
        return g.op("Concat", g.op("Sin", angles), g.op("Cos", angles), axis=-1)


def wave_numbers(width: int) -> NDArray[np.float32]:
    """Return the angles per patch, [width / 4]."""
    quarter = width // 4
    return (1.0 / LONGEST_WAVE ** (np.arange(quarter, dtype=np.float32) / quarter)).astype(np.float32)


def _turned(weight: LazyTensor) -> LazyTensor:
    """A matrix that the checkpoint multiplies from the other side, in the layout of a linear layer."""
    return from_array(weight.name, np.ascontiguousarray(float_array(weight).T))
