"""Activations by their names in configs; an unknown name is refused."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from palmtop.errors import UnsupportedModelError
from palmtop.export.graph.building.builder import GraphBuilder

Activation = Callable[[GraphBuilder, ir.Value], ir.Value]


def _silu(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Mul", x, g.op("Sigmoid", x))


def _quick_gelu(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Mul", x, g.op("Sigmoid", g.op("Mul", x, g.constant(1.702))))


def gelu(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """Add ``x * Phi(x)``, the exact GELU."""
    return g.op("Gelu", x)


def _gelu_tanh(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Gelu", x, approximate="tanh")


def _one_operator(op_type: str) -> Activation:
    return lambda g, x: g.op(op_type, x)


# Names and meaning: transformers/activations.py, ACT2CLS (5.23).
_BY_NAME: dict[str, Activation] = {
    "silu": _silu,
    "swish": _silu,
    "gelu": gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": _one_operator("Relu"),
    "sigmoid": _one_operator("Sigmoid"),
    "tanh": _one_operator("Tanh"),
    "hardswish": _one_operator("HardSwish"),
}


def activation(name: str, where: str) -> Activation:
    """Return the function that adds the activation of this name to a graph.

    Args:
        name: name in a config, such as ``swish``.
        where: config key, for the message.

    Raises:
        UnsupportedModelError: the name is not known.
    """
    if name not in _BY_NAME:
        raise UnsupportedModelError(f"{where} is '{name}', expected one of {', '.join(sorted(_BY_NAME))}")
    return _BY_NAME[name]
