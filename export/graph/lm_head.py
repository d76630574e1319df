"""End of the decoder graph: from hidden states to the logits of the last positions.

Logits of every position of a prompt would take gigabytes (4,096 positions of 200,000 float32), so the head runs on the
last position alone. With ``draft_rows`` above 1 it runs on every position of a step of at most that many tokens: draft
tokens can then be verified in one step (``runtime/decoding/prompt_lookup.py``). These logits are a separate output;
``logits`` does not change, so a reader without support for the other one, as on the phone, works as before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.runtime.bundle.manifest import DRAFT_LOGITS

from .embedding import Table
from .linear import Precisions, with_bias

HEAD_BIAS = "lm_head.bias"
LAST_POSITION = "last_position"
FAR = np.iinfo(np.int64).max


def add_logits(
    g: GraphBuilder,
    hidden: ir.Value,
    input_ids: ir.Value,
    table: Table,
    weights: StateDict,
    norm: Callable[[ir.Value], ir.Value],
    precision: Precisions,
    draft_rows: int,
    bias: LazyTensor | None = None,
) -> None:
    """Declare ``logits`` [B, 1, V] and, with ``draft_rows`` above 1, ``draft_logits`` [B, R, V].

    Args:
        g: the graph.
        hidden: [B, S, H] residual sum behind the last layer.
        input_ids: [B, S] token ids.
        table: the embedding, which may be the head.
        weights: weights of the model, for a separate head.
        norm: norm before the head.
        precision: precision of the head.
        draft_rows: R = S in a step of at most this many tokens; in a longer one R = 1, the last position.
        bias: [V] bias of the logits, or None.
    """
    shape: list[int | str] = ["batch", 1, table.shape[0]]
    if draft_rows == 1:
        last = norm(g.op("Gather", hidden, g.constant(np.array(-1, np.int64)), axis=1, name=LAST_POSITION))  # [B, H]
        logits = with_bias(g, "lm_head", table.head(g, last, weights, precision), bias)
        g.output(g.op("Unsqueeze", logits, g.constant([1])), "logits", ir.DataType.FLOAT, shape)
        return
    length = g.op("Shape", input_ids, start=1, end=2)  # [1]
    is_short = g.op("LessOrEqual", length, g.constant([draft_rows]))
    first = g.op("Where", is_short, g.constant([0]), g.constant([-1]))
    rows = g.op("Slice", hidden, first, g.constant([FAR]), g.constant([1]), name=LAST_POSITION)  # [B, R, H]
    logits = with_bias(g, "lm_head", table.head(g, norm(rows), weights, precision, has_rows=True), bias)
    g.output(g.op("Gather", logits, g.constant([-1]), axis=1), "logits", ir.DataType.FLOAT, shape)
    g.output(logits, DRAFT_LOGITS, ir.DataType.FLOAT, ["batch", "draft_rows", table.shape[0]])
