"""Gated feed-forward network: ``down(silu(gate(x)) * up(x))``, gate and up in one fused linear."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import FFN
from palmtop.export.graph.building.run import Run, StaticRun


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedMlp:
    """Gated feed-forward network of one layer.

    Attributes:
        size: F, inner width.
        has_bias: whether both linears have a bias.
    """

    size: int
    has_bias: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its tensors inside a layer."""
        kinds = ("weight", "bias") if self.has_bias else ("weight",)
        return tuple(f"mlp.{name}.{kind}" for kind in kinds for name in ("gate_up_proj", "down_proj"))

    def emit(self, g: GraphBuilder, run: Run | StaticRun, prefix: str, x: ir.Value) -> ir.Value:
        """Add the network, [..., H] -> [..., H].

        Args:
            g: the graph.
            run: objects that the graph's layers share.
            prefix: prefix of the layer, such as "layers.0.".
            x: normalised hidden states.
        """
        width, weights = run.hidden_size, run.weights.within(f"{prefix}mlp.")

        def linear(name: str, x: ir.Value, rows: int, columns: int) -> ir.Value:
            weight = weights.get(f"{name}.weight", rows, columns)
            bias = weights.get(f"{name}.bias", rows) if self.has_bias else None
            return run.linears.add(g, f"{prefix}mlp.{name}", x, weight, FFN, bias=bias)

        gate_up = linear("gate_up_proj", x, 2 * self.size, width)
        gate, up = g.ops("Split", gate_up, outputs=2, axis=-1, num_outputs=2, name=f"{prefix}mlp/split")
        activated = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
        return linear("down_proj", activated, width, self.size)

    emit_static = emit  # its operators are plain ones already
