"""What the encoder graphs take: shapes checked, inputs put together. Runs nothing."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.processor_config import AudioSpec, ImageSpec

from .audio_windows import AudioWindow


class Tiles(Protocol):
    """What ``palmtop.runtime.processor.images.dynamic_hd.tile_image`` makes of an image."""

    @property
    def pixels(self) -> NDArray[np.float32]:
        """[N, 3, C, C], the global view first."""
        ...

    @property
    def patch_mask(self) -> NDArray[np.bool_]:
        """[N, P, P]."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of tiles."""
        ...

    @property
    def useful(self) -> tuple[int, int]:
        """(rows, columns) of pooled features that are kept."""
        ...

    @property
    def rows(self) -> int:
        """Feature rows of the image."""
        ...


def audio_feeds(log_mel: NDArray[np.float32], window: AudioWindow, vision: bool) -> dict[str, NDArray[Any]]:
    """Inputs of one run of audio.onnx."""
    feeds: dict[str, NDArray[Any]] = {"log_mel": log_mel[None, window.start : window.stop]}
    numbers = {"left_context": window.left_context, "window": window.fill_to, "projector": int(vision)}
    return feeds | {name: np.array([value], np.int64) for name, value in numbers.items()}


def check_tiles(tiles: Tiles, spec: ImageSpec) -> None:
    """Refuse tiles of another size or number.

    Raises:
        InputError: with found and expected shapes.
    """
    count = 1 + tiles.grid[0] * tiles.grid[1]
    wanted = (count, 3, spec.crop_size, spec.crop_size), (count, spec.patches, spec.patches)
    found = tiles.pixels.shape, tiles.patch_mask.shape
    if found != wanted:
        raise InputError(f"image tiles and masks are {found[0]} and {found[1]}, expected {wanted[0]} and {wanted[1]}")
    if not np.isfinite(tiles.pixels).all():
        raise InputError("image tiles hold a value that is not finite, expected numbers only")


def check_log_mel(log_mel: NDArray[np.float32], spec: AudioSpec) -> None:
    """Refuse frames of another shape.

    Raises:
        InputError: with found and expected shapes.
    """
    if log_mel.ndim != 2 or log_mel.shape[1] != spec.n_mels or not len(log_mel):
        raise InputError(f"log-mel frames are {list(log_mel.shape)}, expected [T, {spec.n_mels}] with T from 1 on")
    if not np.isfinite(log_mel).all():
        raise InputError("log-mel frames hold a value that is not finite, expected numbers only")
