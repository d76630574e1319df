"""Layouts measured as Android measures them: a tree of views with a place and a size in pixels.

Source of the rules: View, TextView, LinearLayout, FrameLayout of AOSP (android-14), for the attributes the app uses.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

from tests.android.screens.resources import ANDROID, TOOLS, Resources

Item = tuple[str, Mapping[str, Any]]  # a layout's name and what the app sets in it
TEXTS = ("TextView", "Button", "EditText", "CheckBox")
BOX = "32dp"  # room of a CheckBox's box, before its text
FILL = "match_parent"
WRAP = "wrap_content"
UNLIMITED = 1 << 20
LARGE_FONT = 1.3


@dataclass
class View:
    """One view: what the XML and the app say of it, and where it lies."""

    kind: str
    attributes: dict[str, str]
    resources: Resources
    children: list[View] = field(default_factory=list)
    x: int = 0
    y: int = 0
    width: int = 0
    height: int = 0
    lines: list[str] = field(default_factory=list)
    is_cut: bool = False  # text that does not fit and is not allowed to end in dots
    content_height: int = 0

    def get(self, name: str, default: str = "") -> str:
        """An attribute without its namespace."""
        return self.attributes.get(name, default)

    def dimension(self, name: str) -> int:
        """An attribute in pixels, 0 where there is none."""
        value = self.get(name)
        return self.resources.pixels(value) if value and value[0] in "-0123456789" else 0

    def edge(self, kind: str, side: str) -> int:
        """A padding or margin; ``kind`` is "padding" or "layout_margin"."""
        own = self.dimension(kind + side) or self.dimension(kind)
        return own + (self.resources.pixels(BOX) if (self.kind, kind, side) == ("CheckBox", "padding", "Start") else 0)

    @property
    def is_gone(self) -> bool:
        """Neither seen nor measured."""
        return self.get("visibility") == "gone"

    @property
    def text(self) -> str:
        """What is written in it, or its hint."""
        return self.resources.text(self.get("text")) or self.resources.text(self.get("hint"))

    def font(self) -> ImageFont.FreeTypeFont:
        """Roboto in the view's size and weight."""
        return font(self.get("textStyle") == "bold", self.resources.pixels(self.get("textSize", "14sp")))

    def walk(self) -> list[View]:
        """This view and all below it that are not gone."""
        return [] if self.is_gone else [self, *(v for child in self.children for v in child.walk())]


FONTS: dict[bool, Path] = {}


@cache
def font(bold: bool, size: int) -> ImageFont.FreeTypeFont:
    """Roboto; FONTS must have been filled."""
    return ImageFont.truetype(str(FONTS[bold]), size)


def build(resources: Resources, layout: str, changes: Mapping[str, Any] | None = None) -> View:
    """Inflate a layout.

    Args:
        resources: the configuration.
        layout: its name.
        changes: by id, what the app sets: attributes, or "children" as a list of (layout, changes).
    """
    return _inflate(resources, resources.xml(f"@layout/{layout}"), changes or {})


def _inflate(resources: Resources, element: ET.Element, changes: Mapping[str, Any]) -> View:
    attributes = resources.style(element.attrib.get("style", ""))
    attributes |= {k.removeprefix(ANDROID): v for k, v in element.attrib.items() if k.startswith(ANDROID)}
    attributes |= {k.removeprefix(TOOLS): v for k, v in element.attrib.items() if k.startswith(TOOLS)}
    identity = attributes.get("id", "").rpartition("/")[2]
    change = dict(changes.get(identity, {}))
    items: Sequence[Item] = change.pop("children", ())
    attributes |= {k: str(v) for k, v in change.items()}
    view = View(element.tag, attributes, resources)
    view.children = [_inflate(resources, child, changes) for child in element]
    view.children += [build(resources, name, inner) for name, inner in items]
    if identity == "buttons" and resources.font_scale > LARGE_FONT:
        _stack(view)
    return view


def _stack(row: View) -> None:
    """What ButtonRow.java does with large fonts: buttons below one another."""
    row.attributes["orientation"] = "vertical"
    for button in row.children:
        button.attributes |= {"layout_width": FILL, "layout_weight": "", "layout_marginTop": "8dp"}
        button.attributes |= {"layout_marginStart": "0dp", "layout_marginEnd": "0dp"}


