"""Measured views as a picture: backgrounds, text, vector drawables, bars."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from PIL import Image, ImageDraw

from tests.android.screens.resources import ANDROID, Resources
from tests.android.screens.views import TEXTS, View, line_height

ARC_STEPS = 16


def paint(view: View) -> Image.Image:
    """A whole screen."""
    image = Image.new("RGB", (view.width, view.height), "white")
    _paint(view, image, (0, 0, view.width, view.height))
    return image


def _paint(view: View, image: Image.Image, clip: tuple[int, int, int, int]) -> None:
    if view.is_gone:
        return
    box = (view.x, view.y, view.x + view.width, view.y + view.height)
    clip = (max(clip[0], box[0]), max(clip[1], box[1]), min(clip[2], box[2]), min(clip[3], box[3]))
    if clip[0] >= clip[2] or clip[1] >= clip[3]:
        return
    layer = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(layer)
    if view.get("background"):
        _background(view, draw, box)
    if view.kind in TEXTS:
        _text(view, draw)
    if view.kind == "CheckBox":
        _check_box(view, draw)
    elif view.kind in ("ImageView", "ImageButton"):
        _picture(view, layer)
    elif view.kind in ("ProgressBar", "SeekBar"):
        _bar(view, draw)
    if view.get("alpha"):
        layer.putalpha(layer.getchannel("A").point([round(i * float(view.get("alpha"))) for i in range(256)]))
    part = layer.crop(clip)
    image.paste(part, clip[:2], part)
    for child in view.children:
        _paint(child, image, clip)


def _background(view: View, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int]) -> None:
    fill, radius, stroke = background(view)
    if fill is None:
        return
    corner = min(radius, view.width // 2, view.height // 2)
    width = view.resources.pixels("1dp") if stroke else 0
    draw.rounded_rectangle((box[0], box[1], box[2] - 1, box[3] - 1), corner, fill, stroke, width)


def background(view: View) -> tuple[tuple[int, int, int, int] | None, int, tuple[int, int, int, int] | None]:
    """Fill, corner radius and stroke of what a view lies on; fill None where it shows its parent's."""
    value, resources = view.get("background"), view.resources
    if not value.startswith("@drawable/"):
        return (resources.color(value) if value else None), 0, None
    root = resources.xml(value)
    items = [root] if root.tag == "shape" else [i for i in root if i.attrib.get(f"{ANDROID}id") != "@android:id/mask"]
    if not items:
        return None, 0, None  # a ripple that is seen only when pressed
    shape = items[0] if items[0].tag == "shape" else items[0][0]
    parts = {child.tag: child.attrib for child in shape}
    fill = resources.color(parts["solid"][f"{ANDROID}color"])
    radius = resources.pixels(parts["corners"][f"{ANDROID}radius"]) if "corners" in parts else 0
    return fill, radius, resources.color(parts["stroke"][f"{ANDROID}color"]) if "stroke" in parts else None


