"""Stand-ins for a file that was never downloaded or decoded: a Git LFS pointer, a web page, base64."""

from __future__ import annotations

import re

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
START_BYTES = 512  # a pointer is shorter
BASE64_LEAST = 64  # bytes; shorter texts may be anything
_LFS_SIZE = re.compile(rb"^size (\d{1,19})", re.MULTILINE)
_WEB_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head)\b", re.IGNORECASE)
_DATA_ADDRESS = re.compile(rb"data:[\w.+-]+/[\w.+-]+;base64,", re.IGNORECASE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}(?:\r?\n[A-Za-z0-9+/_-]*={0,2})*\s*")


def stand_in(start: bytes) -> str | None:
    """Return what a file is instead of itself and what to do, for an error behind its name; None for other files.

    Args:
        start: its first ``START_BYTES``.

    >>> stand_in(b"<!DOCTYPE html>")
    'is a web page, expected the file itself: download it again'
    """
    if start.startswith(LFS_POINTER):
        size = _LFS_SIZE.search(start)
        of = "" if size is None else f" to a file of {int(size[1])} bytes"
        return f"is a Git LFS pointer{of}, expected the file itself: fetch it with 'git lfs pull'"
    if _WEB_PAGE.match(start):
        return "is a web page, expected the file itself: download it again"
    return None


def medium_in_text(start: bytes) -> str | None:
    """Return what an image's or a sound's file is if it is text that stands for it; see ``stand_in``."""
    if _DATA_ADDRESS.match(start):
        return "is the text of a data: address, expected the address itself or the decoded bytes"
    if len(start) >= BASE64_LEAST and _BASE64.fullmatch(start):
        return "is base64, expected the decoded bytes, or the text behind 'data:...;base64,' as an address"
    return stand_in(start)
