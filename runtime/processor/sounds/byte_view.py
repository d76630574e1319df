"""Cached reading of a file, and a read-only file made of pieces of another one.

libsndfile trusts the lengths that a container states. So a container is parsed here and passed to libsndfile as a view
whose stated lengths are the real ones: new header bytes, then ranges of the original file.
"""

from __future__ import annotations

import io
import os
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import BinaryIO

from palmtop.errors import InputError

BLOCK_BYTES = 1 << 18
MAX_STREAMS = 1000
Piece = bytes | tuple[int, int]
"""New bytes, or a range (first, last + 1) of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundParts:
    """Streams and lengths of a container.

    Attributes:
        streams: pieces of each stream, which make one sound file; streams are decoded one after the other.
        stated: length that the container states, in any unit; 0 if it states none.
        found: length that was found, in the same unit.
        unended: sign that the end is missing where no length is stated, in words; empty without one.
        is_mpeg: whether libmpg123 decodes it, which writes to standard error.
    """

    streams: list[list[Piece]] = field(default_factory=list)
    stated: int = 0
    found: int = 0
    unended: str = ""
    is_mpeg: bool = False

    def joined(self, other: SoundParts) -> SoundParts:
        """Return this sound joined with the one behind it; both state a length, or neither does."""
        return SoundParts(
            streams=self.streams + other.streams,
            stated=max(self.stated, self.found) + max(other.stated, other.found),
            found=self.found + other.found,
            unended=other.unended or self.unended,
            is_mpeg=self.is_mpeg,
        )


class Reader:
    """Random access to a file in blocks of ``BLOCK_BYTES``."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self._start = 0
        self._block = b""

    def at(self, start: int, count: int) -> bytes:
        """Return ``count`` bytes, at most ``BLOCK_BYTES``, from ``start`` on; fewer at the end of the file."""
        offset = start - self._start
        if not 0 <= offset <= len(self._block) - count:
            self.file.seek(start)
            self._block = self.file.read(BLOCK_BYTES)
            self._start, offset = start, 0
        return self._block[offset : offset + count]

    def number(self, start: int, count: int, order: str) -> int:
        """Return an unsigned integer; ``order`` is "little" or "big"."""
        return int.from_bytes(self.at(start, count), "little" if order == "little" else "big")

    def find(self, pattern: re.Pattern[bytes], start: int, stop: int, length: int) -> int:
        """Return the first position from ``start`` on of a pattern of ``length`` bytes; -1 if there is none."""
        while start < stop:
            block = self.at(start, min(BLOCK_BYTES, stop - start))
            found = pattern.search(block)
            if found:
                return start + found.start()
            if len(block) < length:
                return -1
            start += len(block) - length + 1
        return -1


class ByteView(io.RawIOBase):
    """A read-only file made of pieces."""

    def __init__(self, file: BinaryIO, pieces: list[Piece]) -> None:
        super().__init__()
        self._file = file
        self._pieces = pieces
        self._starts = [0]
        for piece in pieces:
            self._starts.append(self._starts[-1] + (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]))
        self._place = 0

    def readable(self) -> bool:
        """Return True: the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: the file can be searched."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, which may be behind the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._starts[-1]}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer; fewer bytes only at the end, as libsndfile expects."""
        done, wanted = 0, len(buffer)
        while done < wanted and self._place < self._starts[-1]:
            number = bisect_right(self._starts, self._place) - 1
            piece = self._pieces[number]
            inside = self._place - self._starts[number]
            count = min(wanted - done, self._starts[number + 1] - self._place)
            if isinstance(piece, bytes):
                block = piece[inside : inside + count]
            else:
                self._file.seek(piece[0] + inside)
                block = self._file.read(count)
                if not block:
                    raise InputError("the sound file became shorter while it was read")
            buffer[done : done + len(block)] = block
            done += len(block)
            self._place += len(block)
        return done
