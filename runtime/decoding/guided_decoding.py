"""Which tokens keep an answer inside its grammar; the only file that imports llguidance.

genai has the same library built in, but applies it only inside its own token loop and freezes it when a
Generator is made (measured on 0.18.0: ``get_logits`` of a guided generator is not masked). Masks of our own
cost no prefill, and every turn may have another grammar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError, RuntimeMissingError
from palmtop.runtime.bundle.native_files import native_path

from .grammar import Grammar


class Guide:
    """Follows one answer through its grammar.

    Raises:
        InputError: the grammar is not valid.
    """

    def __init__(self, matcher: Any, kind: str) -> None:
        self._matcher = matcher
        self._kind = kind
        self._check()

    def allowed(self, count: int) -> NDArray[np.bool_]:
        """Which token ids may come next: [count].

        Raises:
            InputError: the grammar grew too complex on the way.
        """
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        self._check()
        allowed = np.zeros(count, np.bool_)
        width = min(count, len(bits))
        allowed[:width] = bits[:width]
        return allowed

    def advance(self, token: int) -> None:
        """The answer went on with this token."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(str(self._matcher.get_error()).split())
            raise InputError(f"grammar: the {self._kind} cannot be used ({reason:.300})")


class Guides:
    """Makes guides for one bundle; its vocabulary is read when the first is asked for.

    Args:
        tokenizer_json: path of tokenizer.json.
        vocab_size: V, width of the logits.
        eos_ids: tokens that end an answer; allowed where the grammar is complete.
    """

    def __init__(self, tokenizer_json: Path, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._path = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)
        self._tokenizer: Any = None

    def guide(self, grammar: Grammar | None) -> Guide | None:
        """A new guide; None without a grammar.

        Raises:
            InputError: the grammar is not valid.
            BundleError: llguidance cannot read the bundle's tokenizer.
            RuntimeMissingError: llguidance is not installed.
        """
        if grammar is None:
            return None
        try:
            import llguidance
        except ImportError as error:
            raise RuntimeMissingError(
                f"structured answers need llguidance ({error}); pip install 'palmtop[guidance]'"
            ) from error
        if self._tokenizer is None:
            try:
                with native_path(self._path.resolve()) as name:
                    self._tokenizer = llguidance.LLTokenizer(name, n_vocab=self._vocab_size, eos_token=self._eos_ids)
            except ValueError as error:
                raise BundleError(f"{self._path}: no vocabulary for grammars ({error!s:.200})") from error
        convert: dict[str, Callable[[str], str]] = {
            "json_schema": llguidance.LLMatcher.grammar_from_json_schema,
            "regex": llguidance.LLMatcher.grammar_from_regex,
            "lark": llguidance.LLMatcher.grammar_from_lark,
        }
        try:
            return Guide(
                llguidance.LLMatcher(self._tokenizer, convert[grammar.kind](grammar.text), log_level=0), grammar.kind
            )
        except ValueError as error:
            raise InputError(f"grammar: the {grammar.kind} cannot be used ({error!s:.300})") from error
