"""FLAC files: the number of samples in the first metadata block, or counted where the encoder wrote 0.

libsndfile cannot read a file without that number, and stops at it. The last frame has its position and length (RFC
9639), so the real number is read from the end of the file and inserted.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from palmtop.errors import InputError

from .byte_view import BLOCK_BYTES, MAX_STREAMS, Piece, Reader, SoundParts

_MARK = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL)
_SYNC = re.compile(rb"\xff[\xf8\xf9]", re.DOTALL)
_BLOCK_SIZES = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)}, **{n: 256 << n - 8 for n in range(8, 16)}}
_COUNT_MASK = (1 << 36) - 1
_MAX_CHECKED_BYTES = 1 << 21


class _Frame(NamedTuple):
    start: int
    first_sample: int
    samples: int


def read_flac(reader: Reader, start: int) -> SoundParts | None:
    """Return the parts of one FLAC file, or of several joined ones; None if the first block is no stream information.

    Raises:
        InputError: more than ``MAX_STREAMS`` files are joined.
    """
    starts: list[int] = []
    at = reader.find(_MARK, start, reader.size, 8)
    while at >= 0 and len(starts) <= MAX_STREAMS:
        starts.append(at)
        at = reader.find(_MARK, at + 8, reader.size, 8)
    if len(starts) > MAX_STREAMS:
        raise InputError(f"found more than {MAX_STREAMS} sounds joined in one file")
    if not starts:
        return None
    parts = None
    for first, stop in zip(starts, [*starts[1:], reader.size], strict=True):
        one = _read_one(reader, first, stop)
        parts = one if parts is None else parts.joined(one)
    return parts


def _read_one(reader: Reader, start: int, stop: int) -> SoundParts:
    info = reader.at(start, 42)
    packed = int.from_bytes(info[18:26], "big")
    stated = packed & _COUNT_MASK
    smallest = int.from_bytes(info[8:10], "big")
    found, is_cut = _count_samples(reader, start, stop, smallest) or (stated, False)
    number = (packed & ~_COUNT_MASK | min(found, _COUNT_MASK)).to_bytes(8, "big")
    head = info[:18] + number + info[26:]
    streams: list[list[Piece]] = [[head, (start + 42, stop)]]
    unended = "in the middle of a frame" if is_cut and not stated else ""
    return SoundParts(streams=streams, stated=stated, found=max(found, 1), unended=unended)


def _count_samples(reader: Reader, start: int, stop: int, fixed_size: int) -> tuple[int, bool] | None:
    """Count samples up to the end of the last whole frame, and return whether another frame begins there.

    None if no whole frame is found near the end.
    """
    tail_start = max(start + 42, stop - BLOCK_BYTES)
    tail = reader.at(tail_start, stop - tail_start)
    ends = [len(tail)]
    if tail[-128:-125] == b"TAG":
        ends.append(len(tail) - 128)
    left = _MAX_CHECKED_BYTES
    for found in reversed(list(_SYNC.finditer(tail))):
        frame = _read_header(tail, found.start(), fixed_size)
        if frame is None:
            continue
        for end in ends[:2] + ends[2:][-3:]:
            left -= end - frame.start
            if left < 0:
                return None
            if _crc16(tail[frame.start : end]) == 0:
                return frame.first_sample + frame.samples, _SYNC.match(tail, end) is not None
        ends.append(frame.start)
    return None


def _read_header(data: bytes, at: int, fixed_size: int) -> _Frame | None:
    """Return a frame header whose checksum is right."""
    head = data[at : at + 17]
    if len(head) < 6 or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] & 1:
        return None
    lead = head[4]
    extra = 0 if lead < 0x80 else len(f"{lead:08b}".split("0")[0]) - 1
    if lead == 0xFF or (lead >= 0x80 and extra < 1):
        return None
    number = lead if extra == 0 else lead & (0x3F >> extra)
    for byte in head[5 : 5 + extra]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    place = 5 + extra
    kind = head[2] >> 4
    if kind in (6, 7):
        samples = int.from_bytes(head[place : place + kind - 5], "big") + 1
        place += kind - 5
    else:
        samples = _BLOCK_SIZES[kind]
    place += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if len(head) <= place or _crc8(head[:place]) != head[place]:
        return None
    return _Frame(at, number if head[1] & 1 else number * fixed_size, samples)


def _table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 else 0)
        table.append(value & (1 << bits) - 1)
    return table


_TABLE_8, _TABLE_16 = _table(0x107, 8), _table(0x18005, 16)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _TABLE_8[value ^ byte]
    return value


def _crc16(data: bytes) -> int:
    """Return the checksum; 0 over a whole frame, whose last two bytes are its checksum."""
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ _TABLE_16[value >> 8 ^ byte]
    return value