def place(view: View, width: int, height: int) -> View:
    """Measure and lay out a screen of this many pixels."""
    _measure(view, width, height, exact_width=True, exact_height=True)
    _layout(view, 0, 0)
    return view


def _measure(view: View, width: int, height: int, *, exact_width: bool, exact_height: bool) -> None:
    """Give a view its size within what there is; exact sizes are taken as they are."""
    left, right = view.edge("padding", "Start"), view.edge("padding", "End")
    top, bottom = view.edge("padding", "Top"), view.edge("padding", "Bottom")
    inner_width, inner_height = max(0, width - left - right), max(0, height - top - bottom)
    if view.kind in TEXTS:
        wanted = _measure_text(view, inner_width)
    elif view.kind == "LinearLayout":
        wanted = _measure_linear(view, inner_width, inner_height, exact_width, exact_height)
    elif view.kind in ("ScrollView", "ListView"):
        # Whatever is in it may be longer than the screen.
        wanted = _measure_stack(view, inner_width, UNLIMITED)
        view.content_height = wanted[1]
    elif view.kind == "FrameLayout":
        wanted = (0, 0)
        for child in view.children:
            if not child.is_gone:
                size = _measure_child(child, inner_width, inner_height)
                wanted = (max(wanted[0], size[0]), max(wanted[1], size[1]))
    elif view.kind == "ProgressBar":
        wanted = (inner_width, view.resources.pixels("16dp"))
    else:
        wanted = (inner_width if view.kind == "SeekBar" else 0, 0)
    natural_width = max(wanted[0] + left + right, view.dimension("minWidth"))
    natural_height = max(wanted[1] + top + bottom, view.dimension("minHeight"))
    view.width = width if exact_width else min(natural_width, width)
    view.height = height if exact_height else min(natural_height, height)
    if view.kind in TEXTS and view.height < natural_height:
        view.is_cut = True


def _measure_child(child: View, width: int, height: int, share: tuple[str, int] | None = None) -> tuple[int, int]:
    """Measure within a parent's room; gives the outer size, margins counted. ``share`` fixes one side by weight."""
    across = child.edge("layout_margin", "Start") + child.edge("layout_margin", "End")
    along = child.edge("layout_margin", "Top") + child.edge("layout_margin", "Bottom")
    sizes = []
    for name, room, margins in (("width", width, across), ("height", height, along)):
        wanted = child.get(f"layout_{name}", WRAP)
        if share is not None and share[0] == name:
            sizes.append((max(0, share[1] - margins), True))
        elif wanted == FILL:
            sizes.append((max(0, room - margins), room < UNLIMITED))
        elif wanted == WRAP:
            sizes.append((max(0, room - margins), False))
        else:
            sizes.append((child.resources.pixels(wanted), True))
    (w, exact_w), (h, exact_h) = sizes
    _measure(child, w, h, exact_width=exact_w, exact_height=exact_h)
    return child.width + across, child.height + along


def _measure_stack(view: View, width: int, height: int) -> tuple[int, int]:
    sizes = [_measure_child(child, width, height) for child in view.children if not child.is_gone]
    return max((s[0] for s in sizes), default=0), sum(s[1] for s in sizes)


def _measure_linear(view: View, width: int, height: int, exact_width: bool, exact_height: bool) -> tuple[int, int]:
    vertical = view.get("orientation", "horizontal") == "vertical"
    along, name = (height, "height") if vertical else (width, "width")
    is_exact = exact_height if vertical else exact_width
    shown = [child for child in view.children if not child.is_gone]
    weighted = [c for c in shown if c.get("layout_weight") and (is_exact or not vertical)]
    used = cross = 0
    for child in shown:
        if child in weighted:
            continue
        size = _measure_child(child, width, height - used) if vertical else _measure_child(child, width - used, height)
        used += size[1] if vertical else size[0]
        cross = max(cross, size[0] if vertical else size[1])
    total = sum(float(c.get("layout_weight")) for c in weighted)
    for child in weighted:
        share = round(max(0, along - used) * float(child.get("layout_weight")) / total)
        size = _measure_child(child, width, height, (name, share))
        cross = max(cross, size[0] if vertical else size[1])
    full = along if weighted else used
    return (cross, full) if vertical else (full, cross)


