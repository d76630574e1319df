"""An SVG picture for a page that may be light or dark: text, lines, boxes and embedded images.

Each picture has a background of its own and two sets of colours, and no font of another host. The boxes of its texts
are kept, so that a test finds texts that overlap or leave the picture.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

COLOURS = {  # class: fill on a light page, on a dark page
    "paper": ("#ffffff", "#0d1117"),
    "panel": ("#f6f8fa", "#151b23"),
    "ink": ("#1f2328", "#f0f6fc"),
    "soft": ("#59636e", "#9198a1"),
    "line": ("#d1d9e0", "#3d444d"),
    "own": ("#0969da", "#4493f8"),
    "peer": ("#9a6700", "#d29922"),
    "third": ("#8250df", "#ab7df8"),
    "good": ("#1a7f37", "#3fb950"),
    "bad": ("#d1242f", "#f85149"),
    "on": ("#ffffff", "#0d1117"),
}
SANS = "system-ui,-apple-system,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono','DejaVu Sans Mono',monospace"
SANS_EM, BOLD_EM, MONO_EM = 0.60, 0.66, 0.61
"""Widths of a letter that common fonts stay below, as shares of the font's size."""
RADIUS = 10


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle that a text takes, in pixels."""

    left: float
    top: float
    right: float
    bottom: float
    text: str

    def meets(self, other: Box) -> bool:
        """Whether two boxes overlap."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


class Canvas:
    """A picture that is drawn part by part.

    Attributes:
        width: pixels.
        height: pixels.
        texts: boxes of the texts that were drawn.
        marks: boxes of discs and pictures.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        """Begin an empty picture; ``title`` is what a screen reader says of it."""
        self.width, self.height, self.title = width, height, title
        self.texts: list[Box] = []
        self.marks: list[Box] = []
        self._parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        words: str,
        colour: str = "ink",
        *,
        size: int = 14,
        anchor: str = "start",
        bold: bool = False,
        mono: bool = False,
    ) -> Box:
        """Write one line whose base line is at ``y``, and return the box that it takes."""
        width = len(words) * size * (MONO_EM if mono else BOLD_EM if bold else SANS_EM)
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        box = Box(left, y - 0.8 * size, left + width, y + 0.25 * size, words)
        self.texts.append(box)
        looks = f'class="{colour}{" mono" if mono else ""}" font-size="{size}"'
        looks += ' font-weight="600"' if bold else ""
        looks += f' text-anchor="{anchor}"' if anchor != "start" else ""
        looks += ' xml:space="preserve"' if "  " in words or words != words.strip() else ""
        self._parts.append(f'<text x="{x:g}" y="{y:g}" {looks}>{escape(words)}</text>')
        return box

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = "line", width: float = 1) -> None:
        """Draw a straight line."""
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self._parts.append(f'<line class="s-{colour}" {ends} stroke-width="{width:g}"/>')

    def path(self, points: list[tuple[float, float]], colour: str, width: float = 2) -> None:
        """Draw a line through points."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline class="s-{colour}" points="{places}" fill="none" stroke-width="{width:g}"/>')

    def box(
        self, x: float, y: float, width: float, height: float, colour: str, *, radius: float = 0, border: str = ""
    ) -> None:
        """Fill a rectangle, with a border of another colour if one is named."""
        looks = f'class="{colour}{f" s-{border}" if border else ""}"' + (f' rx="{radius:g}"' if radius else "")
        self._parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {looks}/>')

    def fill(self, x: float, y: float, width: float, height: float, value: str) -> None:
        """Fill a rectangle with a colour that is the same on every page."""
        self._parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{value}"/>')

    def on_fill(self, x: float, y: float, words: str, value: str, size: int) -> None:
        """Write in the middle of a filled rectangle, in a colour that is the same on every page."""
        width = len(words) * size * SANS_EM
        self.texts.append(Box(x - width / 2, y - 0.8 * size, x + width / 2, y + 0.25 * size, words))
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="middle" fill="{value}">{escape(words)}</text>'
        )

    def disc(self, x: float, y: float, radius: float, colour: str, *, ring: bool = False) -> None:
        """Draw a disc, or a ring that shows the background inside."""
        self.marks.append(Box(x - radius, y - radius, x + radius, y + radius, colour))
        looks = f'class="paper s-{colour}" stroke-width="2"' if ring else f'class="{colour}"'
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {looks}/>')

    def arrow(self, x1: float, x2: float, y: float, colour: str = "soft") -> None:
        """Draw a horizontal arrow from ``x1`` to ``x2``."""
        self.line(x1, y, x2 - 6, y, colour, 1.5)
        self._parts.append(
            f'<path class="{colour}" d="M{x2 - 8:.1f},{y - 4:.1f} L{x2:.1f},{y:.1f} L{x2 - 8:.1f},{y + 4:.1f} z"/>'
        )

    def image(self, x: float, y: float, width: float, height: float, file: Path) -> None:
        """Embed a PNG."""
        self.marks.append(Box(x, y, x + width, y + height, file.name))
        data = base64.b64encode(file.read_bytes()).decode("ascii")
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self._parts.append(f'<image {place} href="data:image/png;base64,{data}"/>')

    def svg(self) -> str:
        """Return the picture."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" font-family="{SANS}" role="img">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{_styles()}</style>\n"
            f'<rect class="paper s-line" x="0.5" y="0.5" width="{self.width - 1}" height="{self.height - 1}"'
            f' rx="{RADIUS}"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )


def _styles() -> str:
    def rules(at: int) -> str:
        return "".join(f".{name}{{fill:{c[at]}}}.s-{name}{{stroke:{c[at]}}}" for name, c in COLOURS.items())

    return f".mono{{font-family:{MONO}}}\n{rules(0)}\n@media(prefers-color-scheme:dark){{{rules(1)}}}\n"
