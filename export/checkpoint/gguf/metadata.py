"""Metadata of a GGUF file below its architecture's prefix: every key is read, or known to be without effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palmtop.errors import CheckpointError

# In the tensors; for training; the order of rows, which is the same in all files of an architecture.
UNUSED = ("vocab_size", "rope.scaling.finetuned", "tensor_data_layout")
NEUTRAL: Mapping[str, tuple[object, ...]] = {  # keys that are accepted with values that change nothing
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
}


class Metadata:
    """Keys below one architecture's prefix, with a record of those that were read.

    Args:
        where: path of the file, for errors.
        prefix: prefix of the keys.
        fields: all metadata.
    """

    def __init__(self, where: str, prefix: str, fields: Mapping[str, Any]) -> None:
        self.where, self.prefix = where, prefix
        self._fields = fields
        self._read = set(UNUSED)

    def given(self, key: str) -> Any:
        """Return the value of a key, or None."""
        self._read.add(key)
        return self._fields.get(f"{self.prefix}.{key}")

    def wanted(self, key: str) -> Any:
        """Return the value of a required key.

        Raises:
            CheckpointError: the key is missing.
        """
        value = self.given(key)
        if value is None:
            raise CheckpointError(f"{self.where}: metadata key '{self.prefix}.{key}' is missing")
        return value

    def refuse_unread(self) -> None:
        """Refuse the architecture's keys that were not read.

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
