"""LoRA adapters as lazily read low-rank deltas. Values only; the graph of a delta is in ``graph/lora.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .lazy_tensor import LazyTensor


@dataclass(frozen=True, slots=True)
class LoraPair:
    """A low-rank delta ``b @ a``; alpha / r is folded into b.

    Attributes:
        a: [r, K].
        b: [N, r].
    """

    a: LazyTensor
    b: LazyTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One adapter of a whole decoder.

    Attributes:
        name: as users write it.
        rank: r, the largest where layers differ.
        alpha: as configured; already folded into the pairs.
        pair: the delta of a linear by its checkpoint name ("layers.0.mlp.down_proj"), None where untouched.
        targets: names that ``pair`` answers to, where they were found by looking.
        is_named: whether its config says that it adapts a linear of this name, tensors or not.
    """

    name: str
    rank: int
    alpha: float
    pair: Callable[[str], LoraPair | None]
    targets: tuple[str, ...] = ()
    is_named: Callable[[str], bool] = lambda _: False

    def lacking(self, linears: Iterable[str]) -> list[str]:
        """Those of the linears that its config names and of which it has no tensors."""
        return [linear for linear in linears if self.is_named(linear) and self.pair(linear) is None]


def without_effect(pairs: Mapping[str, LoraPair]) -> list[str]:
    """Linears whose ``b @ a`` is zero because one of both is; reads no further than the first other value.

    Training begins with B of zeros: an adapter that still has them was never trained, or its tensors were not
    gathered before they were saved (DeepSpeed, FSDP).
    """
    return [linear for linear, pair in pairs.items() if not (_any(pair.b) and _any(pair.a))]


def notes_on(adapter: Adapter, linears: Iterable[str]) -> list[str]:
    """What a user must know of an adapter that adds nothing somewhere, a sentence each.

    Args:
        adapter: of a checkpoint.
        linears: of the decoder, by the names that ``pair`` takes.
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
    """A sentence on linears that an adapter's config names and its tensors leave out."""
    more = f" and {len(linears) - 1} more" if len(linears) > 1 else ""
    return f"adapter {source}: target_modules names '{linears[0]}'{more}, without tensors: nothing is added there"


def _any(weight: LazyTensor) -> bool:
    return any(block.any() for block in weight.blocks(1 << 20))
