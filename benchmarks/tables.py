"""Measured text in a Markdown page, between two marks, so that one command can renew it."""

from __future__ import annotations

import datetime
import platform
import re
from pathlib import Path


def put_between(page: Path, mark: str, text: str) -> None:
    """Replace what stands between ``<!-- mark -->`` and ``<!-- /mark -->``.

    Raises:
        ValueError: the page has no such marks.
    """
    before, after = f"<!-- {mark} -->\n", f"\n<!-- /{mark} -->"
    content = page.read_text("utf-8")
    pattern = re.compile(re.escape(before) + ".*?" + re.escape(after), re.DOTALL)
    if len(pattern.findall(content)) != 1:
        raise ValueError(f"{page}: expected one <!-- {mark} --> ... <!-- /{mark} -->")
    page.write_text(pattern.sub(lambda _: before + text + after, content), "utf-8")


def machine() -> str:
    """Processor and date, for the line under a table."""
    return f"{_processor()}, {datetime.datetime.now(datetime.UTC).date().isoformat()}"


def _processor() -> str:
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        return platform.processor() or platform.machine()
    return names[0].strip() if names else platform.machine()
