"""What comes out of the runtimes' AARs: shared libraries for one ABI, stripped, and Java classes.

An AAR is a ZIP file with ``classes.jar`` and ``jni/<abi>/*.so``.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from android_demo.builder.errors import BuildError
from android_demo.packages import find, sha256_of, unpack_group

ABI = "arm64-v8a"
ORT_LIBRARIES = ("libonnxruntime.so",)
GENAI_LIBRARIES = ("libonnxruntime-genai.so", "libonnxruntime-genai-jni.so")
TELEMETRY_LIBRARY = "libmat.so"


@dataclass(frozen=True)
class Aar:
    """One runtime.

    Attributes:
        name: "onnxruntime" or "onnxruntime-genai".
        path: the AAR.
        origin: the pinned package it is from, or the file's name when the user gave it.
        sha256: of the AAR.
    """

    name: str
    path: Path
    origin: str
    sha256: str


def find_aar(name: str, given: Path | None, cache: Path, *, offline: bool) -> Aar:
    """The AAR the user gave, or the pinned package's.

    Raises:
        BuildError: the file given is not there.
        PackageError: the package cannot be had.
    """
    if given is not None:
        if not given.is_file():
            raise BuildError(f"{given}: is not there, expected an AAR file of {name}")
        return Aar(name, given, given.name, sha256_of(given))
    group = {"onnxruntime": "ort", "onnxruntime-genai": "genai"}[name]
    path = unpack_group(group, cache, offline=offline) / f"package/Plugins/Android/{name}.aar"
    package = find(f"com.github.asus4.{name}")
    return Aar(name, path, f"{package.name} {package.version}", sha256_of(path))


def take(aar: Aar, wanted: dict[str, Path]) -> None:
    """Copy members of the AAR: name in the archive to file.

    Raises:
        BuildError: it is not a ZIP file, or lacks one of them.
    """
    try:
        with zipfile.ZipFile(aar.path) as archive:
            for name, path in wanted.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
    except KeyError as error:
        raise BuildError(f"{aar.path.name}: {error.args[0]}, expected it in an AAR of {aar.name}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise BuildError(f"{aar.path.name}: cannot be read as an AAR ({error})") from error


def names(aar: Aar) -> list[str]:
    """All files in the AAR.

    Raises:
        BuildError: it is not a ZIP file.
    """
    try:
        with zipfile.ZipFile(aar.path) as archive:
            return [name for name in archive.namelist() if not name.endswith("/")]
    except (OSError, zipfile.BadZipFile) as error:
        raise BuildError(f"{aar.path.name}: cannot be read as an AAR ({error})") from error


def take_libraries(aar: Aar, folder: Path, abi: str = ABI) -> list[Path]:
    """The runtime's shared libraries, as they are in the AAR.

    Raises:
        BuildError: as ``take``; or the AAR's genai library needs the telemetry library, which is never packed.
    """
    wanted = ORT_LIBRARIES if aar.name == "onnxruntime" else GENAI_LIBRARIES
    if f"jni/{abi}/{TELEMETRY_LIBRARY}" in names(aar):
        raise BuildError(
            f"{aar.path.name}: comes with the telemetry library {TELEMETRY_LIBRARY}, expected an AAR without one "
            "(onnxruntime-genai up to 0.13.1)"
        )
    files = {f"jni/{abi}/{name}": folder / name for name in wanted}
    take(aar, files)
    return list(files.values())
