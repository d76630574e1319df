"""Cuts what a reasoning model says to itself off its answer, while both are streamed.

Works on text: the marks are the manifest's (``processor.text.thinking``), and a model may write them with one token
or with several. Only an answer that begins with the opening mark is cut; a mark further on is text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Literal

from .reply import Piece, PieceKind


class Thinking:
    """Sorts the text of one answer.

    Args:
        marks: opening and closing text.
        is_open: the prompt ended with the opening mark already.

    >>> thinking = Thinking(("<think>", "</think>"))
    >>> thinking.feed("<think>2 + 2"), thinking.feed(" is 4</thi"), thinking.feed("nk>  Four")
    ([('thinking', '2 + 2')], [('thinking', ' is 4')], [('answer', 'Four')])
    """

    def __init__(self, marks: tuple[str, str], *, is_open: bool = False) -> None:
        self._opening, self._closing = marks
        self._state: Literal["start", "thinking", "answer"] = "thinking" if is_open else "start"
        self._held = ""  # not shown yet: it may belong to a mark, or is space that a mark takes with it
        self._at_edge = is_open  # right behind a mark: white space goes

    def feed(self, text: str) -> list[tuple[PieceKind, str]]:
        """What may be shown of the text so far and was not shown before."""
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
        """The closing mark has not come yet."""
        return self._state == "thinking"

    def rest(self) -> list[tuple[PieceKind, str]]:
        """What was held back, when no more text comes."""
        return self._show("thinking" if self._state == "thinking" else "answer", len(self._held))

    def _leave_start(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(self._opening):
            self._state, self._held, self._at_edge = "thinking", begun[len(self._opening) :], True
        elif not self._opening.startswith(begun):
            self._state = "answer"

    def _unsure(self) -> int:
        """Characters at the end that may begin the closing mark, with the white space before them."""
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
    """The same answer with its thinking in pieces and in a field of the reply of its own.

    Args:
        pieces: of one answer; closed when this iterator is.
        marks: opening and closing text, None for a model that does not think aloud.
        is_open: the prompt ended with the opening mark already.
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
