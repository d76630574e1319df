"""A prompt of token ids with places for media, and how it grows to the size of the media's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError

from .content import MediaItem


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MediaPlace:
    """Where an item stands: ``Prompt.ids[position]`` is its placeholder's id."""

    item: MediaItem
    position: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        ids: [S] with one placeholder id per media item.
        media: in the order of the messages, which is the order of feature rows.
    """

    ids: NDArray[np.int64]
    media: tuple[MediaPlace, ...]


def expand_media(prompt: Prompt, rows_per_item: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give every media item as many ids as it has feature rows.

    Args:
        prompt: of ``TextProcessor.prompt``.
        rows_per_item: feature rows of each of ``prompt.media``, in that order.

    Returns:
        input_ids [S] and media_places [S]: 0 is text, k > 0 is row k - 1 of all features, concatenated.

    Raises:
        InputError: not one positive number of rows for each item.
    """
    if len(rows_per_item) != len(prompt.media) or any(rows < 1 for rows in rows_per_item):
        expected = f"a positive number for each of {len(prompt.media)} media"
        raise InputError(f"prompt: found feature rows {list(rows_per_item)}, expected {expected}")
    counts = np.ones(len(prompt.ids), np.int64)
    for place, rows in zip(prompt.media, rows_per_item, strict=True):
        counts[place.position] = rows
    places = np.zeros(int(counts.sum()), np.int64)
    starts = np.cumsum(counts) - counts
    first = 1
    for place, rows in zip(prompt.media, rows_per_item, strict=True):
        start = int(starts[place.position])
        places[start : start + rows] = np.arange(first, first + rows)
        first += rows
    return np.repeat(prompt.ids, counts), places
