"""LoRA adapters as lazily read low-rank deltas. Values only; the graph of a delta is in ``graph/lora.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .lazy_tensor import Weight


@dataclass(frozen=True, slots=True)
class LoraPair:
    """A low-rank delta ``b @ a``; alpha / r is folded into b.

    Attributes:
        a: [r, K].
        b: [N, r].
    """

    a: Weight
    b: Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One adapter of a whole decoder.

    Attributes:
        name: as users write it.
        rank: r, the largest where layers differ.
        alpha: as configured; already folded into the pairs.
        pair: the delta of a linear by its checkpoint name ("layers.0.mlp.down_proj"), None where untouched.
        targets: names that ``pair`` answers to, where they were found by looking.
    """

    name: str
    rank: int
    alpha: float
    pair: Callable[[str], LoraPair | None]
    targets: tuple[str, ...] = ()
