"""Metadata of a GGUF file below its architecture's prefix: every key is asked for, or known to change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palmtop.errors import CheckpointError

# Said by the tensors; of training; how rows are ordered, which every file of an architecture shares.
UNUSED = ("vocab_size", "rope.scaling.finetuned", "tensor_data_layout")
NEUTRAL: Mapping[str, tuple[object, ...]] = {  # keys that may be there if they say that nothing is changed
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
}


class Metadata:
    """Keys below one architecture's prefix, and which of them were asked for.

    Args:
        where: the file, for errors.
        prefix: of the keys.
        fields: all metadata.
    """

    def __init__(self, where: str, prefix: str, fields: Mapping[str, Any]) -> None:
        self.where, self.prefix = where, prefix
        self._fields = fields
        self._read = set(UNUSED)

    def given(self, key: str) -> Any:
        """The value, or None."""
        self._read.add(key)
        return self._fields.get(f"{self.prefix}.{key}")

    def wanted(self, key: str) -> Any:
        """The value.

        Raises:
            CheckpointError: it is missing.
        """
        value = self.given(key)
        if value is None:
            raise CheckpointError(f"{self.where}: metadata key '{self.prefix}.{key}' is missing")
        return value

    def refuse_unread(self) -> None:
        """Refuse the architecture's keys that nothing asked for.

        Raises:
            CheckpointError: names the key.
        """
        for full, value in self._fields.items():
            key = full.removeprefix(f"{self.prefix}.")
            if key == full or key in self._read or value in NEUTRAL.get(key, ()):
                continue
            raise CheckpointError(
                f"{self.where}: metadata key '{full}' is {value!r:.60}, expected none: it is not read"
            )
