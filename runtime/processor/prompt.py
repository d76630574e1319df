"""Prompt of token ids with media placeholders, and its expansion to the media's feature rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError

from .content import MediaItem


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MediaPlace:
    """Position of an item: ``Prompt.ids[position]`` is its placeholder's id."""

    item: MediaItem
    position: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prompt:
    """A rendered conversation as token ids.

    Attributes:
        ids: [S] ids, with one placeholder id per media item.
        media: items in the order of the messages, which is the order of feature rows.
        opens_thinking: whether the prompt ends inside a model's thinking.
    """

    ids: NDArray[np.int64]
    media: tuple[MediaPlace, ...]
    opens_thinking: bool = False


Segment = int | str
"""Part of a medium's place in the prompt: a number of feature rows, or text of the model's markup."""
INDEX = "{index}"
"""Place in a text segment for the medium's number, counted per kind from 0 over the whole prompt."""


def rows_of(segments: Sequence[Segment]) -> int:
    """Return the number of feature rows in segments."""
    return sum(segment for segment in segments if isinstance(segment, int))


def expand_media(
    prompt: Prompt, media: Sequence[Sequence[Segment]], encode: Callable[[str], Sequence[int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Replace the placeholder of every medium by its segments.

    Args:
        prompt: result of ``TextProcessor.prompt``.
        media: segments of each of ``prompt.media``, in that order.
        encode: function from a text to ids, with special tokens recognised.

    Returns:
        input_ids [S] and media_places [S]: 0 is text, k > 0 is row k - 1 of all features, concatenated.

    Raises:
        InputError: an item has no feature row.
    """
    rows = [rows_of(segments) for segments in media]
    flat = [segment for segments in media for segment in segments if isinstance(segment, int)]
    if len(media) != len(prompt.media) or any(count < 1 for count in (*rows, *flat)):
        expected = f"a positive number for each of {len(prompt.media)} media"
        raise InputError(f"prompt: found feature rows {rows}, expected {expected}")
    first = np.cumsum([1, *rows])
    ids: list[NDArray[np.int64]] = []
    places: list[NDArray[np.int64]] = []
    done = 0
    for number in sorted(range(len(media)), key=lambda n: prompt.media[n].position):
        position, row = prompt.media[number].position, int(first[number])
        ids.append(prompt.ids[done:position])
        places.append(np.zeros(position - done, np.int64))
        for segment in media[number]:
            if isinstance(segment, int):
                ids.append(np.full(segment, prompt.ids[position]))
                places.append(np.arange(row, row + segment))
                row += segment
            else:
                text = segment.replace(INDEX, str(prompt.media[number].item.number - 1))
                ids.append(np.array(encode(text), np.int64))
                places.append(np.zeros(len(ids[-1]), np.int64))
        done = position + 1
    ids.append(prompt.ids[done:])
    places.append(np.zeros(len(prompt.ids) - done, np.int64))
    return np.concatenate(ids), np.concatenate(places)
