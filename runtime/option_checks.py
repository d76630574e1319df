"""Checks of option values: what a caller got wrong becomes one sentence that names the option."""

from __future__ import annotations

import math

import numpy as np

from palmtop.errors import InputError


def check_whole(name: str, value: object, least: int, *, optional: bool = False) -> None:
    """A whole number from ``least`` on.

    Raises:
        InputError: it is none.
    """
    if value is None and optional:
        return
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise wrong(name, value, f"{'0 or more' if least == 0 else f'at least {least}'}, a whole number")


def check_number(name: str, value: object, holds: str, *, optional: bool = False) -> None:
    """A finite number that is "0 or more", "above 0" or "above 0, at most 1".

    Raises:
        InputError: it is none.
    """
    if value is None and optional:
        return
    fits = {
        "0 or more": lambda x: x >= 0,
        "above 0": lambda x: x > 0,
        "above 0, at most 1": lambda x: 0 < x <= 1,
    }[holds]
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(float(value)) or not fits(value):  # type: ignore[arg-type]
        raise wrong(name, value, holds)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of some words.

    Raises:
        InputError: it is another.
    """
    if not isinstance(value, str) or value not in choices:
        raise wrong(name, value, f"one of {', '.join(choices)}")


def wrong(name: str, value: object, expected: str) -> InputError:
    """The error for an option's value."""
    found = repr(value)
    return InputError(f"option {name}: found {found if len(found) <= 60 else found[:57] + '...'}, expected {expected}")
