"""Small charts as inline SVG: a scatter on logarithmic axes, intervals, a bar."""

# ruff: noqa: E501 - markup reads better in one line

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 300  # pixels, about a phone's width, so that text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 24, 40
LETTER = 6.6  # approximate width of a letter

_Box = tuple[float, float, float, float]
"""Box of a label: left, top, right, bottom."""


@dataclass(frozen=True, slots=True)
class Point:
    """A named point of a chart; the bundle's own is a disc, another's a ring."""

    x: float
    y: float
    name: str
    is_own: bool = False


def scatter(points: Sequence[Point], curve: Sequence[tuple[float, float]], x_title: str, y_title: str) -> str:
    """Draw points and a line on two logarithmic axes."""
    line = [(x, y) for x, y in curve if y > 0]
    xs, ys = [p.x for p in points] + [x for x, _ in line], [max(p.y, 1e-9) for p in points] + [y for _, y in line]
    x_axis, y_axis = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT), _Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="12">']
    for value, label in x_axis.ticks():
        at = x_axis.place(value)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="soft" x="{at:.1f}" y="{HEIGHT - 24}" text-anchor="middle">{label}</text>')
    for value, label in y_axis.ticks():
        at = y_axis.place(value)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 6}" y="{at + 5:.1f}" text-anchor="end">{label}</text>')
    parts.append(f'<text class="soft" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_title)}</text>')
    parts.append(f'<text class="soft" x="4" y="12">{escape(y_title)}</text>')
    if line:
        path = " ".join(f"{x_axis.place(x):.1f},{y_axis.place(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="var(--soft)" stroke-dasharray="5 4"/>')
    places = [(x_axis.place(p.x), y_axis.place(max(p.y, 1e-9))) for p in points]
    taken: list[_Box] = [(x - 8, y - 8, x + 8, y + 8) for x, y in places]
    for point, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: not pair[0].is_own):
        look = (
            'r="8" fill="var(--mark)"'
            if point.is_own
            else 'r="5" fill="var(--card)" stroke="var(--soft)" stroke-width="2"'
        )
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" {look}/>')
        box = _free_place(x, y, LETTER * len(point.name), taken)
        taken.append(box)
        weight = "bold" if point.is_own else "normal"
        parts.append(f'<text x="{box[0]:.1f}" y="{box[3] - 3:.1f}" font-weight="{weight}">{escape(point.name)}</text>')
    return "".join(parts) + "</svg>"


def _free_place(x: float, y: float, width: float, taken: Sequence[_Box]) -> _Box:
    """Return a free box for the label of a point: the nearest of several places, the first if none is free."""
    boxes = []
    for down in (0, -14, 14, -28, 28, -42, 42):
        for left in (x + 11, x - 11 - width, x - width / 2):
            box = (left, y + down - 7, left + width, y + down + 7)
            if left >= 0 and box[2] <= WIDTH and box[1] >= 12 and box[3] <= HEIGHT - BOTTOM:
                boxes.append(box)
    free = (box for box in boxes if not any(_overlap(box, other) for other in taken))
    return next(free, (x + 11, y - 7, x + 11 + width, y + 7))


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class _Axis:
    """Logarithmic axis with a margin at its ends."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self._low, self._high = math.log10(low), math.log10(high)
        room = max(0.06 * (self._high - self._low), 0.02)
        self._low, self._high = self._low - room, self._high + room
        self._start, self._stop = start, stop

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._stop - self._start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return a few round values."""
        steps: tuple[float, ...] = (1,)
        if self._high - self._low < 2.5:
            steps = (1, 2, 5)
        if self._high - self._low < 0.7:
            steps = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
        found = []
        for power in range(math.floor(self._low), math.ceil(self._high) + 1):
            for step in steps:
                value = step * 10.0**power
                if self._low <= math.log10(value) <= self._high:
                    found.append((value, f"{value:g}"))
        return found


def interval_rows(rows: Sequence[tuple[str, float, float, float, bool]]) -> str:
    """Draw lines of (name, value, low, high, is own), all shares, on one axis from the lowest end to 100 %."""
    low = min(row[2] for row in rows)
    start = max(0.0, math.floor(low * 10) / 10)
    step, left = 24, 138
    height = 24 + step * len(rows)

    def place(share: float) -> float:
        return left + (share - start) / max(1 - start, 1e-9) * (WIDTH - left - 20)

    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" font-size="12">']
    for tick in (start, (start + 1) / 2, 1.0):
        parts.append(f'<line class="axis" x1="{place(tick):.1f}" x2="{place(tick):.1f}" y1="0" y2="{height - 20}"/>')
        parts.append(
            f'<text class="soft" x="{place(tick):.1f}" y="{height - 4}" text-anchor="middle">{tick:.0%}</text>'
        )
    for at, (name, value, lower, upper, is_own) in enumerate(rows):
        y, colour = 14 + step * at, "var(--mark)" if is_own else "var(--soft)"
        parts.append(f'<text x="{left - 10}" y="{y + 5}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<line x1="{place(lower):.1f}" x2="{place(upper):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
            f'<circle cx="{place(value):.1f}" cy="{y}" r="6" fill="{colour}"/>'
        )
    return "".join(parts) + "</svg>"


def bar(share: float) -> str:
    """Draw a thin bar below a name."""
    return (
        '<div style="background:var(--line);height:5px;border-radius:3px;margin-top:3px">'
        f'<div style="background:var(--mark);height:5px;border-radius:3px;width:{100 * min(max(share, 0), 1):.1f}%">'
        "</div></div>"
    )
