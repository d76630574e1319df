"""Merge of several adapters into one of a given rank, from their low-rank products and coefficients.

Three methods. ``linear`` sums A and B separately, as PEFT does: same rank and size, but with the products of one
adapter's B and another's A. ``svd`` is the best product of the given rank for the weighted sum of the deltas
(Eckart-Young). ``cat`` concatenates them: exact, and its rank is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.export.checkpoint.lora import Adapter

from .peft_writer import Product, Products

METHODS = ("linear", "svd", "cat")


@dataclass(frozen=True, slots=True)
class Merged:
    """Products by linear, and their distance from the exact weighted sum.

    Attributes:
        products: products of the new adapter, by linear.
        error: relative Frobenius error by linear, 0 for an exact merge.
    """

    products: dict[str, Product]
    error: dict[str, float]


def merge(sources: Sequence[tuple[Products, float]], method: str = "svd", rank: int | None = None) -> Merged:
    """Merge adapters of one base.

    Args:
        sources: products by linear, and the coefficient, of each adapter.
        method: "linear", "svd" or "cat".
        rank: rank of the result; None takes the largest of the sources' (their sum for "cat").

    Raises:
        InputError: the method is unknown, it cannot give the rank, or shapes do not agree; names the linear.
    """
    if method not in METHODS:
        raise InputError(f"method is '{method}', expected one of {', '.join(METHODS)}")
    found, error, exact = {}, {}, 0
    for linear in dict.fromkeys(name for products, _ in sources for name in products):
        parts = [(products[linear], weight) for products, weight in sources if linear in products and weight]
        if not parts:
            continue
        _check_shapes(linear, [product for product, _ in parts])
        exact = max(exact, sum(product.rank for product, _ in parts))
        found[linear] = _merged(linear, parts, method, rank)
        error[linear] = _relative_error(parts, found[linear])
    if not found:
        raise InputError("every coefficient is 0, expected at least one adapter")
    if rank is not None and rank > exact:
        raise InputError(f"rank is {rank}, expected at most {exact}, the sum of the adapters' ranks, which is exact")
    return Merged(found, error)


def read_products(adapter: Adapter) -> dict[str, Product]:
    """Return the adapter's deltas in memory."""
    pairs = {target: adapter.pair(target) for target in adapter.targets}
    return {t: Product(p.a.array(), p.b.array()) for t, p in pairs.items() if p is not None}


def report(merged: Merged, coefficients: Mapping[str, float], method: str, target: Path) -> dict[str, Any]:
    """Return a report of the merge as plain JSON types."""
    errors = list(merged.error.values())
    return {
        "adapter": str(target),
        "method": method,
        "rank": max(product.rank for product in merged.products.values()),
        "coefficients": dict(coefficients),
        "linears": len(errors),
        "mean_error": float(np.mean(errors)),
        "max_error": max(errors),
        "worst": max(merged.error, key=merged.error.__getitem__),
    }


def _check_shapes(linear: str, products: Sequence[Product]) -> None:
    shapes = {(len(p.b), p.a.shape[1]) for p in products}
    if len(shapes) > 1:
        raise InputError(f"adapters differ at '{linear}': {sorted(map(list, shapes))}, expected adapters of one base")


def _merged(linear: str, parts: Sequence[tuple[Product, float]], method: str, rank: int | None) -> Product:
    ranks = [product.rank for product, _ in parts]
    if method == "linear":
        if len(set(ranks)) > 1 or rank not in (None, ranks[0]):
            raise InputError(
                f"method linear sums matrices of equal rank, '{linear}' has ranks {ranks} and the result shall have"
                f" {rank or 'that'}; method svd gives any rank"
            )
        roots = [abs(weight) ** 0.5 for _, weight in parts]
        signs = [float(np.sign(weight)) for _, weight in parts]
        a = sum((np.float32(r) * p.a for (p, _), r in zip(parts, roots, strict=True)), np.float32(0))
        b = sum((np.float32(r * s) * p.b for (p, _), r, s in zip(parts, roots, signs, strict=True)), np.float32(0))
        return Product(np.asarray(a), np.asarray(b))
    a, b = _side_by_side(parts)
    if method == "cat":
        if rank not in (None, sum(ranks)):
            raise InputError(f"method cat gives rank {sum(ranks)} at '{linear}', expected that or no rank")
        return Product(a, b)
    return _truncated(a, b, min(rank or max(ranks), len(a)))


def _side_by_side(parts: Sequence[tuple[Product, float]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[R, K] and [N, R] whose product is the exact weighted sum."""
    a = np.concatenate([product.a for product, _ in parts])
    b = np.concatenate([np.float32(weight) * product.b for product, weight in parts], axis=1)
    return a, b


def _truncated(a: NDArray[np.float32], b: NDArray[np.float32], rank: int) -> Product:
    """The best rank-r product for ``b @ a``, never forming the [N, K] matrix; the singular values are shared evenly."""
    qb, rb = np.linalg.qr(b.astype(np.float64))  # [N, R'], [R', R]
    qa, ra = np.linalg.qr(a.astype(np.float64).T)  # [K, R''], [R'', R]
    u, s, vt = np.linalg.svd(rb @ ra.T, full_matrices=False)
    root = np.sqrt(s[:rank])
    new_b, new_a = qb @ (u[:, :rank] * root), (root[:, None] * vt[:rank]) @ qa.T
    return Product(new_a.astype(np.float32), new_b.astype(np.float32))


def _relative_error(parts: Sequence[tuple[Product, float]], product: Product) -> float:
    """||sum - product|| / ||sum||, from the small matrices: ||b @ a||^2 is the trace of (b'b)(aa')."""
    a, b = _side_by_side(parts)
    exact = _squared_norm(a, b)
    both_a, both_b = np.concatenate([a, product.a]), np.concatenate([b, -product.b], axis=1)
    return float((max(0.0, _squared_norm(both_a, both_b)) / exact) ** 0.5) if exact > 0 else 0.0


def _squared_norm(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    return float(np.sum((wide_b.T @ wide_b) * (wide_a @ wide_a.T)))
