"""The app's resources as the phone would choose them: for light or dark, a density and the user's font size.

Reads the very files that aapt2 compiles; knows only what the app uses of Android's resource language.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

ANDROID = "{http://schemas.android.com/apk/res/android}"
TOOLS = "{http://schemas.android.com/tools}"
PLATFORM_COLORS = {"@android:color/transparent": "#00000000", "@android:color/black": "#FF000000"}


class Resources:
    """Values by name, in one configuration."""

    def __init__(self, folder: Path, *, night: bool, density: float, font_scale: float) -> None:
        self.folder = folder
        self.density = density
        self.font_scale = font_scale
        self.values: dict[tuple[str, str], str] = {}
        self.styles: dict[str, tuple[str, dict[str, str]]] = {}
        for name in ("values", "values-night") if night else ("values",):
            for path in sorted((folder / name).glob("*.xml")):
                self._read(ET.parse(path).getroot())

    def _read(self, root: ET.Element) -> None:
        for element in root:
            name = element.attrib["name"]
            if element.tag == "style":
                parent = element.attrib.get("parent", name.rpartition(".")[0])
                items = {i.attrib["name"].removeprefix("android:"): i.text or "" for i in element}
                self.styles[name] = (parent, items)
            else:
                self.values[element.tag, name] = _unescape(element.text or "")

    def style(self, reference: str) -> dict[str, str]:
        """All items of a style, its parents' first; platform styles have none here."""
        name = reference.removeprefix("@style/")
        if name not in self.styles:
            return {}
        parent, items = self.styles[name]
        return {**self.style(parent), **items}

    def text(self, value: str) -> str:
        """A string or a literal."""
        return self.values["string", value[8:]] if value.startswith("@string/") else value

    def color(self, value: str) -> tuple[int, int, int, int]:
        """Red, green, blue, alpha."""
        value = PLATFORM_COLORS.get(value, value)
        if value.startswith("@color/"):
            value = self.values["color", value[7:]]
        digits = value.removeprefix("#")
        digits = digits if len(digits) == 8 else "FF" + digits
        alpha, red, green, blue = (int(digits[i : i + 2], 16) for i in (0, 2, 4, 6))
        return red, green, blue, alpha

    def pixels(self, value: str) -> int:
        """A dimension in pixels."""
        number, unit = re.fullmatch(r"(-?[\d.]+)(dp|sp|px)", value).groups()  # type: ignore[union-attr]
        return round(float(number) * {"px": 1.0, "dp": self.density, "sp": self.density * self.font_scale}[unit])

    def xml(self, reference: str) -> ET.Element:
        """A layout or drawable by its reference, e.g. "@drawable/card"."""
        kind, _, name = reference.removeprefix("@").partition("/")
        return ET.parse(self.folder / kind / f"{name}.xml").getroot()


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], " ".join(text.split()))
