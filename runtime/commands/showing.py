"""Pieces of an answer in the terminal: the answer as it is, thinking dimmed or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from palmtop.runtime.chat.reply import Piece, PieceKind

Command = Callable[..., Any]

thinking_flag: Callable[[Command], Command] = click.option(
    "--hide-thinking", is_flag=True, help="Show only the answer of a model that thinks aloud, as through a pipe."
)


class PieceWriter:
    """Writes the pieces of one answer to standard output; through a pipe goes the answer alone.

    Args:
        hide_thinking: leave thinking out on a terminal too.
    """

    def __init__(self, *, hide_thinking: bool) -> None:
        self._shows_thinking = sys.stdout.isatty() and not hide_thinking
        self._last: PieceKind | None = None

    def write(self, piece: Piece) -> None:
        """Show a piece at once."""
        if not piece.text or (piece.kind == "thinking" and not self._shows_thinking):
            return
        if self._last not in (None, piece.kind):
            click.echo("\n")
        self._last = piece.kind
        if piece.kind == "thinking":
            click.secho(piece.text, dim=True, nl=False)
        else:
            click.echo(piece.text, nl=False)
        sys.stdout.flush()
