"""Float model of an independent implementation: transformers on torch, if installed (the extra ``dev``).

The exporter's own float graphs share its mistakes. Here their logits are compared with those of transformers'
``Phi3ForCausalLM`` on the same tokens. Checkpoints whose code is not part of transformers are refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError, RuntimeMissingError
from palmtop.export.measure.divergence import agreement
from palmtop.export.verify.quality import Check
from palmtop.packages import install_command

ARCHITECTURES = ("phi3",)
MAX_SHARE = 1e-3  # largest difference of a logit, as a share of the range

Prompt = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Ids of a prompt, [S], and tokens that follow it, [T]."""


class TransformersReference:
    """Model of a checkpoint in transformers, in float32."""

    def __init__(self, path: Path, architecture: str) -> None:
        """Load the model of a checkpoint.

        Raises:
            InputError: transformers does not support this architecture, or refuses the checkpoint.
            RuntimeMissingError: torch or transformers is not installed.
        """
        if architecture not in ARCHITECTURES:
            raise InputError(
                f"--reference transformers: the checkpoint is '{architecture}',"
                f" expected one of {', '.join(ARCHITECTURES)}"
            )
        try:
            import torch
            from transformers import AutoModelForCausalLM
        except ImportError as error:
            missing = f"--reference transformers needs torch and transformers ({error.name} is not installed)"
            raise RuntimeMissingError(f"{missing}; {install_command('dev', error.name or '')}") from error
        self._torch = torch
        try:
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, local_files_only=True, trust_remote_code=False
            )
            self._model.eval()  # type: ignore[no-untyped-call]
        except Exception as error:  # its exceptions have no common base
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path}: transformers cannot load it ({said:.200})") from error

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """Return the logits, [T, V]: row t predicts token t behind the prompt."""
        ids, following = prompt
        whole = np.concatenate([ids, following[:-1]])
        with self._torch.no_grad():
            found = self._model(self._torch.tensor(whole)[None], use_cache=False).logits[0]
        return np.asarray(found[len(ids) - 1 :].numpy())


def judge_reference(
    reference: TransformersReference, prompts: Sequence[Prompt], logits: Sequence[NDArray[np.float32]]
) -> Check:
    """Check that the exporter's float graphs compute the same as transformers.

    Args:
        reference: the independent model.
        prompts: prompts that were read.
        logits: logits of the exporter's float graphs, [T, V] each.
    """
    expected = np.concatenate([reference.logits(prompt) for prompt in prompts])
    found = agreement(expected, np.concatenate(list(logits)))
    return Check(
        name="text: float graphs against transformers",
        passed=bool(found.max_abs <= MAX_SHARE),  # false for NaN
        value=round(found.max_abs, 9),
        limit=MAX_SHARE,
        detail=f"largest difference is {found.max_abs:.2g} of the logit range over {found.positions} positions,"
        f" KL {found.mean_kl:.2g} nats",
    )
