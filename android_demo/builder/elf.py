"""Read what matters of a shared library for Android: machine, alignment of its segments, needed libraries, name.

Knows the ELF format (64 bit, little-endian), see the System V ABI, chapters 4 and 5; changes nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from android_demo.builder.errors import BuildError

MACHINES = {183: "arm64-v8a", 62: "x86_64"}
PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_STRTAB, DT_SONAME = 0, 1, 5, 14
SHT_SYMTAB = 2


@dataclass(frozen=True)
class Library:
    """What a shared library says about itself.

    Attributes:
        abi: "arm64-v8a" or "x86_64".
        alignment: smallest alignment of its LOAD segments, in bytes; 16384 or more runs on 16 KB pages.
        needed: names of the libraries it is linked with.
        soname: its own name, "" where it has none.
        is_stripped: it carries no table of local symbols.
    """

    abi: str
    alignment: int
    needed: tuple[str, ...]
    soname: str
    is_stripped: bool


def read_library(path: Path) -> Library:
    """Read a shared library's headers.

    Raises:
        BuildError: the file is not a 64-bit little-endian shared library of a known machine.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise BuildError(f"{path.name}: is not a 64-bit little-endian ELF file, expected a shared library")
    try:
        return _parse(data, path.name)
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise BuildError(f"{path.name}: has a damaged ELF header ({error})") from error


def _parse(data: bytes, name: str) -> Library:
    (machine,) = struct.unpack_from("<H", data, 18)
    if machine not in MACHINES:
        raise BuildError(f"{name}: is for ELF machine {machine}, expected one of {', '.join(MACHINES.values())}")
    program_offset, section_offset = struct.unpack_from("<QQ", data, 32)
    entry_bytes, count, section_bytes, sections = struct.unpack_from("<HHHH", data, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", data, program_offset + i * entry_bytes) for i in range(count)]
    loads = [
        (address, offset, size, align) for kind, _, offset, address, _, size, _, align in segments if kind == PT_LOAD
    ]
    dynamic = [(offset, size) for kind, _, offset, _, _, size, _, _ in segments if kind == PT_DYNAMIC]
    if not loads or not dynamic:
        raise BuildError(f"{name}: has no LOAD or no DYNAMIC segment, expected a shared library")
    entries: list[tuple[int, int]] = []
    offset, size = dynamic[0]
    for place in range(offset, offset + size, 16):
        tag, value = struct.unpack_from("<QQ", data, place)
        if tag == DT_NULL:
            break
        entries.append((tag, value))
    table = next(value for tag, value in entries if tag == DT_STRTAB)
    strings = next(offset + table - address for address, offset, size, _ in loads if address <= table < address + size)

    def text(place: int) -> str:
        return data[strings + place : data.index(b"\0", strings + place)].decode()

    kinds = [struct.unpack_from("<I", data, section_offset + i * section_bytes + 4)[0] for i in range(sections)]
    return Library(
        abi=MACHINES[machine],
        alignment=min(align for *_, align in loads),
        needed=tuple(text(value) for tag, value in entries if tag == DT_NEEDED),
        soname=next((text(value) for tag, value in entries if tag == DT_SONAME), ""),
        is_stripped=SHT_SYMTAB not in kinds,
    )
