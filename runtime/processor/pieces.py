"""Incremental decoding of sampled tokens to text, in whole characters.

Uses the tokenizer's own decoder, so it is correct for byte-level and for sentencepiece models.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_WINDOW = 16
"""Tokens decoded again at every step; then a new window starts at the last token or unfinished character."""
MAX_UNFINISHED = 3
"""Most bytes, and so tokens, of an unfinished character."""
_UNFINISHED = "\ufffd"


class Utf8Pieces:
    """Incremental detokeniser of one answer.

    The pieces, joined, are ``tokenizer.decode(ids, skip_special_tokens=True)``.

    Args:
        tokenizer: tokenizer with the decoder.
        shown: special tokens that are written out.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Collection[str] = ()) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)
        self._written = {n: token.content for n, token in added.items() if token.special and token.content in shown}
        self._window: list[int] = []
        self._shown = 0

    def push(self, token: int) -> str:
        """Add a token; return the text that it completes, empty for an unfinished character or a special token."""
        if token in self._written:
            return self.flush() + self._written[token]
        if token in self._special:
            return ""
        self._window.append(token)
        text = self._decode()
        # The decoder shows an unfinished sequence as one replacement character at the end.
        ready = text.removesuffix(_UNFINISHED)
        piece = ready[self._shown :]
        self._shown = max(self._shown, len(ready))
        if len(self._window) >= MAX_WINDOW:
            held = len(text) - len(ready)
            self._window = self._window[-MAX_UNFINISHED - 1 :] if held else self._window[-1:]
            self._shown = len(self._decode()) - held
        return piece

    def flush(self) -> str:
        """Return the rest at the end of an answer; an unfinished sequence becomes U+FFFD."""
        piece = self._decode()[self._shown :] if self._window else ""
        self._window, self._shown = [], 0
        return piece

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=True)
