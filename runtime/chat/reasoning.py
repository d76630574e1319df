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

    >>> thinking = Thinking(("<think>", "</think>"))
    >>> thinking.feed("<think>2 + 2"), thinking.feed(" is 4</thi"), thinking.feed("nk>  Four")
    ([('thinking', '2 + 2')], [('thinking', ' is 4')], [('answer', 'Four')])
    """

    def __init__(self, marks: tuple[str, str], *, is_open: bool = False) -> None:
        self._opening, self._closing = marks
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
                shown += self._show("thinking", len(self._held) - self._unsure())
        if self._state == "answer":
            shown += self._show("answer", len(self._held))
        return shown

    @property
    def is_thinking(self) -> bool:
        """Whether the closing mark is still to come."""
        return self._state == "thinking"

    def rest(self) -> list[tuple[PieceKind, str]]:
        """Return the text that was held back, after the last of the text."""
        return self._show("thinking" if self._state == "thinking" else "answer", len(self._held))

    def _leave_start(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(self._opening):
            self._state, self._held, self._at_edge = "thinking", begun[len(self._opening) :], True
        elif not self._opening.startswith(begun):
            self._state = "answer"

    def _unsure(self) -> int:
        """Length of the end of the text that may begin the closing mark, with the white space before it."""
        longest = min(len(self._closing) - 1, len(self._held))
        mark = next((n for n in range(longest, 0, -1) if self._held.endswith(self._closing[:n])), 0)
        return len(self._held) - len(self._held[: len(self._held) - mark].rstrip())

    def _show(self, kind: PieceKind, count: int) -> list[tuple[PieceKind, str]]:
        out, self._held = self._held[:count], self._held[count:]
        if self._at_edge:
            out = out.lstrip()
            self._at_edge = not out
        return [(kind, out)] if out else []


def separate_thinking(pieces: Iterator[Piece], marks: tuple[str, str] | None, *, is_open: bool) -> Iterator[Piece]:
    """Stream an answer with its thinking in separate pieces and in the reply's field ``thinking``.

    Args:
        pieces: pieces of one answer; closed with this iterator.
        marks: opening and closing mark; None for a model without thinking.
        is_open: True if the prompt ended with the opening mark.
    """
    with closing(pieces):  # type: ignore[type-var]  # generators, all of them
        if marks is None:
            yield from pieces
            return
        thinking = Thinking(marks, is_open=is_open)
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
