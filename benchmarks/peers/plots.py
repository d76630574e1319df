"""Plots as SVG: bars of one number a contender, and lines of a number against the context."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

WIDTH, LEFT, BAR, GAP = 640, 130, 22, 10
COLOURS = ("#3366cc", "#dc6a2c", "#2e9950", "#9467bd", "#8c6d31", "#c44e52", "#555555")
BARS = {"prefill_tok_s": "prefill, tokens/s", "load_s": "load, s", "rss_gb": "memory, GB"}


def write_plots(found: dict[str, Any], folder: Path) -> list[Path]:
    """Write prefill.svg, load.svg, memory.svg, and decode.svg against the context; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, paths = found["rows"], []
    for key, title in BARS.items():
        paths.append(folder / f"{title.partition(',')[0]}.svg")
        paths[-1].write_text(bars({row["contender"]: row[key] for row in rows}, title), "utf-8")
    lines = {row["contender"]: {int(at): c["decode_ms"] for at, c in row["contexts"].items()} for row in rows}
    paths.append(folder / "decode.svg")
    paths[-1].write_text(curves(lines, "decode, ms a token, against the context in tokens"), "utf-8")
    return paths


def bars(values: dict[str, float], title: str) -> str:
    """Horizontal bars, the longest as wide as the picture."""
    longest, parts = max(values.values()), [text(0, 16, title)]
    for number, (name, value) in enumerate(values.items()):
        y = 30 + number * (BAR + GAP)
        wide = (WIDTH - LEFT - 70) * value / longest
        parts += [text(LEFT - 8, y + 16, name, "end"), text(LEFT + wide + 6, y + 16, f"{value:.4g}")]
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{wide:.1f}" height="{BAR}" fill="{COLOURS[number % 7]}"/>')
    return svg(parts, 34 + len(values) * (BAR + GAP))


def curves(lines: dict[str, dict[int, float]], title: str) -> str:
    """A polyline for each contender; both axes begin at 0."""
    high, bottom = 260, 290
    right = max(max(points) for points in lines.values())
    top = max(max(points.values()) for points in lines.values())
    parts = [text(0, 16, title), f'<path d="M{LEFT} 30V{bottom}H{WIDTH - 110}" fill="none" stroke="#999"/>']
    parts += [text(LEFT - 8, 40, f"{top:.4g}", "end"), text(LEFT - 8, bottom, "0", "end")]
    for at in sorted({at for points in lines.values() for at in points}):
        parts.append(text(LEFT + (WIDTH - LEFT - 110) * at / right, bottom + 16, str(at), "middle"))
    for number, (name, points) in enumerate(lines.items()):
        at = [(LEFT + (WIDTH - LEFT - 110) * x / right, bottom - high * y / top) for x, y in sorted(points.items())]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        colour = COLOURS[number % 7]
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in at]
        parts.append(text(WIDTH - 104, 46 + 16 * number, name, fill=colour))
    return svg(parts, bottom + 26)


def text(x: float, y: float, content: str, anchor: str = "start", fill: str = "#555") -> str:
    """A line of text."""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{fill}">{escape(content)}</text>'


def svg(parts: list[str], height: int) -> str:
    """A picture, readable on light and dark pages."""
    size = f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="13"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *parts, "</svg>\n"])
