"""Typed or piped text without the system's line ends and byte order mark."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import click

from palmtop.errors import InputError

BYTE_ORDER_MARK = "\ufeff"


def clean(text: str) -> str:
    r"""Return text without a byte order mark, with newlines as line ends, and none at its end.

    >>> clean("\ufeffone\r\ntwo\rthree\r\n")
    'one\ntwo\nthree'
    """
    return text.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def clean_option(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Apply ``clean`` as a callback of click."""
    return None if value is None else clean(value)


def read_standard_input() -> str:
    """Read all of standard input.

    Raises:
        InputError: standard input is closed, a folder, or not UTF-8 text.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed, expected a prompt there")
    try:
        return check_text(clean(sys.stdin.read()))
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or closed
        raise InputError(f"standard input cannot be read ({error!s:.200}), expected a prompt in UTF-8") from error


def read_standard_bytes() -> bytes:
    """Read all bytes of standard input, as of a picture or a sound.

    Raises:
        InputError: standard input is closed, a folder, or empty.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed, expected a picture or a sound there")
    try:
        data = sys.stdin.buffer.read()
    except (OSError, ValueError) as error:
        raise InputError(f"standard input cannot be read ({error!s:.200}), expected a picture or a sound") from error
    if not data:
        raise InputError("standard input is empty, expected a picture or a sound there")
    return data


def piped_lines() -> Iterator[str]:
    """Yield lines of standard input as they arrive, with any kind of line end.

    Raises:
        InputError: the input cannot be read as UTF-8.
    """
    if sys.stdin is None:
        return
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(newline=None)  # carriage returns end a line too
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
    """Return the text unchanged after checking it.

    Raises:
        InputError: the text contains a NUL character, as binary files and UTF-16 do.
    """
    if (place := text.find("\0")) >= 0:
        raise InputError(f"standard input: found a NUL character at place {place}, expected text in UTF-8")
    return text
