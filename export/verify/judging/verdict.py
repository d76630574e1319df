"""Verdict on the logits of each mode: float32 must agree; a quantised bundle with a large loss is lossy.

Wrong graphs are found elsewhere, without a threshold (``graphs``, ``tensors``). Here the loss of a right one is
measured: that of its weights, and that of its kernels' 8-bit activations. The loss of plain rounding determines the
advice, not the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir

from palmtop.export.measure.divergence import Agreement
from palmtop.export.recipe import Recipe
from palmtop.export.verify.quality import Check

FLOAT_SHARE = 1e-3  # largest difference of a logit of a float32 bundle, as a share of the range
LOSSY_KL = 0.5  # nats a token: perplexity grows by two thirds, every third token differs
AVOIDABLE = 1.5  # factor of the loss of plain rounding to 4 bits in groups of 32 with float activations

Losses = Mapping[str, Mapping[str, float]]
"""Losses by mode: "weights", "activations" (KL in nats) and "activations_top1" (share of the same top token)."""


def judge_modes(
    modes: Mapping[str, Agreement], losses: Losses, recipe: Recipe, plain_losses: Callable[[], Mapping[str, float]]
) -> list[Check]:
    """Return one check for each mode.

    Args:
        modes: agreement of bundle and float model.
        losses: losses of weights and of activations.
        recipe: recipe of the bundle.
        plain_losses: returns the KL by mode of a bundle of the same checkpoint in 4 bits, groups of 32; called only if
            a loss is large.
    """
    lowest = min(recipe.bits, recipe.bits_of_head, recipe.bits_of_encoders, recipe.kv)
    if lowest == 32:
        return [_float_check(mode, found) for mode, found in modes.items()]
    is_large = any(not found.mean_kl <= LOSSY_KL for found in modes.values())
    plain = plain_losses() if is_large else {}
    return [_loss_check(mode, found, losses.get(mode, {}), plain.get(mode)) for mode, found in modes.items()]


def _float_check(mode: str, found: Agreement) -> Check:
    return Check(
        name=f"{mode}: logits",
        passed=bool(found.max_abs <= FLOAT_SHARE),  # false for NaN
        value=round(found.max_abs, 6),
        limit=FLOAT_SHARE,
        detail=f"{_numbers(found)}; largest difference is {found.max_abs:.2%} of the logit range",
    )


def _loss_check(mode: str, found: Agreement, losses: Mapping[str, float], plain: float | None) -> Check:
    parts = ""
    if losses:
        parts = f" (weights {losses['weights']:.4f}, activations {losses['activations']:.4f})"
    detail = _numbers(found, parts)
    if not found.mean_kl <= LOSSY_KL:
        detail += f"; lossy: more than {LOSSY_KL:g}, {_advice(found, losses, plain)}"
    return Check(
        name=f"{mode}: logits",
        passed=bool(found.mean_kl <= LOSSY_KL),  # false for NaN
        value=round(found.mean_kl, 6),
        limit=LOSSY_KL,
        detail=detail,
        is_loss=found.mean_kl == found.mean_kl,  # a value that is not a number is an error, not a loss
    )


def _advice(found: Agreement, losses: Mapping[str, float], plain: float | None) -> str:
    """Advice on a recipe with less loss."""
    if losses.get("activations", 0.0) > losses.get("weights", 0.0):
        return "most of it of 8-bit activations: export with --set accuracy_level=0"
    beside = "" if plain is None else f" plain rounding to 4 bits in groups of 32 loses {plain:.4f}:"
    if plain is not None and found.mean_kl > AVOIDABLE * plain:
        return f"where{beside} export with --set group=32 or --bits 8"
    return f"and{beside} the model needs more bits, export with --bits 8"


def _numbers(found: Agreement, parts: str = "") -> str:
    return f"KL {found.mean_kl:.4f} nats{parts}, {found.top1:.0%} same top token over {found.positions} positions"


def with_float_activations(path: Path) -> bytes | None:
    """Return a decoder graph at accuracy level 0 on the weights beside it; None if it is at that level already."""
    model = ir.load(path)
    return bytes(ir.to_proto(model).SerializeToString()) if compute_in_float(model) else None


def compute_in_float(model: ir.Model) -> bool:
    """Set every matrix product of a graph to accuracy level 0; return whether that changes one."""
    changed = False
    for node in model.graph.all_nodes():
        level = node.attributes.get("accuracy_level") if node.op_type in ("MatMulNBits", "QMoE") else None
        if level is not None and level.as_int() != 0:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
            changed = True
    return changed