def _text(view: View, draw: ImageDraw.ImageDraw) -> None:
    typeface = view.font()
    is_hint = not view.resources.text(view.get("text"))
    color = view.resources.color(view.get("textColorHint" if is_hint and view.get("hint") else "textColor"))
    left, right = view.x + view.edge("padding", "Start"), view.x + view.width - view.edge("padding", "End")
    top, bottom = view.y + view.edge("padding", "Top"), view.y + view.height - view.edge("padding", "Bottom")
    words = view.get("gravity").split("|")
    y = top
    if (view.kind != "TextView" and "top" not in words) or {"center", "center_vertical"} & set(words):
        y = max(top, (top + bottom - len(view.lines) * line_height(typeface)) // 2)
    for line in view.lines:
        free = right - left - typeface.getlength(line)
        is_centered = bool({"center", "center_horizontal"} & set(words))
        draw.text((left + (free / 2 if is_centered else 0), y), line, font=typeface, fill=color)
        y += line_height(typeface)


def _check_box(view: View, draw: ImageDraw.ImageDraw) -> None:
    resources, accent = view.resources, view.resources.color("@color/accent")
    side, left, middle = resources.pixels("18dp"), view.x + resources.pixels("4dp"), view.y + view.height // 2
    box = (left, middle - side // 2, left + side, middle + side // 2)
    is_checked = view.get("checked") == "true"
    edge = resources.pixels("2dp")
    draw.rounded_rectangle(box, edge, accent if is_checked else None, accent, edge)
    if is_checked:
        points = [(box[0] + side * x // 100, box[1] + side * y // 100) for x, y in ((22, 52), (42, 72), (78, 30))]
        draw.line(points, (255, 255, 255, 255), resources.pixels("2dp"))


def _bar(view: View, draw: ImageDraw.ImageDraw) -> None:
    resources = view.resources
    inset = resources.pixels("16dp") if view.kind == "SeekBar" else 0
    left, right, middle = view.x + inset, view.x + view.width - inset, view.y + view.height // 2
    half = resources.pixels("2dp")
    accent = resources.color("@color/accent")
    at = left + round((right - left) * int(view.get("progress", "0")) / int(view.get("max", "100")))
    draw.rounded_rectangle((left, middle - half, right, middle + half), half, (*accent[:3], 70))
    if at > left:
        draw.rounded_rectangle((left, middle - half, at, middle + half), half, accent)
    if view.kind == "SeekBar":
        knob = resources.pixels("7dp")
        draw.ellipse((at - knob, middle - knob, at + knob, middle + knob), accent)


def _picture(view: View, layer: Image.Image) -> None:
    source = view.get("src")
    if source.startswith("@drawable/"):
        icon = vector(view.resources, source, view.get("tint"))
        place = (view.x + (view.width - icon.width) // 2, view.y + (view.height - icon.height) // 2)
        layer.paste(icon, place, icon)
    elif source:
        pad = view.edge("padding", "Top")
        size = (view.width - 2 * pad, view.height - 2 * pad)
        fit = min if view.get("scaleType") == "fitCenter" else max  # else centerCrop
        with Image.open(source) as picture:
            scale = fit(size[0] / picture.width, size[1] / picture.height)
            whole = picture.convert("RGB").resize((round(picture.width * scale), round(picture.height * scale)))
        left, top = (whole.width - size[0]) // 2, (whole.height - size[1]) // 2
        part = whole.crop(
            (max(0, left), max(0, top), min(whole.width, left + size[0]), min(whole.height, top + size[1]))
        )
        layer.paste(part, (view.x + pad + max(0, -left), view.y + pad + max(0, -top)))


def vector(resources: Resources, reference: str, tint: str = "", size: int | None = None) -> Image.Image:
    """A vector drawable in its own size, or in ``size`` pixels, tinted when a colour is given."""
    root = resources.xml(reference)
    width = size or resources.pixels(root.attrib[f"{ANDROID}width"])
    scale = width / float(root.attrib[f"{ANDROID}viewportWidth"])
    image = Image.new("RGBA", (width, width))
    draw = ImageDraw.Draw(image)
    for path in root:
        _draw_path(path, draw, resources, scale, resources.color(tint) if tint else None)
    return image


def _draw_path(
    path: ET.Element,
    draw: ImageDraw.ImageDraw,
    resources: Resources,
    scale: float,
    tint: tuple[int, int, int, int] | None,
) -> None:
    for points in polylines(path.attrib[f"{ANDROID}pathData"]):
        corners = [(x * scale, y * scale) for x, y in points]
        if f"{ANDROID}fillColor" in path.attrib:
            draw.polygon(corners, tint or resources.color(path.attrib[f"{ANDROID}fillColor"]))
        else:
            color = tint or resources.color(path.attrib[f"{ANDROID}strokeColor"])
            wide = float(path.attrib[f"{ANDROID}strokeWidth"]) * scale
            draw.line(corners, color, round(wide), joint="curve")
            for x, y in (corners[0], corners[-1]):
                draw.ellipse((x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2), color)


def polylines(data: str) -> list[list[tuple[float, float]]]:
    """The subset of SVG path data that the app's icons use: absolute M, L, Z, and A with round radii."""
    lines: list[list[tuple[float, float]]] = []
    for command, rest in re.findall(r"([MLAZ])([^MLAZ]*)", data):
        n = [float(x) for x in re.findall(r"-?[\d.]+", rest)]
        if command == "M":
            lines.append([(n[0], n[1])])
        elif command == "L":
            lines[-1].append((n[0], n[1]))
        elif command == "A":
            lines[-1] += _arc(lines[-1][-1], (n[5], n[6]), n[0], large=bool(n[3]), clockwise=bool(n[4]))
        else:
            lines[-1].append(lines[-1][0])
    return lines


def _arc(
    start: tuple[float, float], end: tuple[float, float], radius: float, *, large: bool, clockwise: bool
) -> list[tuple[float, float]]:
    dx, dy = end[0] - start[0], end[1] - start[1]
    chord = math.hypot(dx, dy)
    away = math.sqrt(max(0.0, radius * radius - chord * chord / 4))
    side = 1 if large == clockwise else -1
    cx = (start[0] + end[0]) / 2 + side * away * dy / chord
    cy = (start[1] + end[1]) / 2 - side * away * dx / chord
    first = math.atan2(start[1] - cy, start[0] - cx)
    last = math.atan2(end[1] - cy, end[0] - cx)
    turn = (last - first) % (2 * math.pi)
    turn = turn if clockwise else turn - 2 * math.pi
    angles = [first + turn * i / ARC_STEPS for i in range(1, ARC_STEPS + 1)]
    return [(cx + radius * math.cos(a), cy + radius * math.sin(a)) for a in angles]


def save(image: Image.Image, path: Path, width: int) -> None:
    """Half the size smooths the edges; few colours keep the file small."""
    small = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    small.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
