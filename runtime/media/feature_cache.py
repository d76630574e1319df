"""Cache of encoder output by content: equal images and sounds are encoded once. The oldest entries are dropped."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]


MAX_ITEMS = 16
"""Most entries; without this limit a process that encodes small images grows for a thousand of them."""


class FeatureCache:
    """Bounded cache of read-only arrays. Not safe for concurrent threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._entries: OrderedDict[str, Features] = OrderedDict()

    def get(self, key: str) -> Features | None:
        """Return the features stored under this key, which becomes the most recent; None if there are none."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: str, features: Features) -> Features:
        """Store features, drop the least recent ones that no longer fit, and return them read-only."""
        features.setflags(write=False)
        self._drop(key)
        if features.nbytes <= self.max_bytes:
            self._entries[key] = features
            self.size_bytes += features.nbytes
        while self.size_bytes > self.max_bytes or len(self._entries) > MAX_ITEMS:
            self._drop(next(iter(self._entries)))
        return features

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self.size_bytes = 0

    def _drop(self, key: str) -> None:
        if (features := self._entries.pop(key, None)) is not None:
            self.size_bytes -= features.nbytes
