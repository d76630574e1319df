"""What tests of the app share: its classes compiled as for the phone."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from android_demo.builder import natives, tools
from android_demo.packages import default_cache
from tests.android.requirements import is_required, make_or_skip

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "android_demo"


def tools_or_skip() -> tools.Tools:
    """The pinned tools, or a skip that says what is missing."""
    return make_or_skip(lambda: tools.find_tools(default_cache(), offline=not is_required()), "javac", "java")


@cache
def phone_classes_or_skip() -> tuple[Path, Path]:
    """genai's jar, and a folder with core and app logic compiled against the phone's classes; once a session."""
    kit = tools_or_skip()
    aar = make_or_skip(lambda: natives.find_aar("onnxruntime-genai", None, default_cache(), offline=not is_required()))
    work = Path(tempfile.mkdtemp(prefix="palmtop-phone-"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    jar, classes = work / "genai.jar", work / "classes"
    natives.take(aar, {"classes.jar": jar})
    tools.compile_java([DEMO / "core/src", DEMO / "app/logic"], [jar], tools.phone_classes(kit, work), classes)
    return jar, classes


def java_classpath(*parts: Path) -> str:
    """For ``java -cp``."""
    return os.pathsep.join(map(str, parts))
