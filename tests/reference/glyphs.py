"""Digit sprites, scikit-learn's handwritten ones and rendered fonts, in training and held-out parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FONT_ROOT = Path("/usr/share/fonts/truetype")
HELD_OUT_FONTS = (  # noqa: SIM905
    "dejavu/DejaVuSerif-Italic.ttf dejavu/DejaVuSansCondensed-Bold.ttf freefont/FreeSans.ttf "
    "freefont/FreeSerifBold.ttf liberation/LiberationMono-Regular.ttf liberation/LiberationSerif- "
    "BoldItalic.ttf liberation/LiberationSansNarrow-Regular.ttf dejavu/DejaVuSansMono-Oblique.ttf"
).split()
FONT_HEIGHT = 44


@dataclass(frozen=True, slots=True)
class Glyph:
    """One sprite [h, w] with ink 0..1, cut to the ink, and where it is from."""

    digit: int
    group: str
    sprite: NDArray[np.float32]


def handwritten(*, held_out: bool) -> list[Glyph]:
    """360 held-out or 1,437 training digits of 8x8 pixels, enlarged to 32 rows."""
    images, targets = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(targets)), test_size=360, random_state=0, stratify=targets)
    return [
        Glyph(int(targets[n]), "handwritten", enlarge(images[n].reshape(8, 8).astype(np.uint8)))
        for n in sorted(test if held_out else train)
    ]


def enlarge(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An 8x8 digit with values 0..16 as a smooth sprite: four times as large, cut to the ink."""
    # kept beside the packaged copy of the same arithmetic in heldout.py through import
    from palmtop.runtime.reference.heldout import enlarge as packaged

    return packaged(pixels)


def fonts(*, held_out: bool) -> list[Glyph]:
    """Digits of the held-out or of all other fonts."""
    paths = sorted(path for path in FONT_ROOT.rglob("*.ttf"))
    chosen = [p for p in paths if (str(p.relative_to(FONT_ROOT)) in HELD_OUT_FONTS) == held_out]
    return [Glyph(digit, f"font {path.stem}", _render(path, digit)) for path in chosen for digit in range(10)]


def _render(path: Path, digit: int) -> NDArray[np.float32]:
    font = ImageFont.truetype(str(path), 60)
    canvas = Image.new("L", (120, 120))
    ImageDraw.Draw(canvas).text((30, 20), str(digit), fill=255, font=font)
    box = canvas.getbbox()
    cut = canvas.crop(box)
    width = max(6, round(cut.width * FONT_HEIGHT / cut.height))
    return np.asarray(cut.resize((width, FONT_HEIGHT), Image.Resampling.BILINEAR), np.float32) / 255.0
