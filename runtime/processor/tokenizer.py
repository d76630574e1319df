"""Tokenizer that can also spell control tokens out as ordinary text.

Works on the segments of ``special_tokens.py``. Independent of messages and media.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from palmtop.errors import BundleError
from palmtop.runtime.bundle.native_files import native_path

from .special_tokens import Segment

LONG_CHARACTERS = 2048
"""Length from which a text is encoded as a batch of one: only for batches does the library release Python's lock, which
it holds for 2.4 ms per 1,000 characters otherwise (200,064 tokens, a loaded x86 core).
"""
_CONTROL_SHAPE = re.compile(r"<\|.*\|>")
"""Form of control tokens, even if the tokenizer does not call them special."""


class Tokens:
    """Tokens and encoder of a bundle's tokenizer.json.

    Args:
        path: path of tokenizer.json.

    Raises:
        BundleError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            with native_path(path) as name:
                self.tokenizer = Tokenizer.from_file(name)
        except Exception as error:  # the binding raises no more precise exception
            raise BundleError(f"{path}: not a readable tokenizer: {error}") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self._added = self.tokenizer.get_added_tokens_decoder()
        self._added_ids = frozenset(i for i, token in self._added.items() if len(token.content) > 1)
        self._newline = self.encode("\n")
        # Sentencepiece puts a space before a text, so a later segment is encoded behind a newline.
        self._adds_prefix = self.encode("\nx")[len(self._newline) :] != self.encode("x")

    @property
    def special(self) -> set[str]:
        """Texts of the special tokens."""
        return {token.content for token in self._added.values() if token.special}

    def other_control(self, template_text: str) -> set[str]:
        """Return the texts of added tokens that are not special but serve the template.

        Args:
            template_text: all texts that the chat template may write.
        """
        texts = {token.content for token in self._added.values()} - self.special
        written = {text for text in texts if text in template_text and not text.isspace()}
        return written | {text for text in texts if _CONTROL_SHAPE.fullmatch(text)}

    def text_of(self, token_id: int | None) -> str | None:
        """Return a token's text; None if there is no such token."""
        return None if token_id is None else self.tokenizer.id_to_token(token_id)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a separate text; added tokens in it are recognised."""
        if len(text) < LONG_CHARACTERS:
            return list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        return list(self.tokenizer.encode_batch([text], add_special_tokens=False)[0].ids)

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        """Return the ids of a prompt."""
        ids: list[int] = []
        for segment in segments:
            encode = self._spell if segment.is_spelled else self.encode
            inside = bool(ids) and self._adds_prefix
            ids += self._encode_inside(encode, segment.text) if inside else encode(segment.text)
        return ids

    def _encode_inside(self, encode: Callable[[str], list[int]], text: str) -> list[int]:
        ids = encode("\n" + text)
        return ids[len(self._newline) :] if ids[: len(self._newline)] == self._newline else encode(text)

    def _spell(self, text: str) -> list[int]:
        """Encode with the tokenizer's pipeline without its added tokens."""
        normalizer, splitter = self.tokenizer.normalizer, self.tokenizer.pre_tokenizer
        clean = text if normalizer is None else normalizer.normalize_str(text)
        words = [clean] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(clean)]
        ids = [token.id for word in words for token in self.tokenizer.model.tokenize(word)]
        if self._added_ids.isdisjoint(ids):
            return ids
        # The vocabulary contains an added token as a separate word; single characters cannot form it.
        return [i for character in text for i in self._spell(character)]
