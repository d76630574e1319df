"""KV caches of one model, and the choice among them by the beginning of a request.

A beginning is compared by messages: their text, their media by hash, the tools before them. Requests under different
adapters share nothing. The cache itself compares tokens: a wrong choice here takes time and changes no answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

SHARED_ENOUGH = 0.5
"""Share of the request, or of the cache's content, that a request must have in common with a cache to use it."""


class Closable(Protocol):
    """Interface of a slot's conversation."""

    def close(self) -> None:
        """Free the KV cache."""


CacheT = TypeVar("CacheT", bound=Closable)


@dataclass(frozen=True, slots=True)
class Beginning:
    """Beginning of a request, for the comparison of caches.

    Attributes:
        under: adapters and kinds of media; other values share no cache.
        parts: hash and size in bytes of the prompt's parts, in order.
    """

    under: Hashable
    parts: tuple[tuple[bytes, int], ...]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(size for _, size in self.parts)

    def shared_with(self, other: Beginning) -> int:
        """Return the bytes of the parts that both begin with."""
        if self.under != other.under:
            return 0
        shared = 0
        for ours, theirs in zip(self.parts, other.parts, strict=False):
            if ours != theirs:
                break
            shared += ours[1]
        return shared


def beginning_of(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], choice: object
) -> Beginning:
    """Return the beginning of a request.

    Args:
        messages: messages of the request, media as bytes.
        tools: tools of the request.
        choice: adapters of the request.
    """
    kinds = sorted({part["type"] for m in messages if isinstance(m["content"], list) for part in m["content"]})
    kinds = [kind for kind in kinds if kind != "text"]
    parts = (_hash(part) for part in (list(tools), *_parts(messages)))
    return Beginning((repr(choice), *kinds), tuple(parts))


def _parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[object]:
    """Content parts one by one: an image is shared for any question about it."""
    for message in messages:
        content = message["content"]
        yield {key: value for key, value in message.items() if key != "content"}
        yield from content if isinstance(content, list) else [content]


def _hash(part: object) -> tuple[bytes, int]:
    digest, size = hashlib.blake2b(digest_size=16), 0
    for piece in _pieces(part):
        digest.update(len(piece).to_bytes(8, "big") + piece)
        size += len(piece)
    return digest.digest(), size


def _pieces(value: object) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key).encode()
            yield from _pieces(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _pieces(item)
    else:
        yield repr(value).encode()


@dataclass(slots=True, eq=False)
class Slot(Generic[CacheT]):
    """A KV cache, and the request that used it last.

    Attributes:
        cache: the cache.
        holds: beginning of its content.
        session: session of its last request; None without a name.
        is_saved: whether that session's file has its content, or needs none.
    """

    cache: CacheT
    holds: Beginning
    session: str | None = None
    is_saved: bool = True


class Slots(Generic[CacheT]):
    """Caches of one model, least recently used first.

    Args:
        most: most caches to keep.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._slots: list[Slot[CacheT]] = []

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot[CacheT]]:
        return iter(self._slots)

    def take(
        self, wanted: Beginning, make: Callable[[], CacheT], *, may_grow: bool, session: str | None = None
    ) -> Slot[CacheT]:
        """Return the slot for a request; it becomes the most recently used one.

        Its ``session`` is still that of its last request, which may have to be saved first.

        Args:
            wanted: beginning of the request.
            make: opens another cache.
            may_grow: whether there is memory for one.
            session: session that the request names; its own slot is preferred to any other.
        """
        best = next((slot for slot in self._slots if session is not None and slot.session == session), None)
        if best is None:
            best = max(self._slots, key=lambda slot: wanted.shared_with(slot.holds), default=None)
            if best is None or not _shares_enough(wanted, best.holds):
                if best is None or (may_grow and len(self._slots) < self._most):
                    best = Slot(make(), wanted)
                    self._slots.append(best)
                else:
                    best = self._slots[0]
        best.holds = wanted
        self._slots.remove(best)
        self._slots.append(best)
        return best

    def give_up(self, cache: CacheT) -> bool:
        """Close a cache for lack of memory, and open no more; False if it is the only one."""
        if len(self._slots) < 2:
            return False
        self._slots = [slot for slot in self._slots if slot.cache is not cache]
        self._most = len(self._slots)
        cache.close()
        return True

    def clear(self) -> None:
        """Remove all caches."""
        self._slots.clear()


def _shares_enough(wanted: Beginning, held: Beginning) -> bool:
    shared = wanted.shared_with(held)
    return shared > SHARED_ENOUGH * min(wanted.size, held.size)
