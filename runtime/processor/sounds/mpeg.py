"""MPEG audio (MP3): frames without an index; all of them are counted, because stated lengths are unreliable.

A header frame ("Xing", "Info") states a number of frames in some files. libsndfile guesses the length where there is
none, and stops there; so it reads the frames behind a header frame with the counted number.
Frame header: ISO/IEC 11172-3 and 13818-3; header frame: the LAME tag revision 1.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from palmtop.errors import InputError

from .byte_view import MAX_STREAMS, Piece, Reader, SoundParts

# Sync, a version, a layer, a bitrate and a rate that exist.
_HEADER = re.compile(rb"\xff[\xe2-\xe7\xf2-\xff][\x10-\xeb][\x00-\xff]", re.DOTALL)
_RATES = (44100, 48000, 32000)
_KBPS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MAX_RESYNCS = 20_000
"""Most positions where frames do not follow each other; a file with more is not a sound."""


class _Frame(NamedTuple):
    form: tuple[int, int, int, bool]
    """Version (10, 20 or 25), layer, rate in Hz, is mono."""
    length: int
    samples: int


@dataclass(slots=True)
class _Section:
    """Frames of one form, behind one header frame or none."""

    form: tuple[int, int, int, bool]
    header: tuple[int, int] | None
    stated: int
    counted: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)


def parse_frame(head: bytes) -> _Frame | None:
    """Parse a frame header of 4 bytes; None if it is invalid, or of a free bitrate."""
    if not _HEADER.match(head):
        return None
    version = {0: 25, 2: 20, 3: 10}[head[1] >> 3 & 3]
    layer = 4 - (head[1] >> 1 & 3)
    rate_number = head[2] >> 2 & 3
    if rate_number == 3:
        return None
    rate = _RATES[rate_number] // {10: 1, 20: 2, 25: 4}[version]
    kbps = _KBPS[1 if version == 10 else 2, layer][head[2] >> 4]
    padding = head[2] >> 1 & 1
    if layer == 1:
        samples, length = 384, (12 * kbps * 1000 // rate + padding) * 4
    else:
        samples = 576 if layer == 3 and version != 10 else 1152
        length = samples // 8 * kbps * 1000 // rate + padding
    return _Frame((version, layer, rate, head[3] >> 6 == 3), length, samples)


def read_mpeg(reader: Reader, start: int, stop: int) -> SoundParts | None:
    """Return the parts of the MPEG audio in a range; None if there are no frames.

    Raises:
        InputError: the frames are broken in more than ``MAX_RESYNCS`` places.
    """
    sections: list[_Section] = []
    at, follows, breaks = start, False, 0
    while at + 4 <= stop:
        frame = parse_frame(reader.at(at, 4))
        if frame is None or not (follows or _is_confirmed(reader, at, frame, stop)):
            breaks += follows
            follows = False
            tag = _tag_length(reader, at)
            at = at + tag if tag else reader.find(_HEADER, at + 1, stop, 4)
            breaks += not tag
            if at < 0:
                break
            if breaks > MAX_RESYNCS:
                raise InputError(f"the MPEG frames are broken in more than {MAX_RESYNCS} places")
            continue
        if at + frame.length > stop:
            break  # the last frame is cut: 0.1 s at most, as for every container
        _add(sections, reader, at, frame)
        at += frame.length
        follows = True
    sections = [section for section in sections if section.counted]
    if not sections:
        return None
    return _join(sections, reader)


def _add(sections: list[_Section], reader: Reader, at: int, frame: _Frame) -> None:
    stated = _stated_frames(reader, at, frame)
    if stated is not None:
        sections.append(_Section(frame.form, (at, at + frame.length), stated))
        return
    if not sections or sections[-1].form != frame.form:
        sections.append(_Section(frame.form, None, 0))
    section = sections[-1]
    section.counted += 1
    if section.ranges and section.ranges[-1][1] == at:
        section.ranges[-1] = (section.ranges[-1][0], at + frame.length)
    else:
        section.ranges.append((at, at + frame.length))


def _join(sections: list[_Section], reader: Reader) -> SoundParts:
    """Join sections of one form into one stream, because a frame may need bytes of the one before (bit reservoir)."""
    groups: list[list[_Section]] = []
    for section in sections:
        if groups and groups[-1][0].form == section.form:
            groups[-1].append(section)
        else:
            groups.append([section])
    if len(groups) > MAX_STREAMS:
        raise InputError(f"found more than {MAX_STREAMS} sounds joined in one file")
    streams: list[list[Piece]] = []
    for group in groups:
        first = group[0]
        ranges = [piece for section in group for piece in section.ranges]
        counted = sum(section.counted for section in group)
        lead: Piece
        if len(group) == 1 and first.header and first.stated == counted:
            lead = first.header  # also states how many samples the encoder added
        else:
            lead = _header_frame(reader.at(ranges[0][0], 4), counted) if first.form[1] == 3 else b""
        streams.append([lead, *ranges])
    found = sum(section.counted for section in sections)
    stated = sum(max(section.stated, section.counted) for section in sections)
    return SoundParts(streams=streams, stated=stated, found=found, is_mpeg=True)


def _is_confirmed(reader: Reader, at: int, frame: _Frame, stop: int) -> bool:
    """Return whether another frame of the same form, a tag, or the end follows."""
    following = at + frame.length
    if following + 4 > stop:
        return following <= stop
    other = parse_frame(reader.at(following, 4))
    return (other is not None and other.form == frame.form) or _tag_length(reader, following) > 0


def _tag_length(reader: Reader, at: int) -> int:
    """Return the bytes of an ID3v2, ID3v1 or APE tag at a position; 0 if there is none."""
    head = reader.at(at, 32)
    if head[:3] == b"ID3" and len(head) >= 10 and head[3] < 0x10 and all(byte < 128 for byte in head[6:10]):
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + length + (10 if head[5] & 0x10 else 0)
    if head[:3] == b"TAG" and at + 128 <= reader.size:
        return 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        return 32 + struct.unpack_from("<I", head, 12)[0] if head[23] & 0x20 else 32
    return 0


def _side_bytes(frame_form: tuple[int, int, int, bool]) -> int:
    version, _, _, is_mono = frame_form
    return (17 if is_mono else 32) if version == 10 else (9 if is_mono else 17)


def _stated_frames(reader: Reader, at: int, frame: _Frame) -> int | None:
    """Return the frames that a header frame states, 0 if it states none; None for a frame of sound."""
    if frame.form[1] != 3:
        return None
    head = reader.at(at, min(frame.length, 64))
    for skipped in (0, 2):  # a checksum may precede the side information
        place = 4 + skipped + _side_bytes(frame.form)
        if head[place : place + 4] in (b"Xing", b"Info") and len(head) >= place + 12:
            flags, frames = struct.unpack_from(">II", head, place + 4)
            return int(frames) if flags & 1 else 0
    if head[36:40] == b"VBRI" and len(head) >= 54:
        return int(struct.unpack_from(">I", head, 50)[0])
    return None


def _header_frame(head: bytes, frames: int) -> bytes:
    """Return a header frame that states a number of frames, of the form of ``head``."""
    plain = bytes([head[0], head[1] | 1, 0x90 | head[2] & 0x0C, head[3]])
    frame = parse_frame(plain)
    assert frame is not None
    body = bytes(_side_bytes(frame.form)) + b"Info" + struct.pack(">II", 1, frames)
    return (plain + body).ljust(frame.length, b"\0")
