"""Ogg files: pages of one or more streams; the last page of each has a mark (RFC 3533).

Streams that follow each other (a chain) are decoded one after the other; libsndfile alone would stop after the first.
"""

from __future__ import annotations

import re

from palmtop.errors import InputError

from .byte_view import MAX_STREAMS, Piece, Reader, SoundParts

_MAGIC = re.compile(rb"OggS\0", re.DOTALL)
_FIRST, _LAST = 2, 4
_HEAD_BYTES = 27


def read_ogg(reader: Reader) -> SoundParts | None:
    """Return the parts of an Ogg file; None if it has no page.

    Raises:
        InputError: more than ``MAX_STREAMS`` streams are in a chain.
    """
    starts: list[int] = []
    at, open_streams, unended, end = 0, set[int](), "", 0
    while at + _HEAD_BYTES <= reader.size:
        head = reader.at(at, _HEAD_BYTES)
        if head[:5] != b"OggS\0":
            at = reader.find(_MAGIC, at + 1, reader.size, 5)
            if at < 0:
                break
            continue
        flags, serial = head[5], int.from_bytes(head[14:18], "little")
        sizes = reader.at(at + _HEAD_BYTES, head[26])
        length = _HEAD_BYTES + head[26] + sum(sizes)
        if flags & _FIRST:
            if not open_streams:
                starts.append(at)
            open_streams.add(serial)
        if at + length > reader.size or len(sizes) < head[26]:
            unended = "in the middle of a page"
            break
        if flags & _LAST:
            open_streams.discard(serial)
        at = end = at + length
    if not starts:
        return None
    if len(starts) > MAX_STREAMS:
        raise InputError(f"found more than {MAX_STREAMS} sounds joined in one file")
    if open_streams and not unended:
        unended = "without the mark that an Ogg stream has on its last page"
    stops = [*starts[1:], end]
    streams: list[list[Piece]] = [[(start, stop)] for start, stop in zip(starts, stops, strict=True) if stop > start]
    return SoundParts(streams=streams, unended=unended)
