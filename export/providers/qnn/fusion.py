"""Fusion of RMSNorm from plain operators into the one operator of onnxruntime and HTP.

As separate operators it would be rounded to 16 bits between them; the range of its mean of squares is the square of the
input's.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from palmtop.export.graph.building.builder import remove_unused

EPSILON_LIMIT = 1e-2  # a larger constant is not an epsilon


def fuse_rms_norms(model: ir.Model) -> int:
    """Replace ``x / sqrt(mean(x * x) + eps) * scale`` everywhere in a graph.

    Returns:
        The number of replacements.
    """
    graph, found = model.graph, 0
    for last in list(graph):
        match = _match(last)
        if match is None:
            continue
        x, scale, epsilon = match
        node = ir.node(
            "SimplifiedLayerNormalization",
            [x, scale],
            {"axis": -1, "epsilon": epsilon, "stash_type": 1},
            name=f"{last.name}/rms",
        )
        graph.insert_before(last, [node])
        output, fused = last.outputs[0], node.outputs[0]
        name = output.name
        ir.convenience.replace_all_uses_with(output, fused, replace_graph_outputs=True)
        fused.name = name
        output.name = f"{name}/unfused"
        found += 1
    remove_unused(model)
    return found


def _match(node: ir.Node) -> tuple[ir.Value, ir.Value, float] | None:
    """Return the normalised value, the scale and epsilon of the product that ends an RMSNorm."""
    if node.op_type != "Mul":
        return None
    for divided, scale in (node.inputs, node.inputs[::-1]):
        if divided is None or scale is None or scale.const_value is None:
            continue
        ratio = divided.producer()
        if ratio is None or ratio.op_type != "Div":
            continue
        x, root = ratio.inputs
        chain = _up(root, "Sqrt", "Add", "ReduceMean", "Mul")
        if chain is None or x is None:
            continue
        _, plus, mean, square = chain
        epsilon = next((v for v in plus.inputs if v is not None and v.const_value is not None), None)
        if square.inputs != (x, x) or epsilon is None or _axes(mean) != [-1]:
            continue
        number = np.asarray(epsilon.const_value.numpy()).ravel() if epsilon.const_value is not None else np.ones(1)
        if number.size == 1 and 0 <= number[0] < EPSILON_LIMIT:
            return x, scale, float(number[0])
    return None


def _up(value: ir.Value | None, *kinds: str) -> list[ir.Node] | None:
    """Return the producers above a value, one for each of the given kinds."""
    nodes = []
    for kind in kinds:
        node = None if value is None else value.producer()
        if node is None or node.op_type != kind:
            return None
        nodes.append(node)
        value = next((v for v in node.inputs if v is not None and v.const_value is None), None)
    return nodes


def _axes(mean: ir.Node) -> list[int]:
    axes = mean.inputs[1] if len(mean.inputs) > 1 else None
    if axes is None or axes.const_value is None:
        return []
    return [int(axis) for axis in axes.const_value.numpy()]
