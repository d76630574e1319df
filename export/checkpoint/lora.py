"""LoRA adapters as lazily read low-rank deltas. Values only; the graph of a delta is in ``graph/lora.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .lazy_tensor import LazyTensor


@dataclass(frozen=True, slots=True)
class LoraPair:
    """Low-rank delta ``b @ a``, with alpha / r folded into b.

    Attributes:
        a: [r, K] matrix.
        b: [N, r] matrix.
    """

    a: LazyTensor
    b: LazyTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Adapter of a whole decoder.

    Attributes:
        name: name of the adapter.
        rank: r, the largest where layers differ.
        alpha: configured alpha; already folded into the pairs.
        pair: returns the delta of a linear by its checkpoint name ("layers.0.mlp.down_proj"), None for an unchanged
            one.
        targets: names for which ``pair`` has a delta, if they were searched for.
        is_named: returns whether its config names a linear, with or without tensors.
    """

    name: str
    rank: int
    alpha: float
    pair: Callable[[str], LoraPair | None]
    targets: tuple[str, ...] = ()
    is_named: Callable[[str], bool] = lambda _: False

    def lacking(self, linears: Iterable[str]) -> list[str]:
        """Return the linears that its config names without having tensors of them."""
        return [linear for linear in linears if self.is_named(linear) and self.pair(linear) is None]


def without_effect(pairs: Mapping[str, LoraPair]) -> list[str]:
    """Return the linears whose ``b @ a`` is zero because one of both is; reads up to the first other value.

    Training begins with B of zeros: an adapter that still has them was never trained, or its tensors were not gathered
    before saving (DeepSpeed, FSDP).
    """
    return [linear for linear, pair in pairs.items() if not (_any(pair.b) and _any(pair.a))]


def notes_on(adapter: Adapter, linears: Iterable[str]) -> list[str]:
    """Return notes for the user on linears where an adapter adds nothing, a sentence each.

    Args:
        adapter: adapter of a checkpoint.
        linears: linears of the decoder, by the names that ``pair`` takes.
    """
    linears, notes = list(linears), []
    pairs = {linear: pair for linear in linears if (pair := adapter.pair(linear)) is not None}
    if empty := without_effect(pairs):
        where = "all" if len(empty) == len(pairs) else f"{len(empty)} of"
        notes.append(
            f"adapter {adapter.name}: lora_A or lora_B is zero in {where} {len(pairs)} linears, such as"
            f" '{pairs[empty[0]].b.name}': it adds nothing there, as if it was never trained, or not gathered before it"
            " was saved"
        )
    if lacking := adapter.lacking(linears):
        notes.append(lacking_text(adapter.name, lacking))
    return notes


def lacking_text(source: object, linears: list[str]) -> str:
    """Return a sentence on linears that an adapter's config names without tensors."""
    more = f" and {len(linears) - 1} more" if len(linears) > 1 else ""
    return f"adapter {source}: target_modules names '{linears[0]}'{more}, without tensors: nothing is added there"


def _any(weight: LazyTensor) -> bool:
    return any(block.any() for block in weight.blocks(1 << 20))
