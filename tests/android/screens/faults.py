"""What a person would complain about on a screen: clipped text, small targets, missing words, weak contrast."""

from __future__ import annotations

from tests.android.screens.paint import background
from tests.android.screens.views import TEXTS, View

SMALLEST_TARGET_DP = 48
LEAST_CONTRAST = 4.5  # WCAG 2.1, AA
PRESSABLE = ("Button", "ImageButton", "EditText", "SeekBar")
SCROLLS = ("ScrollView", "ListView")


def faults(screen: View) -> list[str]:
    """One line for each fault; empty for a good screen."""
    labelled = {v.get("labelFor").rpartition("/")[2] for v in screen.walk()} - {""}
    return [f"{_name(v)}: {fault}" for v in screen.walk() for fault in _of(v, labelled)] + _outside(screen, screen)


def _of(view: View, labelled: set[str]) -> list[str]:
    found = []
    if view.is_cut:
        found.append(f"text {view.text[:40]!r} does not fit")
    smallest = view.resources.pixels(f"{SMALLEST_TARGET_DP}dp")
    if view.kind in PRESSABLE and min(view.width, view.height) < smallest:
        found.append(f"is {view.width} x {view.height} pixels, expected {smallest} for a finger")
    is_said = view.kind in ("ImageButton", "ImageView") and view.get("importantForAccessibility") != "no"
    if is_said and not view.resources.text(view.get("contentDescription")):
        found.append("has no contentDescription for TalkBack")
    if view.kind == "EditText" and not view.get("hint") and view.get("id").rpartition("/")[2] not in labelled:
        found.append("has neither a hint nor a label for TalkBack")
    return found


def contrast_faults(screen: View, below: tuple[int, int, int] = (255, 255, 255)) -> list[str]:
    """Text that is hard to read on what it lies on."""
    if screen.is_gone:
        return []
    fill = background(screen)[0]
    if fill is not None and fill[3] == 255:
        below = fill[:3]
    found = []
    if screen.kind in TEXTS and screen.text:
        color = screen.resources.color(screen.get("textColor"))[:3]
        ratio = contrast(color, below)
        if ratio < LEAST_CONTRAST:
            found.append(f"{_name(screen)}: contrast {ratio:.1f}, expected {LEAST_CONTRAST}")
    return found + [fault for child in screen.children for fault in contrast_faults(child, below)]


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Of two colours, 1 to 21, as WCAG 2.1 defines it."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(color: tuple[int, ...]) -> float:
    parts = [c / 255 for c in color[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _outside(view: View, room: View) -> list[str]:
    """Views that stick out of the screen, or of what they scroll in, where nobody can reach them."""
    found = []
    for child in view.children:
        if child.is_gone:
            continue
        sticks_out = child.x < room.x or child.x + child.width > room.x + room.width
        if room.kind not in SCROLLS:
            sticks_out |= child.y < room.y or child.y + child.height > room.y + room.height
        if sticks_out:
            found.append(f"{_name(child)}: sticks out of {_name(room)}")
        found += _outside(child, child if child.kind in SCROLLS else room)
    return found


def _name(view: View) -> str:
    return view.get("id").rpartition("/")[2] or view.text[:20] or view.kind
