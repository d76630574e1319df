"""Settings of each kind of image processor, as data in the bundle's manifest: its object ``processor.image``."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from .json_fields import limited, one_of, refuse

MAX_ID = (1 << 24) - 1
MAX_TILE_PIXELS = 1 << 27
"""Most pixels of all tiles or slices of one image: 1.6 GB as float32 RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicHdSpec:
    """Dynamic-HD tiling and the layout of an image's feature rows.

    Attributes:
        kind: "dynamic_hd".
        token_id: id that stands for one row of image features in ``input_ids``.
        crop_size: side of a tile in pixels.
        patch_size: side of a patch in pixels; a tile has ``(crop_size // patch_size) ** 2`` patches.
        max_tiles: largest number of tiles, without the global view (upstream's ``dynamic_hd``).
        mean: mean per channel, on values scaled to 0..1.
        std: standard deviation per channel, on values scaled to 0..1.
    """

    kind: str = one_of("dynamic_hd", default="dynamic_hd")
    token_id: int = limited(0, MAX_ID)
    crop_size: int = limited(1, 4096)
    patch_size: int = limited(1, 4096)
    max_tiles: int = limited(1, 1024)
    mean: tuple[float, float, float] = limited(-1e3, 1e3)
    std: tuple[float, float, float] = limited(1e-6, 1e3)

    @property
    def patches(self) -> int:
        """Number of patches along one side of a tile."""
        return self.crop_size // self.patch_size

    @property
    def pooled(self) -> int:
        """Number of feature rows along one side of a tile, after 2x2 pooling (an odd grid is padded by one)."""
        return (self.patches + 1) // 2

    @property
    def separator(self) -> str:
        """Text between an image and what follows it in a message: none."""
        return ""

    @property
    def small_rows(self) -> int:
        """Number of feature rows of a small picture: a tile and the view of the whole image."""
        return 2 * self.pooled * (self.pooled + 1) + 1

    def working_bytes(self, rows: int, row_bytes: int) -> int:
        """Return the bytes of the tiles' pixels and of the feature rows: as made, joined and put into order."""
        tiles = min(1 + self.max_tiles, 1 + rows // max(1, self.pooled**2))
        return tiles * 3 * self.crop_size**2 * 4 + min(rows, tiles * (self.pooled + 1) ** 2) * row_bytes * 2

    def check(self) -> None:
        """Refuse sizes that do not fit together.

        Raises:
            BundleError: names the field.
        """
        if self.patch_size > self.crop_size:
            raise refuse("processor.image.patch_size", self.patch_size, f"at most crop_size, {self.crop_size}")
        if (self.max_tiles + 1) * self.crop_size**2 > MAX_TILE_PIXELS:
            most = MAX_TILE_PIXELS // self.crop_size**2 - 1
            raise refuse("processor.image.max_tiles", self.max_tiles, f"at most {most} with this crop_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicesSpec:
    """Slicing of an image by its best grid, and the text of the model's markup around the feature rows.

    Attributes:
        kind: "slices".
        token_id: id that stands for one row of image features in ``input_ids``.
        scale_resolution: side in pixels of a square with the area that every view of an image is resized to.
        patch_size: side of a patch in pixels; the sides of every view are multiples of it.
        max_slices: largest number of slices, without the view of the whole image (upstream's ``max_slice_nums``).
        trained_side: number of positions along one side of the grid that the vision encoder was trained with.
        queries: number of feature rows of every view.
        mean: mean per channel, on values scaled to 0..1.
        std: standard deviation per channel, on values scaled to 0..1.
        number_markup: texts before and after the number of an image, counted from 0; None without numbers.
        image_markup: texts before and after the rows of the whole image.
        slice_markup: texts before and after the rows of a slice.
        separator: text between an image and what follows it in a message.
    """

    kind: str = one_of("slices", default="slices")
    token_id: int = limited(0, MAX_ID)
    scale_resolution: int = limited(1, 4096)
    patch_size: int = limited(1, 4096)
    max_slices: int = limited(1, 1024)
    trained_side: int = limited(1, 4096)
    queries: int = limited(1, 1 << 16)
    mean: tuple[float, float, float] = limited(-1e3, 1e3)
    std: tuple[float, float, float] = limited(1e-6, 1e3)
    number_markup: tuple[str, str] | None
    image_markup: tuple[str, str]
    slice_markup: tuple[str, str]
    separator: str

    @property
    def max_patches(self) -> int:
        """Largest number of patches of a view: sides are rounded to whole patches, half a patch up at most."""
        area = (self.scale_resolution / self.patch_size) ** 2
        sides = range(1, ceil(self.scale_resolution / self.patch_size) + 2)
        return max(side * max(1, int(area / max(1.0, side - 0.5) + 0.5)) for side in sides)

    @property
    def small_rows(self) -> int:
        """Number of feature rows of a small picture, which has no slices."""
        return self.queries

    def working_bytes(self, rows: int, row_bytes: int) -> int:
        """Return the bytes of the views' pixels and of the feature rows: as made and joined."""
        views = min(1 + self.max_slices, max(1, rows // self.queries))
        return views * 3 * self.max_patches * self.patch_size**2 * 4 + min(rows, views * self.queries) * row_bytes * 2

    def check(self) -> None:
        """Refuse sizes that do not fit together.

        Raises:
            BundleError: names the field.
        """
        if self.patch_size > self.scale_resolution:
            expected = f"at most scale_resolution, {self.scale_resolution}"
            raise refuse("processor.image.patch_size", self.patch_size, expected)
        if (self.max_slices + 1) * self.scale_resolution**2 > MAX_TILE_PIXELS:
            most = MAX_TILE_PIXELS // self.scale_resolution**2 - 1
            raise refuse("processor.image.max_slices", self.max_slices, f"at most {most} with this scale_resolution")


ImageSpec = DynamicHdSpec | SlicesSpec
"""Of any kind of image processor."""
IMAGE_KINDS: dict[str, type[ImageSpec]] = {"dynamic_hd": DynamicHdSpec, "slices": SlicesSpec}
