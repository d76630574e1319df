"""Names of a user's inputs in errors: short ones in full, of long ones beginning and length."""

from __future__ import annotations

from pathlib import Path

MAX_SHOWN = 200


def shown(source: str | Path | bytes, kind: str) -> str:
    """Return the name of an image or a sound in an error.

    Args:
        source: a path, the bytes of a file, or base64 given as a path.
        kind: "image" or "sound".

    >>> shown(b"abc", "image")
    'image of 3 bytes'
    >>> shown("iVBORw0KGgo" * 1000, "image")
    'iVBORw0KGgoiVBORw0KGgoiVBORw0KGgoiVBORw0... (11000 characters)'
    """
    if isinstance(source, bytes):
        return f"{kind} of {len(source)} bytes"
    text = str(source)
    return text if len(text) <= MAX_SHOWN else f"{text[:40]}... ({len(text)} characters)"
