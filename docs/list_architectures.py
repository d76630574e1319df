"""Writes docs/architectures.md from the architecture files: ``python -m docs.list_architectures --write``."""

from __future__ import annotations

import sys
from pathlib import Path

from palmtop.export.listing import as_markdown

PAGE = Path(__file__).with_name("architectures.md")

if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(as_markdown(), "utf-8")
    else:
        sys.stdout.write(as_markdown())
