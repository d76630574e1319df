"""Separation of users' text from the template's text, through the rendering of a template.

A control token inside user text is put between two private characters that occur nowhere else in the input. The
template otherwise gets the text unchanged, so it can trim, split or inspect it. After rendering, text between the marks
is ordinary text, and an unmarked placeholder is one that palmtop wrote. (Sentinels instead of whole texts would break
templates that inspect them, and would lose the merges across the border of text and template.) Independent of token
ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .content import Kind

PRIVATE_USE = range(0xF0000, 0xFFFFD, 2)
MAX_DIGITS = 20  # digits of a placeholder's number that are searched for across a border


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedText:
    """Pair of characters that occur nowhere in the input."""

    start: str
    end: str

    @classmethod
    def unused_in(cls, texts: Iterable[str]) -> TypedText:
        """Return the first pair that occurs in none of the texts."""
        seen = {character for text in texts for character in text if ord(character) >= PRIVATE_USE.start}
        code = next(code for code in PRIVATE_USE if not {chr(code), chr(code + 1)} & seen)
        return cls(start=chr(code), end=chr(code + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Part of a prompt that is tokenised separately; if ``is_spelled``, control tokens in it are text."""

    text: str
    is_spelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholder:
    """Text of the n-th item of a kind in a rendered prompt, and its token.

    Attributes:
        text: text with ``{n}`` for the number, or without a number.
        token: text of the special token in the tokenizer.
    """

    text: str
    token: str

    def write(self, number: int) -> str:
        """Return the placeholder of the n-th item."""
        return self.text.replace("{n}", str(number))

    @property
    def pattern(self) -> str:
        """Return a regular expression for any item's placeholder, without groups."""
        before, n, after = self.text.partition("{n}")
        return re.escape(before) + (r"\d+" if n else "") + re.escape(after)

    def read(self, written: str) -> int | None:
        """Return the number in a placeholder; None if it has none."""
        before, n, after = self.text.partition("{n}")
        return int(written.removeprefix(before).removesuffix(after)) if n else None


class SpecialTokenGuard:
    """Guard that marks control tokens before rendering and finds the marks after it.

    Args:
        special: tokens that no message may contain as tokens.
        added: further tokens that only an assistant's message may contain as tokens, such as a tool call.
        placeholders: placeholders by kind, for the kinds that the model takes.
    """

    def __init__(self, special: Iterable[str], added: Iterable[str], placeholders: Mapping[Kind, Placeholder]) -> None:
        self._tokens = frozenset(special) | frozenset(added)
        self._placeholders = dict(placeholders)
        self._special = self._any_of(frozenset(special))
        self._all = self._any_of(self._tokens)
        fragments = set(self._tokens)
        for placeholder in placeholders.values():
            before, _, after = placeholder.text.partition("{n}")
            fragments |= {before + "0", "0" + after}
        self._longest = max((len(token) for token in fragments), default=0) + MAX_DIGITS
        # Beginnings and ends of a text that could become a token together with the neighbouring text.
        self._heads = tuple({token[:i] for token in fragments for i in range(1, len(token))})
        self._tails = tuple({token[i:] for token in fragments for i in range(1, len(token))})

    def mark(self, text: str, marks: TypedText, *, is_own: bool = False) -> str:
        """Put control tokens between marks, and a mark where the text could form one with its neighbour.

        Args:
            text: text of the user.
            marks: result of ``TypedText.unused_in``.
            is_own: whether the text is the model's own.
        """
        pattern = self._special if is_own else self._all
        marked = pattern.sub(lambda found: f"{marks.start}{found[0]}{marks.end}", text)
        before = marks.start if marked.startswith(self._tails) else ""
        after = marks.end if marked.endswith(self._heads) else ""
        return f"{before}{marked}{after}"

    def split(self, rendered: str, marks: TypedText) -> tuple[list[Segment], list[tuple[Kind, int | None]]]:
        """Cut a rendered prompt at its marks and turn palmtop's placeholders into tokens.

        Returns:
            The segments, without marks, and (kind, number if written) of every placeholder in order.
        """
        kinds = list(self._placeholders)
        patterns = [f"{marks.start}({self._all.pattern}){marks.end}", f"[{marks.start}{marks.end}]"]
        patterns += [f"(?P<{kind}>{self._placeholders[kind].pattern})" for kind in kinds]
        segments: list[Segment] = []
        places: list[tuple[Kind, int | None]] = []
        pending, position = "", 0

        def flush() -> None:
            nonlocal pending
            if pending:
                segments.append(Segment(text=pending, is_spelled=False))
            pending = ""

        for found in re.finditer("|".join(patterns), rendered):
            pending += rendered[position : found.start()]
            position = found.end()
            kind = next((kind for kind in kinds if found[kind] is not None), None)
            if kind is not None:
                places.append((kind, self._placeholders[kind].read(found[0])))
                pending += self._placeholders[kind].token
            elif found[1] is None:
                if self._joins(rendered[: found.start()], rendered[found.end() :], marks):
                    flush()
            elif found[1] in self._tokens:
                flush()
                segments.append(Segment(text=found[1], is_spelled=True))
            else:  # a placeholder that is no token: spelled out, with the merges around it
                pending += found[1]
        pending += rendered[position:]
        flush()
        return segments, places

    def typed(self, text: str) -> list[str]:
        """Return control tokens and placeholders in a text, in order; none of them is read as one."""
        return self._all.findall(text)

    def _joins(self, before: str, after: str, marks: TypedText) -> bool:
        """Return whether the two sides of a mark would form a token or a placeholder.

        Only then is the text cut: the tokens of two parts differ from those of the whole.
        """
        reach = self._longest + 2 * len(marks.start + marks.end)
        drop = str.maketrans("", "", marks.start + marks.end)
        head, tail = before[-reach:].translate(drop), after[:reach].translate(drop)
        found = (self._all.match(head + tail, start) for start in range(len(head)))
        return any(match is not None and match.end() > len(head) for match in found)

    def _any_of(self, tokens: frozenset[str]) -> re.Pattern[str]:
        """Match any of the texts, longest first, so that a token is preferred to one that it contains."""
        alternatives = [placeholder.pattern for placeholder in self._placeholders.values()]
        alternatives += [re.escape(token) for token in sorted(tokens, key=len, reverse=True)]
        return re.compile("|".join(alternatives) or "(?!)")
