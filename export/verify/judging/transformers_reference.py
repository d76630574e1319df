"""Float model of an independent implementation: transformers on torch, if installed (the extra ``dev``).

The exporter's own float graphs share its mistakes. Here their logits are held against those of transformers on the
same tokens. Checkpoints whose code is not part of transformers are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError, RuntimeMissingError
from palmtop.packages import install_command
from palmtop.runtime.memory.machine import available_memory

from .independent import Prompt, Reference

TEXT = ("phi3", "llama")
MULTIMODAL = ("phi4mm", "phi4_multimodal")


def transformers_reference(path: Path, architecture: str, parameters: int) -> Reference:
    """Load a checkpoint in transformers, in float32.

    Args:
        path: folder of the checkpoint.
        architecture: model_type of the checkpoint.
        parameters: number of its parameters.

    Raises:
        InputError: transformers does not support this architecture, refuses the checkpoint, or memory is too small.
        RuntimeMissingError: torch, transformers or PEFT is not installed.
    """
    if architecture not in TEXT + MULTIMODAL:
        known = ", ".join(TEXT + MULTIMODAL)
        raise InputError(f"--reference transformers: the checkpoint is '{architecture}', expected one of {known}")
    needed, free = 4 * parameters, available_memory()
    if free is not None and needed > free:
        raise InputError(
            f"--reference transformers: {path.name} takes {needed / 1e9:.1f} GB in float32, there are"
            f" {free / 1e9:.1f} GB left"
        )
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401

        if architecture in MULTIMODAL:
            import peft  # noqa: F401
    except ImportError as error:
        missing = f"--reference transformers needs torch, transformers and peft ({error.name} is not installed)"
        raise RuntimeMissingError(f"{missing}; {install_command('dev', error.name or '')}") from error
    try:
        if architecture in TEXT:
            return TextReference(path)
        from .multimodal_reference import MultimodalReference

        return MultimodalReference(path, architecture)
    except Exception as error:  # its own exceptions share no base
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: transformers cannot load it ({said:.200})") from error


class TextReference:
    """A text model in transformers, of the class in its config."""

    def __init__(self, path: Path) -> None:
        """Load the model; exceptions of transformers are passed on."""
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        self._model.eval()  # type: ignore[no-untyped-call]

    def use(self, weights: Mapping[str, float]) -> None:
        """Do nothing: a text checkpoint has no adapters."""

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """Return the logits, [T, V]: row t predicts token t behind the prompt."""
        whole = np.concatenate([prompt.ids, prompt.tokens[:-1]])
        with self._torch.no_grad():
            found = self._model(self._torch.tensor(whole)[None], use_cache=False).logits[0]
        return np.asarray(found[len(prompt.ids) - 1 :].numpy())
