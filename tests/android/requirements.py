"""The one rule of all Android tests for what this machine lacks.

Nothing is downloaded, and what is missing skips a test with the reason. With ``PALMTOP_REQUIRE_ANDROID=1`` (as in
.ci/run) packages are downloaded, and what is missing is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import NoReturn, TypeVar

import pytest

from android_demo.builder.errors import BuildError
from android_demo.packages import PackageError

MadeT = TypeVar("MadeT")
PACKAGES = {"javac": "openjdk-17-jdk-headless", "java": "openjdk-17-jdk-headless", "gcc": "gcc"}


def is_required() -> bool:
    """Whether tests must run: on the machine that checks changes."""
    return os.environ.get("PALMTOP_REQUIRE_ANDROID") == "1"


def skip(reason: str) -> NoReturn:
    """Skip, or fail where everything must run."""
    if is_required():
        pytest.fail(f"Android tools are required here: {reason}")
    pytest.skip(f"{reason}; 'python android_demo/packages.py fetch' fills the cache")


def make_or_skip(make: Callable[[], MadeT], *tools: str) -> MadeT:
    """What ``make`` makes; a skip where it lacks one of these commands, or a package."""
    absent = [name for name in tools if shutil.which(name) is None]
    if absent:
        skip("; ".join(f"{name} is not installed (apt-get install {PACKAGES[name]})" for name in absent))
    try:
        return make()
    except PackageError as error:
        skip(str(error))
    except BuildError as error:
        if str(error).startswith("javac: "):  # none, or too old a one
            skip(str(error))
        raise
