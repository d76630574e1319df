"""Suppression of libmpg123's messages on standard error.

libsndfile has no option for them. While a block is decoded, file descriptor 2 is a temporary file; output of other
threads is passed on.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

_LOCK = threading.Lock()
_OURS = re.compile(rb"(?:\[[^\]\n]*mpg123[^\n]*|(?:Note|Warning): [^\n]*)\n?")


@contextlib.contextmanager
def without_mpg123_lines() -> Iterator[None]:
    """Run the body without its decoder's messages, one thread at a time."""
    with _LOCK:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            kept = os.dup(2)
        except (OSError, ValueError):  # no standard error at all
            yield
            return
        try:
            with tempfile.TemporaryFile() as written:
                os.dup2(written.fileno(), 2)
                try:
                    yield
                finally:
                    os.dup2(kept, 2)
                    written.seek(0)
                    others = _OURS.sub(b"", written.read()).lstrip(b"\n")
                    if others:
                        os.write(2, others)
        finally:
            os.close(kept)
