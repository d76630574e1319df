"""Separation of a reasoning model's thinking from its answer, while both are streamed.

Works on text: the marks come from the manifest (``processor.text.thinking``), and a model may write them with one token
or with several. Only an answer that begins with the opening mark has thinking; a mark further on is text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Literal

from .reply import Piece, PieceKind


class Thinking:
    """Splitter of one answer's text into thinking and answer.

    Args:
        marks: opening and closing mark.
        is_open: True if the prompt ended with the opening mark.
        answer_marks: marks around the answer itself, which are left out; None without them.

    >>> thinking = Thinking(("<think>", "</think>"))
    >>> thinking.feed("<think>2 + 2"), thinking.feed(" is 4</thi"), thinking.feed("nk>  Four")
    ([('thinking', '2 + 2')], [('thinking', ' is 4')], [('answer', 'Four')])
    """

    def __init__(
        self, marks: tuple[str, str], *, is_open: bool = False, answer_marks: tuple[str, str] | None = None
    ) -> None:
        self._opening, self._closing = marks
        self._answer = None if answer_marks is None else _Wrapped(*answer_marks)
        self._state: Literal["start", "thinking", "answer"] = "thinking" if is_open else "start"
        self._held = ""  # not shown yet: it may be part of a mark, or white space beside a mark
        self._at_edge = is_open  # directly behind a mark: white space is dropped

    def feed(self, text: str) -> list[tuple[PieceKind, str]]:
        """Add text; return the parts that can be shown now, as (kind, text)."""
        self._held += text
        shown: list[tuple[PieceKind, str]] = []
        if self._state == "start":
            self._leave_start()
        if self._state == "thinking":
            before, mark, after = self._held.partition(self._closing)
            if mark:
                self._held = before.rstrip()
                shown += self._show("thinking", len(self._held))
                self._state, self._held, self._at_edge = "answer", after, True
            else:
                shown += self._show("thinking", len(self._held) - _unsure(self._held, self._closing))
        if self._state == "answer":
            shown += self._show("answer", len(self._held))
        return shown

    @property
    def is_thinking(self) -> bool:
        """Whether the closing mark is still to come."""
        return self._state == "thinking"

    def rest(self) -> list[tuple[PieceKind, str]]:
        """Return the text that was held back, after the last of the text."""
        shown = self._show("thinking" if self._state == "thinking" else "answer", len(self._held))
        if self._answer is not None and (last := self._answer.rest()):
            shown.append(("answer", last))
        return shown

    def _leave_start(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(self._opening):
            self._state, self._held, self._at_edge = "thinking", begun[len(self._opening) :], True
        elif not self._opening.startswith(begun):
            self._state = "answer"

    def _show(self, kind: PieceKind, count: int) -> list[tuple[PieceKind, str]]:
        out, self._held = self._held[:count], self._held[count:]
        if self._at_edge:
            out = out.lstrip()
            self._at_edge = not out
        if kind == "answer" and self._answer is not None:
            out = self._answer.feed(out)
        return [(kind, out)] if out else []


class _Wrapped:
    """Answer between two marks, without the marks; an answer that does not begin with the first is left as it is."""

    def __init__(self, opening: str, closing: str) -> None:
        self._opening, self._closing = opening, closing
        self._state: Literal["start", "edge", "inside", "behind", "plain"] = "start"
        self._held = ""

    def feed(self, text: str) -> str:
        self._held += text
        if self._state == "start":
            begun = self._held.lstrip()
            if begun.startswith(self._opening):
                self._state, self._held = "edge", begun[len(self._opening) :]
            elif not self._opening.startswith(begun):
                self._state = "plain"
        if self._state == "edge" and self._held.strip():  # directly behind the mark: white space is dropped
            self._state, self._held = "inside", self._held.lstrip()
        shown = ""
        if self._state == "inside":
            before, mark, after = self._held.partition(self._closing)
            if mark:
                shown, self._state, self._held = before.rstrip(), "behind", after
            else:
                return self._take(len(self._held) - _unsure(self._held, self._closing))
        if self._state == "behind" and self._held.strip():
            self._state = "plain"
        return shown + self._take(len(self._held) if self._state == "plain" else 0)

    def rest(self) -> str:
        return self._take(len(self._held) if self._state in ("start", "inside", "plain") else 0)

    def _take(self, count: int) -> str:
        out, self._held = self._held[:count], self._held[count:]
        return out


def _unsure(text: str, mark: str) -> int:
    """Length of the end of a text that may begin a mark, with the white space before it."""
    longest = min(len(mark) - 1, len(text))
    begun = next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)
    return len(text) - len(text[: len(text) - begun].rstrip())


def separate_thinking(
    pieces: Iterator[Piece],
    marks: tuple[str, str] | None,
    *,
    is_open: bool,
    answer_marks: tuple[str, str] | None = None,
) -> Iterator[Piece]:
    """Stream an answer with its thinking in separate pieces and in the reply's field ``thinking``.

    Args:
        pieces: pieces of one answer; closed with this iterator.
        marks: opening and closing mark; None for a model without thinking.
        is_open: True if the prompt ended with the opening mark.
        answer_marks: marks around the answer itself, which are left out; None without them.
    """
    with closing(pieces):  # type: ignore[type-var]  # generators, all of them
        if marks is None:
            yield from pieces
            return
        thinking = Thinking(marks, is_open=is_open, answer_marks=answer_marks)
        texts: dict[PieceKind, str] = {"thinking": "", "answer": ""}
        for piece in pieces:
            sorted_out = thinking.feed(piece.text)
            if piece.reply is not None:
                sorted_out += thinking.rest()
            for kind, text in sorted_out:
                texts[kind] += text
                yield Piece(text=text, kind=kind)
            if piece.reply is not None:
                has_nothing = piece.reply.was_cut and not texts["answer"]
                unfinished = "thinking" if thinking.is_thinking or has_nothing else piece.reply.unfinished
                reply = replace(piece.reply, text=texts["answer"], thinking=texts["thinking"], unfinished=unfinished)
                yield Piece(text="", reply=reply)
