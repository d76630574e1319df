"""Text that people type or pipe in, without what their system puts around it: line ends, a byte order mark."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import click

from palmtop.errors import InputError

BYTE_ORDER_MARK = "\ufeff"


def clean(text: str) -> str:
    r"""The text itself: no byte order mark, every line end a newline, none at the end (as in a shell's ``$(...)``).

    >>> clean("\ufeffone\r\ntwo\rthree\r\n")
    'one\ntwo\nthree'
    """
    return text.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def clean_option(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """``clean`` as a callback of click."""
    return None if value is None else clean(value)


def read_standard_input() -> str:
    """All of standard input.

    Raises:
        InputError: it is closed, a folder, or not UTF-8 text.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed, expected a prompt there")
    try:
        return check_text(clean(sys.stdin.read()))
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or closed
        raise InputError(f"standard input cannot be read ({error!s:.200}), expected a prompt in UTF-8") from error


def piped_lines() -> Iterator[str]:
    """Lines of standard input as they come, whatever ends them.

    Raises:
        InputError: it cannot be read as UTF-8.
    """
    if sys.stdin is None:
        return
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(newline=None)  # \r and \r\n end a line too
    mark = BYTE_ORDER_MARK
    while True:
        try:
            line = sys.stdin.readline()
        except (OSError, ValueError) as error:
            raise InputError(f"standard input cannot be read ({error!s:.200}), expected UTF-8") from error
        if not line:
            return
        yield clean(line.removeprefix(mark))
        mark = ""


def check_text(text: str) -> str:
    """The same text.

    Raises:
        InputError: it holds a NUL character, as binary files and UTF-16 do.
    """
    if (place := text.find("\0")) >= 0:
        raise InputError(f"standard input: found a NUL character at place {place}, expected text in UTF-8")
    return text
