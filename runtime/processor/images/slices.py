"""Slices: a view of the whole image and, for a large one, a grid of slices, each with the model's markup around it.

Follows the image processor of MiniCPM-V 2.6, 4.0 and 4.5 (remote code of the checkpoints), with every size and text
from the spec. Every view has about the same area, whole patches on each side, and the shape of its part of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log, sqrt
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.processor_config import SlicesSpec
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.content_key import content_key
from palmtop.runtime.processor.prompt import INDEX, Segment

from .image_file import load_image
from .patch_positions import nearest_positions

__all__ = ["ImageSlices", "best_grid", "slice_image", "view_size"]

BETWEEN_ROWS = "\n"
"""Text between two rows of slices."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImageSlices:
    """One image as input of the vision encoder.

    Attributes:
        whole: [3, h, w] float32, the view of the whole image.
        slices: [rows * columns, 3, h', w'] float32 in row-major order; empty without a grid.
        grid: (rows, columns) of slices; (0, 0) without a grid.
        spec: sizes and markup.
    """

    whole: NDArray[np.float32]
    slices: NDArray[np.float32]
    grid: tuple[int, int]
    spec: SlicesSpec
    outputs: ClassVar[tuple[str, ...]] = ("image_features",)

    @property
    def rows(self) -> int:
        """Number of feature rows of all views."""
        return (1 + len(self.slices)) * self.spec.queries

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Rows of each view, with the markup between them."""
        spec, found, text = self.spec, list[Segment](), ""
        if spec.number_markup is not None:
            text = INDEX.join(spec.number_markup)
        views = [spec.image_markup] + [spec.slice_markup] * len(self.slices)
        for number, (before, after) in enumerate(views):
            if number > 1 and (number - 1) % self.grid[1] == 0:
                text += BETWEEN_ROWS
            found += [text + before, spec.queries]
            text = after
        return (*found, text)

    @property
    def key(self) -> str:
        """Hash of the pixels and of how they lie."""
        return content_key(f"slices{self.grid}{self.whole.shape}{self.slices.shape}", self.whole, self.slices)

    def check(self, spec: SlicesSpec) -> None:
        """Refuse views of another size or number.

        Raises:
            InputError: with found and expected shapes.
        """
        count, patch = self.grid[0] * self.grid[1], spec.patch_size
        if self.slices.ndim != 4 or len(self.slices) != count or count > spec.max_slices:
            found = f"{len(self.slices)} slices of a grid of {self.grid[0]} x {self.grid[1]}"
            raise InputError(f"found {found}, expected one for each place and at most {spec.max_slices}")
        for shape in [self.whole.shape, *({self.slices.shape[1:]} if count else ())]:
            sides = shape[1] // patch, shape[2] // patch
            wrong = shape != (3, sides[0] * patch, sides[1] * patch)
            if wrong or not 0 < sides[0] * sides[1] <= spec.max_patches:
                expected = f"[3, height, width] of at most {spec.max_patches} whole patches of {patch} pixels"
                raise InputError(f"a view of the image is {list(shape)}, expected {expected}")
        if not (np.isfinite(self.whole).all() and np.isfinite(self.slices).all()):
            raise InputError("views of the image hold a value that is not finite, expected numbers only")

    def batches(self, at_once: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Inputs of the graph's runs: the whole image, then at most so many slices each, all of one size."""
        yield self._inputs(self.whole[None])
        for start in range(0, len(self.slices), at_once):
            yield self._inputs(self.slices[start : start + at_once])

    def in_reading_order(self, runs: Sequence[Sequence[NDArray[np.float32]]]) -> NDArray[np.float32]:
        """[rows, H] from ``image_features`` [n, queries, H] of every run."""
        return np.concatenate([features.reshape(-1, features.shape[-1]) for (features,) in runs])

    def _inputs(self, pixels: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        side, patch = self.spec.trained_side, self.spec.patch_size
        down, across = (nearest_positions(length // patch, side) for length in pixels.shape[2:])
        return {"pixel_values": pixels, "position_ids": (down[:, None] * side + across).reshape(-1)}


def prepare(source: Any, spec: SlicesSpec, between: Between) -> ImageSlices:
    """This kind's ``prepare_image``."""
    return slice_image(load_image(source, between), spec, between)


def static_feeds(view: Mapping[str, NDArray[Any]], shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[Any]]:
    """Refuse: views have many shapes, and no export makes a graph of fixed shapes for them.

    Raises:
        BundleError: always.
    """
    raise BundleError("bundle.json: targets: found a vision graph of fixed shapes for images in slices, expected none")


def slice_image(rgb: NDArray[np.uint8], spec: SlicesSpec, between: Between = go_on) -> ImageSlices:
    """Resize, cut and normalise an image.

    Args:
        rgb: [H, W, 3] pixels.
        spec: sizes and normalisation.
        between: called between two steps of the work; may raise to stop it.

    Raises:
        InputError: the image is so narrow that a view of it would have less than a patch on one side.
    """
    from PIL import Image

    height, width = rgb.shape[:2]
    grid = best_grid(width, height, spec)
    whole_size = view_size(width, height, spec)
    columns, rows = grid or (0, 0)
    slice_size = (0, 0)
    if grid is not None:
        # The rule rounds the sides to whole columns and rows, then fits one slice.
        across, down = (_whole(length, parts) / parts for length, parts in ((width, columns), (height, rows)))
        slice_size = view_size(across, down, spec)
    picture = Image.fromarray(rgb)

    def resized(across: int, down: int) -> NDArray[np.uint8]:
        # One pass after the other: Pillow 13 begins with the columns of a high picture, other versions with the rows.
        between()
        narrow = picture.resize((across, height), Image.Resampling.BICUBIC)
        between()
        return np.asarray(narrow.resize((across, down), Image.Resampling.BICUBIC))

    whole = _normalised(resized(*whole_size)[None], spec)[0]
    slices = np.zeros((0, 3, 0, 0), np.float32)
    if grid is not None:
        wide, high = slice_size
        large = resized(wide * columns, high * rows).reshape(rows, high, columns, wide, 3)
        between()
        slices = _normalised(large.transpose(0, 2, 1, 3, 4).reshape(rows * columns, high, wide, 3), spec)
    return ImageSlices(whole=whole, slices=slices, grid=(rows, columns), spec=spec)


def best_grid(width: int, height: int, spec: SlicesSpec) -> tuple[int, int] | None:
    """Return (columns, rows) of the grid whose shape is nearest to the image's; None for an image that is not cut.

    Grids have as many slices as the image has times the area of a view, one less or one more.
    """
    wanted = min(ceil(width * height / spec.scale_resolution**2), spec.max_slices)
    if wanted <= 1:
        return None
    counts = [n for n in (wanted - 1, wanted, wanted + 1) if n != 1 and n <= spec.max_slices]
    grids = [(columns, n // columns) for n in counts for columns in range(1, n + 1) if n % columns == 0]
    shape = log(width / height)
    return min(grids, key=lambda grid: abs(shape - log(grid[0] / grid[1])))  # of equally near ones the first


def view_size(width: float, height: float, spec: SlicesSpec) -> tuple[int, int]:
    """Return (width, height) in pixels of the view of a part of an image.

    Raises:
        InputError: one side would be less than a patch, and the other without a limit.
    """
    ratio = width / height
    high = int(spec.scale_resolution / sqrt(ratio))
    wide = int(high * ratio)
    if min(wide, high) < spec.patch_size:
        found = f"{width:g} x {height:g} pixels, which become {wide} x {high}"
        raise InputError(f"the image is too narrow: found {found}, expected at least {spec.patch_size} on each side")
    return _whole(wide, spec.patch_size), _whole(high, spec.patch_size)


def _whole(length: float, part: int) -> int:
    """Return the nearest multiple of ``part`` that is not 0; of two equally near ones the even multiple."""
    return max(round(length / part) * part, part)


def _normalised(pixels: NDArray[np.uint8], spec: SlicesSpec) -> NDArray[np.float32]:
    """[n, h, w, 3] grey levels -> [n, 3, h, w]."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    found = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.float32)
    for channel in range(3):
        table = (levels - np.float32(spec.mean[channel])) / np.float32(spec.std[channel])
        found[:, channel] = table[pixels[..., channel]]
    return found
