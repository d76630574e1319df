"""Makes a shared library of Android loadable by glibc's linker: its versioned imports bind by name alone.

Android's libraries ask for versions such as LIBC that no glibc has, and for a few functions that work differently
there. Code and data are untouched; only the dynamic section's tags and the names of imports change.
"""

from __future__ import annotations

import struct
from pathlib import Path

VERSION_TAGS = (0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF)
"""VERSYM, VERDEF, VERDEFNUM, VERNEED, VERNEEDNUM."""
SYMBOLIC_TAG = 16
"""A library's own symbols come first: on the phone no other C++ runtime is there to catch its exceptions."""
IGNORED_TAG = 0x60000001
"""Of a range that no linker of glibc reads."""
DIFFERENT = ("sysconf", "dirname", "fflush", "fwrite", "fputs", "fprintf", "vfprintf")
OLD_FIRST = ("realpath", "nftw", *(f"pthread_cond_{name}" for name in ("wait", "timedwait", "signal", "broadcast")))
"""An import without a version binds to glibc's oldest; these had another meaning then (realpath refused NULL)."""
OLD_FIRST += ("pthread_cond_destroy",)
LOAD, DYNAMIC, STRING_TABLE, STRING_BYTES = 1, 2, 5, 10


def relink(source: Path, target: Path) -> None:
    """Write a copy of a 64-bit library that glibc loads.

    Raises:
        ValueError: it has no dynamic section.
    """
    data = bytearray(source.read_bytes())
    headers, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    segments: list[tuple[int, int, int]] = []
    dynamic = None
    for number in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, headers + number * size)
        if kind == LOAD:
            segments.append((address, offset, length))
        elif kind == DYNAMIC:
            dynamic = offset
    if dynamic is None:
        raise ValueError(f"{source}: has no dynamic section")
    values: dict[int, int] = {}
    for place in range(dynamic, len(data), 16):
        tag, value = struct.unpack_from("<QQ", data, place)
        values[tag] = value
        if tag == 0:
            break
        if tag in VERSION_TAGS:
            is_first = tag == VERSION_TAGS[0]
            struct.pack_into("<Q", data, place, SYMBOLIC_TAG if is_first else IGNORED_TAG + VERSION_TAGS.index(tag))
    table = values[STRING_TABLE]
    first = next(offset + table - address for address, offset, length in segments if 0 <= table - address < length)
    for name in (*DIFFERENT, *OLD_FIRST):
        _rename(data, first, values[STRING_BYTES], name.encode())
    target.write_bytes(data)


def _rename(data: bytearray, first: int, length: int, name: bytes) -> None:
    place = data.find(b"\0" + name + b"\0", first, first + length)
    if place >= 0:
        data[place + len(name)] = ord("Q")
