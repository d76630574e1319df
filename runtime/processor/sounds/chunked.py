"""Chunked containers, WAV (RIFF, RIFX, RF64, BW64), Wave64, AIFF, AU and CAF: headers and stated lengths.

The stated length may be a placeholder (written to a pipe), too short (a recorder that was killed) or too long (cut
off). Chunks: Microsoft's RIFF specification, EBU Tech 3306 (RF64), Apple's AIFF-C and CAF specifications.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from palmtop.errors import InputError

from .byte_view import MAX_STREAMS, Reader, SoundParts
from .mpeg import read_mpeg

PLACEHOLDER = 0x7F000000
"""Least 32-bit length that counts as a placeholder of a program without seeking, unless that many bytes exist."""
WIDE_PLACEHOLDER = 1 << 62
_MAX_DATA = 0xFFFF_FF00
_MAX_HEADER = 1 << 16
_NAME = re.compile(rb"[ -~]{4}", re.DOTALL)
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_MPEG_TAGS = (0x50, 0x55)
_MAX_CHUNKS = 10_000
_METADATA = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"cue ", b"smpl", b"JUNK", b"PAD ", b"_PMX", b"MARK", b"COMT")
"""Chunks that may be cut off without a loss of sound."""


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    """First byte of the body."""
    length: int
    """Stated length of the body in bytes."""


class _Form(NamedTuple):
    """Format of chunks: sizes of the fields, byte order, rounding."""

    name_bytes: int
    size_bytes: int
    order: str
    pad: int
    counts_header: bool = False

    def read(self, reader: Reader, at: int) -> _Chunk | None:
        """Return the chunk at a position; None without room for one or without a valid name."""
        head = self.name_bytes + self.size_bytes
        if at + head > reader.size:
            return None
        name = reader.at(at, self.name_bytes)
        if not _NAME.match(name):
            return None
        length = reader.number(at + self.name_bytes, self.size_bytes, self.order)
        return _Chunk(name[:4], at + head, length - head if self.counts_header else length)

    def behind(self, reader: Reader, chunk: _Chunk) -> int:
        """Return the start of the next chunk: rounded up, unless the writer did not round."""
        end = chunk.start + chunk.length
        padded = end + -chunk.length % self.pad
        if padded != end and padded < reader.size and self.read(reader, padded) is None and self.read(reader, end):
            return end
        return padded


_RIFF = _Form(4, 4, "little", 2)
_BIG = _Form(4, 4, "big", 2)
_W64 = _Form(16, 8, "little", 8, counts_header=True)
_CAF = _Form(4, 8, "big", 1)


def read_chunked(reader: Reader) -> SoundParts | None:
    """Return the parts of a container of this family; None for other files or a broken header.

    Raises:
        InputError: more than 4 GiB of samples, or more than ``MAX_STREAMS`` files joined.
    """
    head = reader.at(0, 40)
    if head[8:12] == b"WAVE":
        return _read_joined(reader)
    if head[:16] == _W64_RIFF and head[24:28] == b"wave":
        return _read_wav(reader, 40, _W64)[0]
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _read_aiff(reader, head[8:12])
    if head[:4] in (b".snd", b"dns."):
        return _read_au(reader, "big" if head[:4] == b".snd" else "little")
    if head[:4] == b"caff":
        return _read_caf(reader)
    return None


def _chunks(reader: Reader, at: int, form: _Form) -> Iterator[_Chunk]:
    """Chunks up to the end of the file or to invalid bytes; a length below zero ends them."""
    for _ in range(_MAX_CHUNKS):
        chunk = form.read(reader, at)
        if chunk is None or chunk.length < 0:
            return
        yield chunk
        at = form.behind(reader, chunk)


def _are_chunks(reader: Reader, at: int, form: _Form) -> bool:
    """Return whether whole chunks follow, up to the end of the file."""
    head = form.name_bytes + form.size_bytes
    for _ in range(_MAX_CHUNKS):
        if reader.size - at < head:
            return True
        chunk = form.read(reader, at)
        if chunk is None or chunk.length < 0:
            return False
        if chunk.kind in _METADATA or _is_riff(reader, at):
            return True
        if chunk.start + chunk.length > reader.size:
            return False
        at = form.behind(reader, chunk)
    return False


def _is_riff(reader: Reader, at: int) -> bool:
    """Return whether another WAV file begins here, appended to the first."""
    return reader.at(at, 4) in (b"RIFF", b"RIFX", b"RF64", b"BW64") and reader.at(at + 8, 4) == b"WAVE"


def _measure(reader: Reader, chunk: _Chunk, form: _Form, *, is_unknown: bool) -> tuple[int, int]:
    """Return (stated, found) bytes of a chunk of samples; stated is 0 for a placeholder."""
    there = max(0, reader.size - chunk.start)
    limit = PLACEHOLDER if form.size_bytes == 4 else WIDE_PLACEHOLDER
    if is_unknown or (chunk.length >= limit and chunk.length > there):
        return 0, there
    if chunk.length > there:
        return chunk.length, there
    behind = form.behind(reader, chunk)
    if there and not _are_chunks(reader, behind, form):
        return 0, there  # too short: the bytes behind are no chunk, so they are more of the sound
    return chunk.length, chunk.length


def _read_joined(reader: Reader) -> SoundParts | None:
    """Read a WAV file, and those that were appended to it."""
    at: int | None = 0
    parts: SoundParts | None = None
    while at is not None and _is_riff(reader, at):
        one, at = _read_wav(reader, at + 12, _BIG if reader.at(at, 4) == b"RIFX" else _RIFF)
        if one is None:
            break
        parts = one if parts is None else parts.joined(one)
        if len(parts.streams) > MAX_STREAMS:
            raise InputError(f"found more than {MAX_STREAMS} sounds joined in one file")
    return parts


def _read_wav(reader: Reader, first: int, form: _Form) -> tuple[SoundParts | None, int | None]:
    """Return the parts, and the start of another file behind them."""
    bodies: dict[bytes, bytes] = {}
    data = None
    for chunk in _chunks(reader, first, form):
        if chunk.kind == b"data":
            data = chunk
            break
        if chunk.kind in (b"fmt ", b"fact", b"ds64"):
            bodies[chunk.kind] = reader.at(chunk.start, min(chunk.length, _MAX_HEADER))
    fmt = bodies.get(b"fmt ", b"")
    if data is None or len(fmt) < 16:
        return None, None
    is_unknown = data.length == 0 and not _are_chunks(reader, data.start, form)
    if data.length == 0xFFFF_FFFF and len(bodies.get(b"ds64", b"")) >= 16 and form.size_bytes == 4:
        wide = int.from_bytes(bodies[b"ds64"][8:16], "little")
        is_unknown = wide == 0 or wide >= WIDE_PLACEHOLDER
        data = data._replace(length=wide)
    stated, found = _measure(reader, data, form, is_unknown=is_unknown)
    order = "<" if form.order == "little" else ">"
    tag, block = struct.unpack_from(order + "H", fmt)[0], struct.unpack_from(order + "H", fmt, 12)[0]
    if tag in _MPEG_TAGS:
        parts = read_mpeg(reader, data.start, data.start + found)
        if parts is not None and stated > found:
            parts = replace(parts, stated=stated, found=found)
        return parts, None
    if tag in (1, 3, 0xFFFE) and block:
        found -= found % block
    if found > _MAX_DATA:
        raise InputError(f"the sound has {found} bytes of samples, expected at most {_MAX_DATA}")
    head = b"fmt " + struct.pack(order + "I", len(fmt)) + fmt + bytes(len(fmt) % 2)
    if b"fact" in bodies and stated == found:
        head += b"fact" + struct.pack(order + "I", len(bodies[b"fact"])) + bodies[b"fact"]
    head += b"data" + struct.pack(order + "I", found)
    riff = b"RIFX" if order == ">" else b"RIFF"
    header = riff + struct.pack(order + "I", min(4 + len(head) + found + found % 2, 0xFFFF_FFFF)) + b"WAVE" + head
    padding = bytes(found % 2)
    parts = SoundParts(
        streams=[[header, (data.start, data.start + found), padding]], stated=stated, found=max(found, 1)
    )
    if stated == 0 or stated > found:
        return parts, None
    places = (
        chunk.start - form.name_bytes - form.size_bytes for chunk in _chunks(reader, form.behind(reader, data), form)
    )
    return parts, next((at for at in places if _is_riff(reader, at)), None)


def _read_aiff(reader: Reader, kind: bytes) -> SoundParts | None:
    common, data, version = b"", None, b""
    for chunk in _chunks(reader, 12, _BIG):
        if chunk.kind == b"COMM":
            common = reader.at(chunk.start, min(chunk.length, _MAX_HEADER))
        elif chunk.kind == b"FVER":
            version = reader.at(chunk.start - 8, 12)
        elif chunk.kind == b"SSND" and data is None:
            data = chunk
            if common and (chunk.length <= 8 or chunk.start + chunk.length > reader.size):
                break
    if data is None or len(common) < 18:
        return None
    stated, found = _measure(
        reader, data, _BIG, is_unknown=data.length <= 8 and not _are_chunks(reader, data.start + 8, _BIG)
    )
    offset = 8 + reader.number(data.start, 4, "big")
    channels, frames, bits = struct.unpack_from(">HIH", common)
    is_plain = kind == b"AIFF" or common[18:22] in (b"NONE", b"sowt", b"twos", b"raw ", b"in24", b"in32", b"fl32")
    frame = channels * -(-bits // 8)
    found = max(0, found - offset)
    stated = max(0, stated - offset)
    if is_plain and frame:
        found -= found % frame
        if stated == 0 and found < frames * frame < PLACEHOLDER:
            stated = frames * frame
        common = common[:2] + struct.pack(">I", found // frame) + common[6:]
    body = version + b"COMM" + struct.pack(">I", len(common)) + common + bytes(len(common) % 2)
    body += b"SSND" + struct.pack(">III", min(found + 8, 0xFFFF_FFFF), 0, 0)
    header = b"FORM" + struct.pack(">I", min(4 + len(body) + found + found % 2, 0xFFFF_FFFF)) + kind + body
    place = data.start + offset
    return SoundParts(streams=[[header, (place, place + found), bytes(found % 2)]], stated=stated, found=max(found, 1))


def _read_au(reader: Reader, order: str) -> SoundParts | None:
    offset, stated = reader.number(4, 4, order), reader.number(8, 4, order)
    if not 24 <= offset <= min(_MAX_HEADER, reader.size):
        return None
    found = reader.size - offset  # nothing follows the samples of an AU file
    if stated <= found or stated >= PLACEHOLDER:
        stated = 0
    header = reader.at(0, offset)
    number = struct.pack(">I" if order == "big" else "<I", min(found, 0xFFFF_FFFE))
    return SoundParts(
        streams=[[header[:8] + number + header[12:], (offset, offset + found)]], stated=stated, found=max(found, 1)
    )


def _read_caf(reader: Reader) -> SoundParts | None:
    before, after, data, found, stated = b"", b"", None, 0, 0
    for chunk in _chunks(reader, 8, _CAF):
        if chunk.kind == b"data":
            data = chunk
            stated, found = _measure(reader, chunk, _CAF, is_unknown=chunk.length == 0)
            if stated == 0 or stated > found:
                break
        elif chunk.kind in (b"desc", b"kuki", b"pakt") and chunk.start + chunk.length <= reader.size:
            whole = bytearray(reader.at(chunk.start - 12, 12))
            for at in range(chunk.start, chunk.start + chunk.length, _MAX_HEADER):
                whole += reader.at(at, min(_MAX_HEADER, chunk.start + chunk.length - at))
            if data is None:
                before += bytes(whole)
            else:
                after += bytes(whole)
    if data is None or not before:
        return None
    header = reader.at(0, 8) + before + b"data" + struct.pack(">Q", found)
    return SoundParts(streams=[[header, (data.start, data.start + found), after]], stated=stated, found=max(found, 1))