def _measure_text(view: View, width: int) -> tuple[int, int]:
    typeface = view.font()
    # Verbatim text, e.g. a hash, may be broken anywhere; elsewhere a broken word is a fault.
    is_verbatim = view.get("textIsSelectable") == "true"
    view.lines = wrap(view.text, typeface, width, anywhere=is_verbatim)
    limit = int(view.get("maxLines", "0"))
    if limit and len(view.lines) > limit:
        view.is_cut = view.get("ellipsize") != "end"
        view.lines = [*view.lines[: limit - 1], _dotted(" ".join(view.lines[limit - 1 :]) + " ", typeface, width)]
    elif limit and view.get("ellipsize") == "end":
        view.lines = [_dotted(line, typeface, width) for line in view.lines]
    if any(typeface.getlength(line) > width + 1 for line in view.lines):
        view.is_cut = True  # a word that is longer than the line: Android breaks it in the middle
    rows = max(len(view.lines), int(view.get("minLines", "1")))
    return round(max((typeface.getlength(line) for line in view.lines), default=0)) + 1, rows * line_height(typeface)


def line_height(typeface: ImageFont.FreeTypeFont) -> int:
    """From one base line to the next."""
    ascent, descent = typeface.getmetrics()
    return ascent + descent


def wrap(text: str, typeface: ImageFont.FreeTypeFont, width: int, *, anywhere: bool = False) -> list[str]:
    """Break at blanks and at line ends, and in a word that is too long for a line when ``anywhere``."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and typeface.getlength(longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
            while anywhere and typeface.getlength(line) > width:
                fits = next(n for n in range(len(line), 0, -1) if n == 1 or typeface.getlength(line[:n]) <= width)
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line)
    return lines


def _dotted(text: str, typeface: ImageFont.FreeTypeFont, width: int) -> str:
    if typeface.getlength(text) <= width:
        return text
    while text and typeface.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _layout(view: View, x: int, y: int) -> None:
    """Place a measured view and its children."""
    view.x, view.y = x, y
    left, top = x + view.edge("padding", "Start"), y + view.edge("padding", "Top")
    width = view.width - view.edge("padding", "Start") - view.edge("padding", "End")
    height = view.height - view.edge("padding", "Top") - view.edge("padding", "Bottom")
    vertical = view.get("orientation", "horizontal") == "vertical" or view.kind in ("ScrollView", "ListView")
    shown = [child for child in view.children if not child.is_gone]
    used = sum(_outer(child, vertical) for child in shown)
    gravity = view.get("gravity", "top|start")
    offset = 0
    if view.kind == "LinearLayout":
        offset = _shift(gravity, vertical, (height if vertical else width) - used)
    elif view.kind == "ListView" and view.get("stackFromBottom") == "true":
        offset = height - used
    for child in shown:
        own = child.get("layout_gravity") or gravity
        start, above = child.edge("layout_margin", "Start"), child.edge("layout_margin", "Top")
        if view.kind == "FrameLayout":
            dx = _shift(own, False, width - _outer(child, False))
            dy = _shift(own, True, height - _outer(child, True))
        elif vertical:
            dx, dy = _shift(own, False, width - _outer(child, False)), offset
        else:
            dx, dy = offset, _shift(own, True, height - _outer(child, True))
        _layout(child, left + dx + start, top + dy + above)
        offset += _outer(child, vertical)


def _outer(view: View, vertical: bool) -> int:
    before, after = ("Top", "Bottom") if vertical else ("Start", "End")
    size = view.height if vertical else view.width
    return size + view.edge("layout_margin", before) + view.edge("layout_margin", after)


def _shift(gravity: str, vertical: bool, free: int) -> int:
    words = gravity.split("|")
    if ("bottom" if vertical else "end") in words:
        return max(0, free)
    if "center" in words or ("center_vertical" if vertical else "center_horizontal") in words:
        return max(0, free // 2)
    return 0
