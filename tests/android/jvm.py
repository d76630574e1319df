"""The core in a Java machine, asked by tests: compiled once, one process that answers line by line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "android_demo/core/src", Path(__file__).with_name("java"))
ANSWER = "answer "
MAIN = "org.palmtop.tests.Driver"


class CoreError(Exception):
    """A PalmtopException of the core, or (kind: a class name) anything else that was thrown.

    Attributes:
        kind: e.g. "BUNDLE".
        message: as a user would read it.
        code: of a wrong value of the manifest, as ``ManifestError`` has it; None elsewhere.
        path: likewise.
    """

    def __init__(self, kind: str, message: str, code: str | None = None, path: str | None = None) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.code = code
        self.path = path


def compile_core(out: Path, genai_jar: Path) -> Path:
    """Compile core and test driver as Java 8; every warning is an error."""
    out.mkdir(parents=True)
    files = [str(path) for folder in SOURCES for path in sorted(folder.rglob("*.java"))]
    options = ["--release", "8", "-encoding", "UTF-8", "-Xlint:all,-options", "-Werror", "-cp", str(genai_jar)]
    done = subprocess.run(["javac", *options, "-d", str(out), *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


class Core:
    """A running driver; use it in a ``with`` statement.

    Args:
        classes: of ``compile_core``.
        genai_jar: genai's classes.jar.
        work: folder for files of numbers.
        libraries: folder with the phone's libraries; None where no native code is needed.
        java: the command, e.g. under an emulator.
    """

    def __init__(
        self,
        classes: Path,
        genai_jar: Path,
        work: Path,
        libraries: Path | None = None,
        java: Sequence[str] = ("java",),
    ) -> None:
        environment = dict(os.environ)
        options = ["-Xmx256m", f"-XX:ErrorFile={work}/crash.log", "-XX:-CreateCoredumpOnCrash"]
        options += ["-cp", os.pathsep.join((str(classes), str(genai_jar)))]
        if libraries is not None:
            options += [f"-Donnxruntime-genai.native.path={libraries}", f"-Djava.library.path={libraries}"]
            if tuple(java) == ("java",):  # an emulator's own libraries are this machine's
                environment["LD_LIBRARY_PATH"] = str(libraries)
        self.work = work
        self._log = (work / "driver.log").open("w+b")
        self._process = subprocess.Popen(
            [*java, *options, MAIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        self._files = 0

    def ask(self, question: str, **arguments: Any) -> Any:
        """The core's answer.

        Raises:
            CoreError: an exception came back.
            RuntimeError: the process is gone; its words follow.
        """
        assert self._process.stdin and self._process.stdout
        line = ""
        try:
            self._process.stdin.write(json.dumps({"ask": question, **arguments}, default=str) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            while line and not line.startswith(ANSWER):  # native libraries print, too
                line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"the Java process ended: {self._log.read().decode(errors='replace')[-3000:]}")
        answer = json.loads(line[len(ANSWER) :])
        if "error" in answer:
            raise CoreError(answer["kind"], answer["error"], answer.get("code"), answer.get("path"))
        return answer["value"]

    def file(self, array: np.ndarray[Any, Any] | None = None) -> Path:
        """A new file name, or a new file of an array's bytes."""
        if array is None:
            self._files += 1
            return self.work / f"{self._files}.raw"
        content = np.ascontiguousarray(array).tobytes()
        path = self.work / f"{hashlib.sha256(content).hexdigest()}.raw"  # the same content is the same picture
        path.write_bytes(content)
        return path

    def respond(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
        """Ask the engine; messages as ``palmtop.runtime`` takes them."""
        answer: dict[str, Any] = self.ask("respond", messages=self.messages(messages), **options)
        return answer

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Messages in the driver's shape: media as files of numbers."""
        return [self._message(message) for message in messages]

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        content = message["content"]
        if isinstance(content, str):
            return {"role": message["role"], "text": content, "media": []}
        media = [self._item(part) for part in content if part["type"] != "text"]
        text = "".join(part["text"] for part in content if part["type"] == "text")
        return {"role": message["role"], "text": text, "media": media}

    def _item(self, part: Mapping[str, Any]) -> dict[str, Any]:
        if part["type"] == "image":
            pixels = part["image"]
            size = {"width": pixels.shape[1], "height": pixels.shape[0], "channels": pixels.shape[2]}
            return {"kind": "image", "path": str(self.file(pixels)), **size}
        if isinstance(part["audio"], tuple):
            samples, rate = part["audio"]
            return {"kind": "audio", "path": str(self.file(samples.astype(np.float32))), "rate": rate}
        return {"kind": "audio", "path": str(part["audio"])}

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Core:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
