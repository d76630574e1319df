"""Tables of plain text for the terminal: aligned columns without frames, the same on a screen, in a pipe and in a file.

No cell is wrapped or cut, and no width is asked for: the columns of each command are chosen to fit 80 characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence


def plain_table(rows: Sequence[Sequence[str]], *, right: Collection[int] = (), indent: str = "") -> str:
    r"""Return rows of cells as lines of aligned columns, two blanks apart.

    Args:
        rows: cells of each row, the heading first; all rows have as many.
        right: numbers of the columns whose cells end at the same place.
        indent: text before each line.

    >>> print(plain_table([["part", "bits"], ["decoder", "4"], ["head", "32"]], right={1}))
    part     bits
    decoder     4
    head       32
    """
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blanks = " " * (width - _width(cell))
            cells.append(blanks + cell if number in right else cell + blanks)
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """Return the columns that a terminal needs for a text."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
