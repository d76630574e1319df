"""Write a ZIP file as Android wants it: stored entries aligned, nothing that depends on the day it was made.

``resources.arsc`` must be stored and lie on a multiple of 4 bytes (targetSdk 30 and later); a stored native library
must lie on a page boundary, 16 KB on current phones. Debian's zipalign knows only 4 KB pages.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

EPOCH = (1980, 1, 1, 0, 0, 0)
# Extra field "Android ZIP alignment": the signer keeps what it asks for when it copies an entry.
ALIGNMENT_FIELD = 0xD935
ALIGNMENT_FIELD_BYTES = 6
STORED_ALIGNMENT = 4
PAGE_ALIGNMENT = 16384
LOCAL_HEADER_BYTES = 30
COMPRESSION_LEVEL = 9


def write_zip(path: Path, entries: Iterable[tuple[str, bytes, bool]]) -> None:
    """Write entries in the order given, beside the target, and rename.

    Args:
        path: the file to write.
        entries: name, content, and whether it is compressed.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(beside, "w") as archive:
            for name, content, is_compressed in entries:
                archive.writestr(_header(archive, name, is_compressed), content, compresslevel=COMPRESSION_LEVEL)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_entries(path: Path) -> list[tuple[str, bytes, bool]]:
    """A ZIP file's entries, as ``write_zip`` takes them."""
    with zipfile.ZipFile(path) as archive:
        return [
            (info.filename, archive.read(info), info.compress_type != zipfile.ZIP_STORED) for info in archive.infolist()
        ]


def _header(archive: zipfile.ZipFile, name: str, is_compressed: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = 0o644 << 16
    info.compress_type = zipfile.ZIP_DEFLATED if is_compressed else zipfile.ZIP_STORED
    if not is_compressed:
        alignment = PAGE_ALIGNMENT if name.endswith(".so") else STORED_ALIGNMENT
        start = archive.start_dir + LOCAL_HEADER_BYTES + len(name.encode()) + ALIGNMENT_FIELD_BYTES
        padding = -start % alignment
        info.extra = struct.pack("<HHH", ALIGNMENT_FIELD, 2 + padding, alignment) + bytes(padding)
    return info


def data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where an entry's content begins in the file, in bytes."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
    return info.header_offset + LOCAL_HEADER_BYTES + int(name_bytes) + int(extra_bytes)
