"""What tests of the app share: its classes compiled as for the phone, and the reason to skip where that cannot be."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from android_demo.builder import natives, tools
from android_demo.packages import PackageError, default_cache

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "android_demo"
COMMANDS = {
    "javac": "openjdk-17-jdk-headless",
    "npm": "npm",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}


def skip(reason: str) -> NoReturn:
    """Skip, or fail where PALMTOP_REQUIRE_ANDROID=1 says that everything must run."""
    if os.environ.get("PALMTOP_REQUIRE_ANDROID") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def tools_or_skip() -> tools.Tools:
    """The pinned tools, or a skip that says what is missing."""
    for command, package in COMMANDS.items():
        if shutil.which(command) is None:
            skip(f"{command} is not installed (package {package})")
    try:
        return tools.find_tools(default_cache(), offline=False)
    except PackageError as error:
        skip(f"the Android packages cannot be fetched: {error}")


@cache
def phone_classes_or_skip() -> tuple[Path, Path]:
    """genai's jar, and a folder with core and app logic compiled against the phone's classes; once a session."""
    kit = tools_or_skip()
    try:
        aar = natives.find_aar("onnxruntime-genai", None, default_cache(), offline=False)
    except PackageError as error:
        skip(f"the Android packages cannot be fetched: {error}")
    work = Path(tempfile.mkdtemp(prefix="palmtop-phone-"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    jar, classes = work / "genai.jar", work / "classes"
    natives.take(aar, {"classes.jar": jar})
    tools.compile_java([DEMO / "core/src", DEMO / "app/logic"], [jar], tools.phone_classes(kit, work), classes)
    return jar, classes


def java_classpath(*parts: Path) -> str:
    """For ``java -cp``."""
    return os.pathsep.join(map(str, parts))
