"""Pages of weight files are given back; nothing that was written is lost, and no other file's pages go."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from palmtop.runtime.memory.mapped_pages import mappings, release_mapped_pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
SIZE = 64 * mmap.PAGESIZE


def mapped(path: Path) -> mmap.mmap:
    """A private mapping of a file whose pages have all been read."""
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    assert sum(pages[:: mmap.PAGESIZE]) == 0
    return pages


def resident(path: Path) -> int:
    return sum(m.sizes["Rss"] for m in mappings() if m.name == str(path))


def test_clean_pages_go_and_come_back_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    with mapped(path) as pages:
        assert resident(path) == SIZE
        assert release_mapped_pages(tmp_path) == SIZE
        assert resident(path) == 0
        assert pages[:] == path.read_bytes()


def test_what_was_written_stays(tmp_path: Path) -> None:
    with mapped(tmp_path / "weights.bin") as pages:
        pages[5] = 99
        assert release_mapped_pages(tmp_path) == 0
        assert pages[5] == 99


def test_files_of_other_folders_stay(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle-2").mkdir()
    path = tmp_path / "bundle-2" / "weights.bin"
    with mapped(path):
        assert release_mapped_pages(tmp_path / "bundle") == 0
        assert resident(path) == SIZE
