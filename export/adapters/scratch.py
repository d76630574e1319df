"""A throw-away bundle that shares its big files with another, to try adapters in without touching that one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palmtop.runtime.bundle import Bundle
from palmtop.runtime.manifest import MANIFEST_FILE


@contextmanager
def scratch_bundle(bundle: Bundle, near: Path | None = None) -> Iterator[Path]:
    """A folder with the bundle's files as hard links, or copies where links are not possible.

    Args:
        bundle: stays as it is: changes replace files, they do not write into them.
        near: a folder on the same disk, so that links are possible; None takes the system's for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix=".palmtop-", dir=near) as temporary:
        for name in (*bundle.manifest.files, MANIFEST_FILE):
            target = Path(temporary) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(bundle.file(name).resolve(), target)
        yield Path(temporary)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
