"""Heat map as an HTML table: every value is printed in its cell, every row has its name beside it."""

# ruff: noqa: E501 - markup reads better in one line

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

DARK = 0.35  # of the range: cells below it have white digits

STYLE = """
.heat{border-collapse:separate;border-spacing:1px;width:auto}
.heat th,.heat td{border:0;padding:0;min-width:34px;height:30px;text-align:center;vertical-align:middle;font-size:.72rem;
font-weight:400;font-variant-numeric:tabular-nums}
.heat th{color:var(--soft)}.heat th:first-child{position:sticky;left:0;background:var(--card);text-align:left;
padding-right:6px;min-width:96px;max-width:190px;overflow-wrap:anywhere}
.heat .pale{color:#1b1f24}.heat .dark{color:#fff}
"""


def heat_map(rows: Mapping[str, Mapping[str, float]], columns: Sequence[str], low: float, high: float) -> str:
    """Draw values by row and column, in decibels; the lowest is darkest, cells without a value stay empty.

    Args:
        rows: values by name of the row and of the column.
        columns: numbers of layers in order; one empty name is a map of what is in no layer, without a head.
        low: value of the darkest colour.
        high: value of the palest colour.
    """
    titles = "".join(f"<th>{escape(column)}</th>" for column in columns)
    head = f"<tr><th>layer</th>{titles}</tr>" if any(columns) else ""
    lines = "".join(
        f'<tr><th scope="row">{_breakable(name)}</th>{"".join(_cell(row.get(column), low, high) for column in columns)}</tr>'
        for name, row in rows.items()
    )
    return f'<div class="wide"><table class="heat">{head}{lines}</table></div>'


def legend(low: float, high: float) -> str:
    """Explain the colours of maps from ``low`` to ``high``, in decibels."""
    ends = (f'<span style="color:{shade(share)}">■</span> {value:.1f} dB' for share, value in ((0, low), (1, high)))
    return f'<p class="note">{" to ".join(ends)}</p>'


def _cell(value: float | None, low: float, high: float) -> str:
    if value is None:
        return "<td></td>"
    share = (value - low) / (high - low) if high > low else 1.0
    return f'<td class="{"dark" if share < DARK else "pale"}" style="background:{shade(share)}">{value:.1f}</td>'


def _breakable(name: str) -> str:
    """A dotted name that a browser may break after a dot."""
    return escape(name).replace(".", ".<wbr>")


def shade(share: float) -> str:
    """Return the colour of a share of the range: dark red by orange to pale yellow; lightness alone shows the value."""
    return f"hsl({5 + 45 * share:.0f} 75% {26 + 60 * share:.0f}%)"
