"""What can stop a build and is explained to the user in one sentence."""

from __future__ import annotations


class BuildError(Exception):
    """The APK cannot be built or is not what it should be; what, where, found, expected."""
