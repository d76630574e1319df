"""Run a tool of the build, and say in one sentence what went wrong when it fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from android_demo.builder.errors import BuildError

TOOL_TIMEOUT_S = 600
MAX_TOLD_LINES = 20


def run(command: Sequence[str | Path], *, what: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command to its end.

    Args:
        command: program and arguments.
        what: what it is for, as the error's subject.
        environment: variables beside the process's own.

    Returns:
        What it printed on stdout.

    Raises:
        BuildError: it is not installed, failed, or never came to an end.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TOOL_TIMEOUT_S,
        )
    except FileNotFoundError:
        hint = " (package openjdk-17-jdk-headless)" if words[0] in ("java", "javac", "keytool") else ""
        raise BuildError(f"{what}: needs the command '{words[0]}'{hint}, which is not installed") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{what}: '{Path(words[0]).name}' was not done after {TOOL_TIMEOUT_S} seconds") from None
    if done.returncode:
        # A compiler's complaints are lines; the sentence comes first, so that they can be read below it.
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise BuildError(
            "\n".join([f"{what}: '{Path(words[0]).name}' ended with code {done.returncode}", *said[:MAX_TOLD_LINES]])
        )
    return done.stdout
