"""Images of digit rows, composed from glyph sprites in numpy; the same for training and for testing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_DIGIT_HEIGHT = 30
MAX_DIGIT_HEIGHT = 44
MAX_DIGITS = 3
FREE_SHARE = 0.1
"""Share of canvases of any size, where a digit may lie across the seam of two tiles."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A composed image and the positions of its digits."""

    pixels: NDArray[np.uint8]
    """Pixel values, [height, width, 3]."""
    centres: tuple[tuple[float, float], ...]
    """(x, y) of each digit's middle, in pixels, left to right"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Size of a canvas and the number of digits on it."""

    width: int
    height: int
    count: int


def draw_layout(rng: np.random.Generator, *, least: int = 1) -> Layout:
    """Draw a canvas for `least` to three digits: mostly a row of 46 to 56 pixels for each, some of any size."""
    count = int(rng.integers(least, MAX_DIGITS + 1))
    if rng.random() < FREE_SHARE:
        return Layout(int(rng.integers(count * 36 + 16, 169)), int(rng.integers(44, 113)), count)
    return Layout(int(rng.integers(46 * count, 56 * count + 1)), int(rng.integers(46, 57)), count)


def compose(sprites: list[NDArray[np.float32]], width: int, height: int, rng: np.random.Generator) -> Picture:
    """Draw sprites left to right on one canvas with random size, position, slant, colours, blur and noise.

    Args:
        sprites: [h, w] sprites, ink 0..1, cut to the ink.
        width: canvas width in pixels.
        height: canvas height in pixels.
        rng: source of all variation.
    """
    slot = width / len(sprites)
    tall = min(MAX_DIGIT_HEIGHT, height - 6, 1.2 * slot)
    digit_height = rng.uniform(min(MIN_DIGIT_HEIGHT, tall), tall)
    pitch = slot if slot <= 56 else rng.uniform(0.9 * digit_height, slot)
    first_x = pitch / 2 + rng.uniform(0, width - len(sprites) * pitch)
    row_y = height / 2 + rng.uniform(-1, 1) * max(0.0, (height - digit_height) / 2 - 3)
    ink = np.zeros((height, width), np.float32)
    centres = []
    for number, sprite in enumerate(sprites):
        scale = digit_height * rng.uniform(0.92, 1.06) / sprite.shape[0]
        wide = min(1.0, 0.96 * pitch / (scale * sprite.shape[1]))
        x = first_x + number * pitch + rng.uniform(-0.07, 0.07) * pitch
        y = float(np.clip(row_y + rng.uniform(-2, 2), digit_height / 2, height - digit_height / 2))
        _stamp(ink, sprite, x, y, scale * wide, scale, rng.uniform(-0.1, 0.1), rng.uniform(-0.12, 0.12))
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
        ink = ((ink + np.roll(ink, 1, 0) + np.roll(ink, 1, 1) + np.roll(ink, (1, 1), (0, 1))) / 4).astype(np.float32)
    pixels = paper + ink[..., None] * (pen - paper)  # [H, W, 3]
    shade = rng.uniform(0, 12) * np.linspace(-1, 1, ink.shape[1])[None, :, None]
    noise = rng.standard_normal(ink.shape, np.float32)[..., None] * rng.uniform(0, 7)
    return np.clip(pixels + shade + noise, 0, 255).astype(np.uint8)
