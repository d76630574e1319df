"""Dynamic HD: tiles, masks and feature-row order of an RGB image for the vision encoder.

Follows Phi4MultimodalImageProcessor and Phi4MultimodalImageEmbedding of transformers 5.23, with every size from the
spec. Independent of files (``image_file.py``) and of encoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.processor_config import DynamicHdSpec
from palmtop.runtime.bundle.targets import HIDDEN
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.content_key import content_key
from palmtop.runtime.processor.prompt import Segment

from .image_file import load_image
from .patch_positions import position_ids
from .resize import resize_cubic, resize_triangle

__all__ = ["ImageTiles", "feature_order", "load_image", "tile_image"]

MIN_SIDE = 10
"""Smallest resized side in pixels; the reference refuses a smaller one."""
WHITE = 255


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImageTiles:
    """One image as input of the vision encoder.

    Attributes:
        pixels: [1 + rows * columns, 3, C, C] float32; the global view, then the tiles in row-major order.
        patch_mask: [1 + rows * columns, P, P]; False where a patch is only padding.
        grid: (rows, columns) of tiles.
        useful: (rows, columns) of pooled features that are kept, over the whole grid.
        pooled: p, pooled features along a tile's side.
        rows: feature rows of the image: the number of its ids in the prompt.
    """

    pixels: NDArray[np.float32]
    patch_mask: NDArray[np.bool_]
    grid: tuple[int, int]
    useful: tuple[int, int]
    pooled: int
    rows: int
    outputs: ClassVar[tuple[str, ...]] = ("tile_features", "separators")

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All rows together, without text between them."""
        return (self.rows,)

    @property
    def key(self) -> str:
        """Hash of the pixels and of how they lie."""
        return content_key(f"image{self.grid}{self.useful}", self.pixels, self.patch_mask)

    def check(self, spec: DynamicHdSpec) -> None:
        """Refuse tiles of another size or number.

        Raises:
            InputError: with found and expected shapes.
        """
        count = 1 + self.grid[0] * self.grid[1]
        wanted = (count, 3, spec.crop_size, spec.crop_size), (count, spec.patches, spec.patches)
        found = self.pixels.shape, self.patch_mask.shape
        if found != wanted:
            raise InputError(
                f"image tiles and masks are {found[0]} and {found[1]}, expected {wanted[0]} and {wanted[1]}"
            )
        if not np.isfinite(self.pixels).all():
            raise InputError("image tiles hold a value that is not finite, expected numbers only")

    def batches(self, at_once: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Inputs of the graph's runs, of at most so many tiles each."""
        for start in range(0, len(self.pixels), at_once):
            part = slice(start, start + at_once)
            yield {"pixel_values": self.pixels[part], "patch_mask": self.patch_mask[part]}

    def in_reading_order(self, runs: Sequence[Sequence[NDArray[np.float32]]]) -> NDArray[np.float32]:
        """[rows, H] from ``tile_features`` [n, p, p, H] and ``separators`` [2, H] of every run."""
        tiles = [features.reshape(-1, features.shape[-1]) for features, _ in runs]
        return np.concatenate([*tiles, runs[-1][1]])[feature_order(self.grid, self.useful, self.pooled)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Position of an image on its grid: it is resized to width x height, the rest is white."""

    grid: tuple[int, int]
    width: int
    height: int
    padding_right: int
    padding_below: int


def prepare(source: Any, spec: DynamicHdSpec, between: Between) -> ImageTiles:
    """This kind's ``prepare_image``."""
    return tile_image(load_image(source, between), spec, between)


def static_feeds(view: Mapping[str, NDArray[Any]], shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[Any]]:
    """This kind's ``static_image_feeds``: patches, positions and mask of a tile, filled up to the graph's rows."""
    pixels, patch_mask = view["pixel_values"], view["patch_mask"]
    side = patch_mask.shape[1]
    more = shapes["patches"][1] - side * side
    size = pixels.shape[-1] // side
    # [1, 3, C, C] -> [1, P*P, 3*c*c]; incomplete patches are left out.
    whole = pixels[..., : side * size, : side * size].reshape(1, -1, side, size, side, size)
    patches = whole.transpose(0, 2, 4, 1, 3, 5).reshape(1, side * side, -1)
    bias = np.where(patch_mask.reshape(1, 1, 1, -1), np.float32(0), np.float32(HIDDEN))
    return {
        "patches": np.pad(patches, ((0, 0), (0, more), (0, 0))),
        "position_ids": np.pad(position_ids(patch_mask), ((0, 0), (0, more))),
        "key_bias": np.pad(bias, ((0, 0), (0, 0), (0, 0), (0, more)), constant_values=HIDDEN),
    }


def tile_image(rgb: NDArray[np.uint8], spec: DynamicHdSpec, between: Between = go_on) -> ImageTiles:
    """Resize, pad, normalise and cut an image into tiles.

    Args:
        rgb: [H, W, 3] pixels.
        spec: sizes and normalisation.
        between: called between two steps of the work; may raise to stop it.

    Raises:
        InputError: the image is so narrow that the reference refuses it.
    """
    layout = _plan(rgb.shape[1], rgb.shape[0], spec)
    rows, columns = layout.grid
    side = spec.crop_size
    canvas = np.full((rows * side, columns * side, 3), WHITE, np.uint8)
    canvas[: layout.height, : layout.width] = resize_triangle(rgb, layout.width, layout.height, between)
    # [rows * C, columns * C, 3] -> [rows * columns, 3, C, C]
    tiles = canvas.reshape(rows, side, columns, side, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, side, side)
    pixels = np.empty((1 + rows * columns, 3, side, side), np.float32)
    for channel in range(3):
        between()
        levels = _grey_levels(spec.mean[channel], spec.std[channel])
        pixels[1:, channel] = levels[tiles[:, channel]]
        pixels[0, channel] = resize_cubic(levels[canvas[None, :, :, channel]], side, side, between)[0]
    mask = _patch_mask(layout, spec)
    kept = mask[1:, ::2, ::2].reshape(rows, columns, spec.pooled, spec.pooled)
    useful = (int(kept[:, 0, :, 0].sum()), int(kept[0, :, 0].sum()))
    return ImageTiles(
        pixels=pixels,
        patch_mask=mask,
        grid=layout.grid,
        useful=useful,
        pooled=spec.pooled,
        rows=useful[0] * (useful[1] + 1) + 1 + spec.pooled * (spec.pooled + 1),
    )


def feature_order(grid: tuple[int, int], useful: tuple[int, int], pooled: int) -> NDArray[np.int64]:
    """Return the encoder output of each feature row of an image: sub-images, global separator, global view.

    Args:
        grid: (rows, columns) of tiles.
        useful: (rows, columns) of pooled features kept.
        pooled: p, pooled features along a tile's side.

    Returns:
        [rows] indices into ``concat(tile_features.reshape(-1, H), [row_separator, global_separator])``, where
        tile_features is [1 + rows * columns, p, p, H], the global view first.

    >>> feature_order((1, 1), (1, 2), 2).tolist()
    [4, 5, 8, 9, 0, 1, 8, 2, 3, 8]
    """
    rows, columns = grid
    separator = (1 + rows * columns) * pooled * pooled
    index = np.arange(separator).reshape(-1, pooled, pooled)
    # [rows * columns, p, p] -> [rows * p, columns * p]
    whole = index[1:].reshape(rows, columns, pooled, pooled).transpose(0, 2, 1, 3).reshape(rows * pooled, -1)
    views = (whole[: useful[0], : useful[1]], index[0])
    sub, overview = (np.pad(v, ((0, 0), (0, 1)), constant_values=separator).reshape(-1) for v in views)
    return np.concatenate([sub, [separator + 1], overview]).astype(np.int64)


def _plan(width: int, height: int, spec: DynamicHdSpec) -> _Layout:
    """Grid and size of an image: the reference's dynamic_preprocess, with its float arithmetic."""
    side = spec.crop_size
    columns, rows = ceil(width / side), ceil(height / side)
    if columns * rows > spec.max_tiles:
        columns, rows = _closest_grid(width, height, side, spec.max_tiles)
    ratio_width, ratio_height = side * columns / width, side * rows / height
    new_width, new_height = side * columns, side * rows
    if ratio_width < ratio_height:
        new_height = int(height * ratio_width)
    else:
        new_width = int(width * ratio_height)
    if min(new_width, new_height) < MIN_SIDE:
        found = f"{width} x {height} pixels, which become {new_width} x {new_height}"
        raise InputError(f"the image is too narrow: found {found}, expected at least {MIN_SIDE} on each side")
    return _Layout(
        grid=(rows, columns),
        width=new_width,
        height=new_height,
        padding_right=side * columns - new_width,
        padding_below=side * rows - new_height,
    )


def _closest_grid(width: int, height: int, side: int, max_tiles: int) -> tuple[int, int]:
    """Return (columns, rows) of the nearest shape; of equally near ones the larger, if the image half fills it."""
    best, best_distance = (1, 1), float("inf")
    for columns, rows in _grids(max_tiles):
        distance = abs(width / height - columns / rows)
        is_filled = width * height > 0.5 * side * side * columns * rows
        if distance < best_distance or (distance == best_distance and is_filled):
            best, best_distance = (columns, rows), distance
    return best


@lru_cache(maxsize=8)
def _grids(max_tiles: int) -> list[tuple[int, int]]:
    """Return every (columns, rows) of at most ``max_tiles``, small ones first."""
    sides = range(1, max_tiles + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if columns * rows <= max_tiles]
    return sorted(grids, key=lambda grid: grid[0] * grid[1])


def _grey_levels(mean: float, std: float) -> NDArray[np.float32]:
    """Normalised grey levels, [256]; mean and std are first scaled to 0..255 in float32, as in the reference."""
    levels = np.arange(256, dtype=np.float32)
    scale = np.float32(255)
    return (levels - np.float32(mean) * scale) / (np.float32(std) * scale)


def _patch_mask(layout: _Layout, spec: DynamicHdSpec) -> NDArray[np.bool_]:
    """Mask of patches, [1 + rows * columns, P, P]; a patch is masked if all of it is padding."""
    (rows, columns), patches = layout.grid, spec.patches
    whole = np.ones((rows * patches, columns * patches), np.bool_)
    whole[rows * patches - layout.padding_below // spec.patch_size :] = False
    whole[:, columns * patches - layout.padding_right // spec.patch_size :] = False
    tiles = whole.reshape(rows, patches, columns, patches).transpose(0, 2, 1, 3).reshape(-1, patches, patches)
    return np.concatenate([np.ones((1, patches, patches), np.bool_), tiles])
