"""Quantised experts in onnxruntime's QMoE, which reads the codes of the chosen ones alone.

Its own routing is not used: on the CPU it is a softmax over the two highest scores, whatever the attributes say
(onnxruntime 1.32). It gets the shares twice, as scores to choose by and as ``router_weights`` to multiply with, and
leaves out experts whose share is 0; so several of these operators on parts of a layer's experts compute no expert more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.graph.building.builder import MICROSOFT, Blocks, GraphBuilder
from palmtop.export.graph.building.mark import ExpertsMark
from palmtop.export.graph.linear import Precisions, quantized_rows, widened
from palmtop.quantize.scheme import Scheme

from .experts import DOWN, GATE_UP, Expert


def scheme_in_qmoe(expert: Expert, precisions: Precisions) -> tuple[Scheme, int] | None:
    """Return scheme and accuracy level of an expert that QMoE can compute; None where it cannot.

    Both matrices need one scheme whose groups fill their rows. 8 bits are multiplied with int8 activations at every
    accuracy level; at level 0 such experts are matrices of their own.
    """
    own = [precisions.of(name) for name in expert.linears]
    scheme, level = own[0].scheme, own[0].accuracy_level
    if scheme is None or own[1].scheme != scheme:
        return None
    widths = [weight.shape[1] for weight in (expert.gate_up, expert.down)]
    return (scheme, level) if is_in_qmoe(scheme, widths, level) else None


def is_in_qmoe(scheme: Scheme, widths: Iterable[int], accuracy_level: int) -> bool:
    """Return whether QMoE has a kernel for matrices of this scheme with K columns each."""
    has_kernel = scheme.bits == 4 or (scheme.bits == 8 and accuracy_level != 0)
    return has_kernel and all(width % scheme.group == 0 for width in widths)


def add_qmoe(
    g: GraphBuilder,
    name: str,
    experts: Sequence[Expert],
    precisions: Precisions,
    x: ir.Value,
    shares: ir.Value,
) -> ir.Value:
    """Add experts of one scheme: the sum of their outputs times their shares, [T, H] -> [T, H].

    Args:
        g: the graph.
        name: name of the node.
        experts: experts in the order of the shares' columns.
        precisions: precision of each linear by its name.
        x: [T, H] tokens.
        shares: [T, E] share of each of these experts.
    """
    scheme, level = scheme_in_qmoe(experts[0], precisions) or (None, 0)
    assert scheme is not None  # the caller has asked for each
    stored = [
        _stacked(g, f"{name}.{part}", scheme, experts, place, precisions) for place, part in enumerate((GATE_UP, DOWN))
    ]
    (up, up_scales, up_zeros), (down, down_scales, down_zeros) = stored
    y = g.op(
        "QMoE",
        x,
        shares,
        *(up, up_scales, None),
        *(down, down_scales, None),
        *(None, None, None),
        *(up_zeros, down_zeros, None),
        shares,
        domain=MICROSOFT,
        name=name,
        k=min(2, len(experts)),
        activation_type="swiglu",
        swiglu_fusion=1,
        activation_alpha=1.0,
        activation_beta=0.0,
        normalize_routing_weights=0,
        expert_weight_bits=scheme.bits,
        block_size=scheme.group,
        **({"accuracy_level": level} if level else {}),  # onnxruntime 1.29, the phone's, refuses the attribute
    )
    first = experts[0]
    size, hidden = first.down.shape[1], first.down.shape[0]
    module = first.name.rpartition(".")[0]
    return ExpertsMark(module, size, hidden, tuple(expert.number for expert in experts)).put(y)


def _stacked(
    g: GraphBuilder, name: str, scheme: Scheme, experts: Sequence[Expert], place: int, precisions: Precisions
) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """Codes [E, N, K*bits/8], scales [E, N, K/G] and zero points of one matrix of all experts, written one by one."""
    rows, columns = (experts[0].gate_up, experts[0].down)[place].shape
    groups, count = scheme.groups_per_row(columns), len(experts)
    workers = g.sink.workers

    def made() -> Iterator[tuple[NDArray[np.generic], ...]]:
        for expert in experts:
            weight, own = (expert.gate_up, expert.down)[place], precisions.of(expert.linears[place])
            one = quantized_rows(weight, own)  # statistics of one expert in memory at a time
            yield from workers.map(one, weight.ranges(workers.block_bytes))

    tensors: list[tuple[str, tuple[int, ...], np.dtype[np.generic]]] = [
        (f"{name}.codes", (count, rows, columns * scheme.bits // 8), np.dtype(np.uint8)),
        (f"{name}.scales", (count, rows, groups), np.dtype(np.float16 if scheme.scale_bits == 16 else np.float32)),
    ]
    if not scheme.symmetric:
        tensors.append((f"{name}.zero_points", (count, rows, -(-groups * scheme.bits // 8)), np.dtype(np.uint8)))
    values = g.weight_set(name, tensors, Blocks(made))
    return values[0], widened(g, f"{name}.scales", values[1]), None if scheme.symmetric else values[2]
