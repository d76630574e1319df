"""Charts on a canvas: a plane with two axes, and rows of bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .canvas import Canvas


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis from ``low`` to ``high``, drawn from pixel ``start`` to pixel ``stop``.

    Attributes:
        ticks: values with a label.
        is_log: whether equal ratios have equal distances.
    """

    low: float
    high: float
    start: float
    stop: float
    ticks: Sequence[tuple[float, str]]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        scale = math.log if self.is_log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + share * (self.stop - self.start)


def plane(canvas: Canvas, x: Axis, y: Axis, x_title: str, y_title: str) -> None:
    """Draw the grid of a plane with the labels of both axes."""
    for value, label in x.ticks:
        at = x.place(value)
        canvas.line(at, y.start, at, y.stop)
        canvas.text(at, y.start + 18, label, "soft", size=13, anchor="middle")
    for value, label in y.ticks:
        at = y.place(value)
        canvas.line(x.start, at, x.stop, at)
        canvas.text(x.start - 8, at + 5, label, "soft", size=13, anchor="end")
    canvas.text((x.start + x.stop) / 2, y.start + 40, x_title, "soft", size=13, anchor="middle")
    canvas.text(x.start, y.stop - 10, y_title, "soft", size=13)


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its name; of a measured range both ends."""

    name: str
    low: float
    high: float
    is_own: bool

    @property
    def label(self) -> str:
        """The number beside the bar."""
        low, high = number(self.low), number(self.high)
        return low if low == high else f"{low} to {high}"


def number(value: float) -> str:
    """Return a number with three digits, without an exponent.

    >>> [number(each) for each in (1234.5, 459.2, 21.44, 2, 0.0123)]
    ['1234', '459', '21.4', '2', '0.0123']
    """
    digits = 3 if value <= 0 else max(0, 2 - math.floor(math.log10(value)))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def bars(canvas: Canvas, x: float, y: float, width: float, title: str, rows: Sequence[Bar], room: float = 76) -> None:
    """Draw named horizontal bars under a title; ``room`` pixels at the right are for the numbers."""
    canvas.text(x, y, title, bold=True)
    longest = max(row.high for row in rows)
    for at, row in enumerate(rows):
        top = y + 22 + 40 * at
        colour = "own" if row.is_own else "peer"
        canvas.text(x, top + 6, row.name, "ink" if row.is_own else "soft", size=12)
        length = (width - room) * row.low / longest
        canvas.box(x, top + 12, length, 10, colour, radius=2)
        if row.high > row.low:
            end = (width - room) * row.high / longest
            canvas.line(x + length, top + 17, x + end, top + 17, colour, 2)
        canvas.text(x + (width - room) * row.high / longest + 6, top + 22, row.label, size=13)
