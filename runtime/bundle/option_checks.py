"""Checks of option values, with errors that name the option."""

from __future__ import annotations

import math
import os
from typing import Literal

import numpy as np

from palmtop.errors import OptionError

LEAST_THREAD_LIMIT = 64
Holds = Literal["0 or more", "above 0", "above 0, at most 1"]


def check_whole(name: str, value: object, least: int, *, optional: bool = False) -> None:
    """Check a whole number from ``least`` on.

    Raises:
        InputError: the value is not such a number.
    """
    if value is None and optional:
        return
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise wrong(name, value, f"{'0 or more' if least == 0 else f'at least {least}'}, a whole number")


def check_threads(value: object) -> None:
    """Check a number of threads that a native library can start on this machine, or None.

    More threads than cores gain nothing; thousands exceed the limits of a process, and end it.

    Raises:
        InputError: the value is not such a number.
    """
    check_whole("threads", value, 1, optional=True)
    cores = os.cpu_count() or 1
    most = max(LEAST_THREAD_LIMIT, 4 * cores)
    if value is not None and value > most:  # type: ignore[operator]
        raise wrong("threads", value, f"1 to {most} on this machine, which has {cores} core{'s' * (cores > 1)}")


def check_number(name: str, value: object, holds: Holds, *, optional: bool = False) -> None:
    """Check a finite number in a range.

    Raises:
        InputError: the value is not such a number.
    """
    if value is None and optional:
        return
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan  # type: ignore[arg-type]
    except OverflowError:  # a whole number of 400 digits
        number = math.inf
    fits = number > 0 if holds.startswith("above 0") else number >= 0
    if not math.isfinite(number) or not fits or (holds.endswith("at most 1") and number > 1):
        raise wrong(name, value, holds if math.isfinite(number) or not is_number else f"a finite number {holds}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check a value that is one of several words.

    Raises:
        InputError: the value is another one.
    """
    if not isinstance(value, str) or value not in choices:
        raise wrong(name, value, f"one of {', '.join(choices)}")


def reason_of(error: Exception) -> str:
    """Return the reason why a file cannot be read, without its name."""
    return str(error.strerror or error) if isinstance(error, OSError) else f"{error!s:.200}"


def wrong(name: str, value: object, expected: str) -> OptionError:
    """The error for an option's value."""
    found = repr(value)
    return OptionError(name, f"found {found if len(found) <= 60 else found[:57] + '...'}, expected {expected}")
