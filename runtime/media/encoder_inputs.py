"""Inputs of the encoder graphs: shape checks and input dictionaries. Runs nothing."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.processor_config import AudioSpec, ImageSpec

from .audio_windows import AudioWindow


class Tiles(Protocol):
    """Tiles of an image, as made by ``palmtop.runtime.processor.images.dynamic_hd.tile_image``."""

    @property
    def pixels(self) -> NDArray[np.float32]:
        """Pixel values, [N, 3, C, C] float32, the global view first."""
        ...

    @property
    def patch_mask(self) -> NDArray[np.bool_]:
        """Mask of valid patches, [N, P, P]."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of tiles: (rows, columns)."""
        ...

    @property
    def useful(self) -> tuple[int, int]:
        """Pooled features that are kept: (rows, columns)."""
        ...

    @property
    def rows(self) -> int:
        """Number of feature rows of the image."""
        ...


def audio_feeds(log_mel: NDArray[np.float32], window: AudioWindow, vision: bool) -> dict[str, NDArray[Any]]:
    """Return the inputs of one run of audio.onnx."""
    feeds: dict[str, NDArray[Any]] = {"log_mel": log_mel[None, window.start : window.stop]}
    numbers = {"left_context": window.left_context, "window": window.fill_to, "projector": int(vision)}
    return feeds | {name: np.array([value], np.int64) for name, value in numbers.items()}


def check_tiles(tiles: Tiles, spec: ImageSpec) -> None:
    """Refuse tiles of another size or number than the manifest's.

    Raises:
        InputError: names found and expected shapes.
    """
    count = 1 + tiles.grid[0] * tiles.grid[1]
    wanted = (count, 3, spec.crop_size, spec.crop_size), (count, spec.patches, spec.patches)
    found = tiles.pixels.shape, tiles.patch_mask.shape
    if found != wanted:
        raise InputError(f"image tiles and masks are {found[0]} and {found[1]}, expected {wanted[0]} and {wanted[1]}")
    if not np.isfinite(tiles.pixels).all():
        raise InputError("image tiles hold a value that is not finite, expected numbers only")


def check_log_mel(log_mel: NDArray[np.float32], spec: AudioSpec) -> None:
    """Refuse log-mel frames of another shape than the manifest's.

    Raises:
        InputError: names found and expected shapes.
    """
    if log_mel.ndim != 2 or log_mel.shape[1] != spec.n_mels or not len(log_mel):
        raise InputError(f"log-mel frames are {list(log_mel.shape)}, expected [T, {spec.n_mels}] with T from 1 on")
    if not np.isfinite(log_mel).all():
        raise InputError("log-mel frames hold a value that is not finite, expected numbers only")
