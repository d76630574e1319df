"""Rotary position tables, plain and LongRoPE, and rotation in plain operators for sizes without a fused kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.graph.building.builder import GraphBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary embedding of a decoder.

    Attributes:
        theta: base of the wavelengths.
        rotary_size: leading dimensions of a head that rotate (partial rotary), even.
        short_factor: [rotary_size / 2] divisors of the frequencies, with LongRoPE up to ``original_context`` tokens;
            None without scaling.
        long_factor: [rotary_size / 2] divisors beyond ``original_context``.
        original_context: length in tokens at which the factors change; None without LongRoPE.
        attention_factor: factor of cos and sin.
    """

    theta: float
    rotary_size: int
    short_factor: tuple[float, ...] | None
    long_factor: tuple[float, ...] | None
    original_context: int | None
    attention_factor: float


def longrope_attention_factor(max_context: float, original_context: int) -> float:
    """Return LongRoPE's factor of cos and sin for a config without one.

    Source: transformers, modeling_rope_utils._compute_longrope_parameters.
    """
    factor = max_context / original_context
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_context))


def wavelengths(config: RopeConfig, factors: tuple[float, ...] | None) -> NDArray[np.float32]:
    """Return the wavelengths, [rotary_size / 2] float32, in the reference's order of float32 operations."""
    steps = np.arange(0, config.rotary_size, 2, dtype=np.float32) / np.float32(config.rotary_size)
    lengths: NDArray[np.float32] = np.power(np.float32(config.theta), steps)
    return lengths if factors is None else np.array(factors, np.float32) * lengths


def add_rope_tables(
    g: GraphBuilder, config: RopeConfig, context: int, rope_long: ir.Value | None
) -> tuple[ir.Value, ir.Value]:
    """Add cos and sin as graph values; with LongRoPE ``rope_long`` [1] bool chooses the factors.

    The choice does not follow from the length: a sequence keeps one set of factors for all its keys, and the runtime
    chooses it.
    """
    if rope_long is None:
        cos, sin = (_table(g, config, config.short_factor, context, function) for function in ("Cos", "Sin"))
        return cos, sin
    condition = g.op("Squeeze", rope_long, name="rope/is_long")
    short_rows = min(context, config.original_context or context)

    def chosen(function: str) -> ir.Value:
        return g.op(
            "If",
            condition,
            name=f"rope/{function}",
            then_branch=g.branch(
                f"rope/{function}/long", lambda b: _table(b, config, config.long_factor, context, function)
            ),
            else_branch=g.branch(
                f"rope/{function}/short",
                lambda b: _table(b, config, config.short_factor, short_rows, function),
            ),
        )

    return chosen("Cos"), chosen("Sin")


def _table(
    g: GraphBuilder, config: RopeConfig, factors: tuple[float, ...] | None, rows: int, function: str
) -> ir.Value:
    """Table [rows, rotary_size / 2] float32, from constants alone: onnxruntime folds it once at loading.

    Stored, the four tables would be larger than a small model's weights.
    """
    inverse = (np.float32(1) / wavelengths(config, factors))[None, :]
    positions = g.op("Range", g.constant(0.0), g.constant(float(rows)), g.constant(1.0))
    angles = g.op("Mul", g.op("Unsqueeze", positions, g.constant([1])), g.constant(inverse))
    return g.op("Mul", g.op(function, angles), g.constant(config.attention_factor))


def rotate(
    g: GraphBuilder,
    name: str,
    x: ir.Value,
    positions: ir.Value,
    tables: tuple[ir.Value, ir.Value],
    rotary_size: int,
) -> ir.Value:
    """Rotate the leading dimensions of every head: [B, S, N, D] -> [B, S, N, D].

    Only for sizes that GroupQueryAttention's rotary does not support (half a rotary size that is no multiple of 8).
    """
    # [B, S, R/2] -> [B, S, 1, R/2]
    cos, sin = (g.op("Unsqueeze", g.op("Gather", t, positions, axis=0), g.constant([2])) for t in tables)
    half = rotary_size // 2
    axis = g.constant([3])
    first = g.op("Slice", x, g.constant([0]), g.constant([half]), axis)
    second = g.op("Slice", x, g.constant([half]), g.constant([rotary_size]), axis)
    rest = g.op("Slice", x, g.constant([rotary_size]), g.constant([np.iinfo(np.int64).max]), axis)
    return g.op(
        "Concat",
        g.op("Sub", g.op("Mul", first, cos), g.op("Mul", second, sin)),
        g.op("Add", g.op("Mul", second, cos), g.op("Mul", first, sin)),
        rest,
        axis=3,
        name=f"{name}/rotate",
    )


def rotate_halves(
    g: GraphBuilder, name: str, x: ir.Value, tables: tuple[ir.Value, ir.Value], rotary_size: int, size: int
) -> ir.Value:
    """Rotate with fixed shapes: [1, N, S, D] -> [1, N, S, D], the tables [1, 1, S, R/2]."""
    (cos, sin), half, rest = tables, rotary_size // 2, size - rotary_size
    widths = [half, half, rest] if rest else [half, half]
    first, second, *kept = g.ops("Split", x, g.constant(widths), outputs=len(widths), axis=-1, name=f"{name}/halves")
    return g.op(
        "Concat",
        g.op("Sub", g.op("Mul", first, cos), g.op("Mul", second, sin)),
        g.op("Add", g.op("Mul", second, cos), g.op("Mul", first, sin)),
        *kept,
        axis=-1,
        name=f"{name}/rotate",
    )
