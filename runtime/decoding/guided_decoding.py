"""Token masks that keep an answer inside its grammar; the only file that imports llguidance.

genai has the same library built in, but applies it only inside its own token loop and fixes the grammar when a
Generator is made (measured on 0.18.0: ``get_logits`` of a guided generator is not masked). Masks of our own need no
prefill, and every turn may have another grammar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError, RuntimeMissingError
from palmtop.packages import install_command
from palmtop.runtime.bundle.native_files import native_path

from .bounded_schema import bounded_json, bounded_lark
from .grammar import Grammar

MAX_LEXER_STATES = 50_000
LEXER_FUEL, STEP_FUEL = 300_000, 100_000
"""Limits in llguidance's units, measured on hostile grammars: tests/runtime/test_bounded_forms.py."""
_NO_TEXT = "no text can match it: it refers to itself without an end, or forbids every beginning"
_TOO_COMPLEX = "it is too complex: expected fewer or shorter repetitions and alternatives"
_REASONS = {
    "NoExtension": _NO_TEXT,
    "LexerTooComplex": _TOO_COMPLEX,
    "ParserTooComplex": _TOO_COMPLEX,
    "Unsatisfiable schema: anyOf is empty": "no value can match it: it allows none",
}


class GuidedDecoder:
    """State of one answer in its grammar: which tokens may come next.

    Raises:
        InputError: the grammar is not valid, or no text matches it.
    """

    def __init__(self, matcher: Any, kind: str) -> None:
        self._matcher = matcher
        self._kind = kind
        self._check()
        self._first: bytes | None = self._mask()  # refuse an impossible grammar before the prompt is read

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is a complete match of the grammar, so that the answer may end."""
        return bool(self._matcher.is_accepting())

    def allowed(self, count: int) -> NDArray[np.bool_]:
        """Return a mask of the token ids that may come next, [count].

        Raises:
            InputError: the grammar exceeded llguidance's limits during the answer.
        """
        mask, self._first = self._first or self._mask(), None
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
        allowed = np.zeros(count, np.bool_)
        width = min(count, len(bits))
        allowed[:width] = bits[:width]
        return allowed

    def advance(self, token: int) -> None:
        """Record the token that was sampled."""
        self._matcher.consume_token(token)
        self._check()

    def _mask(self) -> bytes:
        mask: bytes = self._matcher.compute_bitmask()
        self._check()
        return mask

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InputError(f"grammar: the {self._kind} cannot be used ({explain(self._matcher.get_error())})")


class GuidedDecoders:
    """Factory of guided decoders for one bundle; it reads the vocabulary at first use.

    Args:
        tokenizer_json: path of tokenizer.json.
        vocab_size: V, width of the logits.
        eos_ids: ids that end an answer; allowed where the grammar is complete.
    """

    def __init__(self, tokenizer_json: Path, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._path = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)
        self._tokenizer: Any = None

    def guide(self, grammar: Grammar | None) -> GuidedDecoder | None:
        """Return a new guided decoder; None without a grammar.

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
            raise RuntimeMissingError(f"grammar: needs llguidance ({error}); {install_command('guidance')}") from error
        if self._tokenizer is None:
            try:
                with native_path(self._path.resolve()) as name:
                    self._tokenizer = llguidance.LLTokenizer(name, n_vocab=self._vocab_size, eos_token=self._eos_ids)
            except ValueError as error:
                raise BundleError(f"{self._path}: llguidance cannot read the vocabulary ({error!s:.200})") from error
        matcher = llguidance.LLMatcher
        convert: dict[str, Callable[[str], str]] = {
            "json_schema": lambda text: matcher.grammar_from_json_schema(*bounded_json(text)),
            "regex": matcher.grammar_from_regex,
            "lark": lambda text: matcher.grammar_from_lark(bounded_lark(text)),
        }
        limits = llguidance.LLParserLimits(
            initial_lexer_fuel=LEXER_FUEL,
            step_lexer_fuel=STEP_FUEL,
            max_lexer_states=MAX_LEXER_STATES,
            verbose_errors=False,
        )
        try:
            rules = convert[grammar.kind](grammar.text)
            return GuidedDecoder(matcher(self._tokenizer, rules, log_level=0, limits=limits), grammar.kind)
        except ValueError as error:
            raise InputError(f"grammar: the {grammar.kind} cannot be used ({explain(str(error))})") from error


def explain(error: str) -> str:
    """Explain an llguidance error of a grammar in one clause, without llguidance's state and options.

    >>> explain("NoExtensionBias <state> Tokens: ...")
    'no text can match it: it refers to itself without an end, or forbids every beginning'
    """
    text = error.partition("<state>")[0].replace("<non-verbose/>", "").strip()
    for reason, clause in _REASONS.items():
        if text.startswith(reason):
            return clause
    if "coerce_one_of" in text:
        return "the alternatives of a 'oneOf' overlap, which cannot be kept apart; expected 'anyOf' in its place"
    if parsed := re.search(r"^error: (.+)$", text, re.MULTILINE):
        return parsed[1]
    if re.search(r"too (complex|large|many|big|deep)|limit|fuel", text, re.IGNORECASE):
        return _TOO_COMPLEX
    return f"{' '.join(text.partition(chr(10))[0].split()):.200}"
