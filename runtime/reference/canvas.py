"""Pictures of digit rows, composed from glyph sprites: numpy only, the same for training and for the held-out set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_DIGIT_HEIGHT = 24
MAX_DIGIT_HEIGHT = 46


@dataclass(frozen=True, slots=True)
class Picture:
    """A composed picture and where its digits are."""

    pixels: NDArray[np.uint8]
    """[height, width, 3]"""
    centres: tuple[tuple[float, float], ...]
    """(x, y) of each digit's middle, in pixels, left to right"""


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """A canvas size (width, height) with room for one to four digits."""
    return int(rng.integers(50, 169)), int(
        rng.choice([rng.integers(44, 57), rng.integers(57, 113)], p=[0.7, 0.3])
    )


def digits_that_fit(width: int) -> int:
    """How many digits of the smallest height a canvas of this width holds, at most three."""
    return max(1, min(3, int(width // (0.85 * MIN_DIGIT_HEIGHT))))


def compose(sprites: list[NDArray[np.float32]], width: int, height: int, rng: np.random.Generator) -> Picture:
    """Draw sprites left to right on one canvas: size, place, slant, colours, blur and noise vary.

    Args:
        sprites: each [h, w], ink 0..1, cut to the ink.
        width: canvas width in pixels.
        height: canvas height in pixels.
        rng: source of all variation.
    """
    count = len(sprites)
    slot = width / count
    tall = min(MAX_DIGIT_HEIGHT, height - 6, 1.25 * slot)
    digit_height = rng.uniform(min(MIN_DIGIT_HEIGHT, tall), tall)
    row_y = rng.uniform(digit_height / 2 + 2, height - digit_height / 2 - 2)
    pitch = rng.uniform(min(0.78 * digit_height, slot), min(1.3 * digit_height, slot))
    first_x = rng.uniform(pitch / 2, width - (count - 0.5) * pitch)
    ink = np.zeros((height, width), np.float32)
    centres = []
    for number, sprite in enumerate(sprites):
        scale = digit_height * rng.uniform(0.92, 1.06) / sprite.shape[0]
        wide = min(1.0, 0.96 * pitch / (scale * sprite.shape[1]))
        x = first_x + number * pitch + rng.uniform(-0.04, 0.04) * pitch
        y = float(np.clip(row_y + rng.uniform(-2, 2), digit_height / 2, height - digit_height / 2))
        _stamp(ink, sprite, x, y, scale * wide, scale, rng.uniform(-0.14, 0.14), rng.uniform(-0.15, 0.15))
        centres.append((x, y))
    return Picture(_colour(ink, rng), tuple(centres))


def _stamp(
    ink: NDArray[np.float32],
    sprite: NDArray[np.float32],
    x: float,
    y: float,
    scale_x: float,
    scale_y: float,
    angle: float,
    slant: float,
) -> None:
    """Add one rotated and slanted sprite by bilinear sampling of its inverse image."""
    high, wide = sprite.shape
    reach_x = int(0.75 * scale_x * wide + 0.4 * scale_y * high) + 2
    reach_y = int(0.62 * scale_y * high + 0.2 * scale_x * wide) + 2
    top, bottom = max(0, int(y) - reach_y), min(ink.shape[0], int(y) + reach_y + 1)
    left, right = max(0, int(x) - reach_x), min(ink.shape[1], int(x) + reach_x + 1)
    dy = (np.arange(top, bottom, dtype=np.float32) + 0.5 - y)[:, None]
    dx = (np.arange(left, right, dtype=np.float32) + 0.5 - x)[None, :]
    cos, sin = np.cos(angle), np.sin(angle)
    turned_x, turned_y = cos * dx + sin * dy, cos * dy - sin * dx
    u = (turned_x + slant * turned_y) / scale_x + wide / 2 - 0.5 + 1.0
    v = turned_y / scale_y + high / 2 - 0.5 + 1.0
    padded = np.pad(sprite, 1)
    inside = (u > 0) & (v > 0) & (u < wide + 1) & (v < high + 1)
    u, v = np.clip(u, 0, wide + 0.999), np.clip(v, 0, high + 0.999)
    column, row = u.astype(np.intp), v.astype(np.intp)
    fu, fv = u - column, v - row
    value = (padded[row, column] * (1 - fu) + padded[row, column + 1] * fu) * (1 - fv) + (
        padded[row + 1, column] * (1 - fu) + padded[row + 1, column + 1] * fu
    ) * fv
    region = ink[top:bottom, left:right]
    np.maximum(region, np.where(inside, value, 0.0), out=region)


def _colour(ink: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    paper, pen = rng.uniform(175, 255, 3), rng.uniform(0, 85, 3)
    if rng.random() < 0.7:  # mostly grey
        paper, pen = np.full(3, paper[0]), np.full(3, pen[0])
    if rng.random() < 0.4:
        paper, pen = pen, paper
    if rng.random() < 0.3:
        ink = (ink + np.roll(ink, 1, 0) + np.roll(ink, 1, 1) + np.roll(ink, (1, 1), (0, 1))) / 4
    pixels = paper + ink[..., None] * (pen - paper)  # [H, W, 3]
    shade = rng.uniform(0, 12) * np.linspace(-1, 1, ink.shape[1])[None, :, None]
    noise = rng.standard_normal(ink.shape, np.float32)[..., None] * rng.uniform(0, 9)
    return np.clip(pixels + shade + noise, 0, 255).astype(np.uint8)
