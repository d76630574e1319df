"""The float model of an independent implementation: transformers on torch, for who has them (the extra ``dev``).

The exporter's own float graphs share its mistakes. Here their logits are held against those of transformers'
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
MAX_SHARE = 1e-3  # largest difference of a logit, of the range

Prompt = tuple[NDArray[np.int64], NDArray[np.int64]]
"""[S] ids of a prompt and [T] tokens that follow it"""


class TransformersReference:
    """A checkpoint as transformers runs it, in float32."""

    def __init__(self, path: Path, architecture: str) -> None:
        """Load it.

        Raises:
            InputError: transformers cannot be the reference of this architecture, or refuses the checkpoint.
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
        except Exception as error:  # its own exceptions share no base
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path}: transformers cannot load it ({said:.200})") from error

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """[T, V]: row t predicts token t of what follows the prompt."""
        ids, following = prompt
        whole = np.concatenate([ids, following[:-1]])
        with self._torch.no_grad():
            found = self._model(self._torch.tensor(whole)[None], use_cache=False).logits[0]
        return np.asarray(found[len(ids) - 1 :].numpy())


def judge_reference(
    reference: TransformersReference, prompts: Sequence[Prompt], logits: Sequence[NDArray[np.float32]]
) -> Check:
    """Whether the exporter's float graphs compute what transformers does.

    Args:
        reference: the independent model.
        prompts: that were read.
        logits: of the exporter's float graphs, [T, V] each.
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
