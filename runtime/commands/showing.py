"""Output of an answer's pieces: the answer unchanged, thinking dimmed or hidden."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from palmtop.runtime.chat.reply import Piece, PieceKind, Reply

Command = Callable[..., Any]

thinking_flag: Callable[[Command], Command] = click.option(
    "--hide-thinking", is_flag=True, help="Show only the answer of a reasoning model, as through a pipe."
)


class PieceWriter:
    """Writer of one answer's pieces to standard output; a pipe receives the answer without thinking.

    Args:
        hide_thinking: whether thinking is left out on a terminal too.
    """

    def __init__(self, *, hide_thinking: bool) -> None:
        self._shows_thinking = sys.stdout.isatty() and not hide_thinking
        self._last: PieceKind | None = None

    @property
    def has_written(self) -> bool:
        """Whether anything was shown."""
        return self._last is not None

    def write(self, piece: Piece) -> None:
        """Write a piece and flush it."""
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


def cut_note(reply: Reply) -> str | None:
    """Return one line that says why an answer was cut and what is missing; None for a complete answer."""
    if not reply.was_cut and reply.unfinished is None:
        return None
    causes = {
        "max_tokens": f"after {reply.usage.completion_tokens} tokens (--max-tokens)",
        "context_full": "because the context is full (--context)",
        "timeout": "because its time was up (--timeout)",
        "cancelled": "because it was interrupted",
        "stop_string": "by a stop string (--stop)",
        "eos": "by the model itself",
    }
    lacks = {"form": ", before its grammar was complete", "thinking": " while the model was still thinking", None: ""}
    return f"palmtop: the answer was cut {causes[reply.ended_by]}{lacks[reply.unfinished]}"
