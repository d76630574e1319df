"""Images and sounds of a conversation: their row counts, and their feature rows when the decoder needs them.

A source seen before is recognised (a file by path, size and time, anything else by content), so later turns neither
decode nor encode it again. Decoded tiles and frames are freed at the end of a turn.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.decoding.cached_sequence import CancelledError
from palmtop.runtime.processor import Processor
from palmtop.runtime.processor.content import MediaItem
from palmtop.runtime.processor.images import PreparedImage
from palmtop.runtime.processor.prompt import Segment, rows_of
from palmtop.runtime.processor.sounds import PreparedSound

from .encoder_runner import EncodingStopped

Features = NDArray[np.float32]
MAX_KNOWN = 4096
"""Media whose row counts are kept; a conversation of a server reads those of any number of requests."""


class FeatureSource(Protocol):
    """Interface of ``Encoders``: features of one image or one sound."""

    def encode_image(self, image: PreparedImage, *, should_stop: Callable[[], bool] | None = None) -> Features:
        """Return the features of an image in reading order, [image.rows, H]."""

    def encode_audio(
        self, sound: PreparedSound, vision_projector: bool, *, should_stop: Callable[[], bool] | None = None
    ) -> Features:
        """Return the features of a sound in reading order, [sound.rows, H]."""

    def close(self) -> None:
        """Free sessions and cached features."""


@dataclass(frozen=True, slots=True)
class MeasuredItem:
    """An image or a sound whose number of feature rows is known.

    Attributes:
        item: the media item of the message.
        key: identity of the content; equal keys have equal content.
        segments: its segments of the prompt: numbers of feature rows, and the text between them.
    """

    item: MediaItem
    key: str
    segments: tuple[Segment, ...]

    @property
    def rows(self) -> int:
        """Number of feature rows of the item."""
        return rows_of(self.segments)


class MediaReader:
    """Reader that measures and encodes the media of one conversation."""

    def __init__(self, processor: Processor, encoders: FeatureSource) -> None:
        self._processor = processor
        self._encoders = encoders
        self._segments: dict[str, tuple[Segment, ...]] = {}
        self._tiles: dict[str, PreparedImage] = {}
        self._sounds: dict[str, PreparedSound] = {}

    def measure(self, item: MediaItem, *, cancelled: Callable[[], bool]) -> MeasuredItem:
        """Return an item with what stands for it in the prompt.

        Raises:
            InputError: the item is not usable, or of a kind that the model does not take.
            CancelledError: stopped while decoding.
        """
        key = item_key(item)
        segments = self._segments.pop(key, None) or self._prepare(key, item, cancelled)
        self._segments[key] = segments  # behind all others
        while len(self._segments) > MAX_KNOWN:
            del self._segments[next(iter(self._segments))]
        return MeasuredItem(item, key, segments)

    def features(self, measured: MeasuredItem, *, vision_projector: bool, cancelled: Callable[[], bool]) -> Features:
        """Encode an item: [rows, H].

        Raises:
            CancelledError: stopped while decoding or encoding.
        """
        key, item = measured.key, measured.item
        try:
            if key not in self._tiles and key not in self._sounds:
                self._prepare(key, item, cancelled)
            if item.kind == "image":
                return self._encoders.encode_image(self._tiles[key], should_stop=cancelled)
            return self._encoders.encode_audio(self._sounds[key], vision_projector, should_stop=cancelled)
        except EncodingStopped as stop:
            raise CancelledError from stop

    @property
    def segments(self) -> dict[str, tuple[Segment, ...]]:
        """Segments of the prompt for each medium that was measured, by key."""
        return dict(self._segments)

    def remember(self, segments: Mapping[str, tuple[Segment, ...]]) -> None:
        """Take over segments of media that were measured elsewhere, by key."""
        self._segments.update(segments)

    def forget_pixels(self) -> None:
        """Free decoded tiles and frames; row counts stay known."""
        self._tiles.clear()
        self._sounds.clear()

    def _prepare(self, key: str, item: MediaItem, cancelled: Callable[[], bool]) -> tuple[Segment, ...]:
        """Decode an item and keep the encoder's inputs; return its segments."""

        def between() -> None:
            if cancelled():
                raise CancelledError

        if item.kind == "image":
            tiles = self._processor.tiles(item, between)
            self._tiles[key] = tiles
            return tiles.segments
        sound = self._processor.sound(item, between)
        self._sounds[key] = sound
        return sound.segments


def item_key(item: MediaItem) -> str:
    """Return the key of a medium: equal keys have equal content."""
    return f"{item.kind}:{source_key(item.source)}"


def source_key(source: Any) -> str:
    """Return a key for a media source that changes with its content."""
    if isinstance(source, (str, Path)):
        try:
            stat = os.stat(source)
        except (OSError, ValueError):  # ValueError: a NUL byte
            return f"missing:{source}"  # loading reports the error
        return f"file:{os.path.realpath(source)}:{stat.st_size}:{stat.st_mtime_ns}"
    digest = hashlib.blake2b(digest_size=16)
    for part in source if isinstance(source, tuple) else (source,):
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            # Arrays of objects and dates have no buffer to read; loading reports the error.
            digest.update(np.ascontiguousarray(part).data if part.dtype.kind in "biufc" else part.tobytes())
        else:
            digest.update(part if isinstance(part, bytes) else repr(part).encode())
    return digest.hexdigest()
