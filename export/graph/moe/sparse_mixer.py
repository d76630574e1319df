"""SparseMixer: the two experts of each token, and the share of each, as ``PhimoeForCausalLM`` computes them.

Source: Liu et al., "GRIN: GRadient-INformed MoE", arXiv 2409.12136, at inference; transformers, ``sparsemixer``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from palmtop.export.graph.building.builder import GraphBuilder


def sparse_mixer(g: GraphBuilder, name: str, scores: ir.Value, experts: int, jitter: float) -> ir.Value:
    """Add the routing of each token: scores [T, E] of the router -> shares [T, E], 0 for experts that are not chosen.

    Twice the expert with the highest score is chosen, the first one of equals, and then left out. Its share is its
    softmax over the remaining experts whose score is near the highest one: ``(highest - score) / max(|score|, highest)
    <= 2 * jitter``. Where that is 0 / 0 the expert remains. The two shares are not normalised: their sum is up to 2.

    Args:
        g: the graph.
        name: prefix of the nodes' names.
        scores: [T, E] float32.
        experts: E, at least 2.
        jitter: width of the band of near scores.
    """
    sizes, numbers = g.op("Abs", scores), g.constant(np.arange(experts, dtype=np.int64))
    left, nothing, limit = scores, g.constant(-float("inf")), g.constant(float(np.float32(2 * jitter)))
    shares: list[tuple[ir.Value, ir.Value]] = []
    for place in ("first", "second"):
        highest = g.op("ReduceMax", left, g.constant([-1]), keepdims=1, name=f"{name}/{place}/highest")  # [T, 1]
        chosen = g.op("ArgMax", left, axis=-1, keepdims=1, select_last_index=0, name=f"{name}/{place}")  # [T, 1]
        off = g.op("Div", g.op("Sub", highest, scores), g.op("Max", sizes, highest))  # against all scores both times
        is_far = g.op("Greater", off, limit, name=f"{name}/{place}/is_far")  # false for NaN
        share = g.op("Softmax", g.op("Where", is_far, nothing, left), axis=-1, name=f"{name}/{place}/share")
        is_chosen = g.op("Equal", chosen, numbers)  # [T, E]
        shares.append((is_chosen, share))
        left = g.op("Where", is_chosen, nothing, left)
    second = g.op("Where", *shares[1], g.constant(0.0))
    return g.op("Where", *shares[0], second, name=f"{name}/shares")
