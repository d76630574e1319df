"""Read a finished APK back and refuse what should never be installed.

Uses the APK alone, never what the build remembers: what is true here is true for whoever downloads the file.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from android_demo.builder.command import run
from android_demo.builder.elf import Library, read_library
from android_demo.builder.errors import BuildError
from android_demo.builder.tools import Tools, signer
from android_demo.builder.zip_writer import PAGE_ALIGNMENT, STORED_ALIGNMENT, data_offset

SYSTEM_LIBRARIES = {"libc.so", "libm.so", "libdl.so", "liblog.so", "libandroid.so"}
TELEMETRY_WORDS = ("libmat", "telemetry", "applicationinsights")
ALLOWED_PERMISSIONS = {"android.permission.RECORD_AUDIO"}
MAX_APK_BYTES = 30_000_000


@dataclass(frozen=True)
class ApkFacts:
    """What an APK says about itself.

    Attributes:
        package: application id.
        version: versionName.
        min_sdk: oldest API level it installs on.
        target_sdk: API level it was written for.
        permissions: all it asks for.
        signatures: schemes that verify, e.g. {"v2", "v3"}.
        libraries: by path in the APK.
        names: all entries.
        size_bytes: of the file.
    """

    package: str
    version: str
    min_sdk: int
    target_sdk: int
    permissions: frozenset[str]
    signatures: frozenset[str]
    libraries: dict[str, Library]
    names: tuple[str, ...]
    size_bytes: int


def read_facts(tools: Tools, apk: Path) -> ApkFacts:
    """Read an APK with aapt2 and apksigner.

    Raises:
        BuildError: it is not an APK, or its signature does not verify.
    """
    badging = run([tools.aapt2, "dump", "badging", apk], what=apk.name)
    verified = run([*signer(tools), "verify", "--verbose", apk], what=f"signature of {apk.name}")
    header = re.search(r"^package: name='([^']*)' versionCode='[^']*' versionName='([^']*)'", badging, re.M)
    levels = [re.search(rf"^{key}:'(\d+)'", badging, re.M) for key in ("sdkVersion", "targetSdkVersion")]
    if header is None or None in levels:
        raise BuildError(f"{apk.name}: aapt2 names no package or API levels, expected an application")
    with zipfile.ZipFile(apk) as archive, tempfile.TemporaryDirectory() as folder:
        names = tuple(archive.namelist())
        libraries = {name: read_library(Path(archive.extract(name, folder))) for name in names if name.endswith(".so")}
    return ApkFacts(
        package=header[1],
        version=header[2],
        min_sdk=int(levels[0][1]),  # type: ignore[index]
        target_sdk=int(levels[1][1]),  # type: ignore[index]
        permissions=frozenset(re.findall(r"^uses-permission[^:]*: name='([^']*)'", badging, re.M)),
        signatures=frozenset(re.findall(r"^Verified using (v\d)(?:\.\d)? scheme.*: true", verified, re.M)),
        libraries=libraries,
        names=names,
        size_bytes=apk.stat().st_size,
    )


def check_apk(tools: Tools, apk: Path, *, max_bytes: int | None = MAX_APK_BYTES) -> ApkFacts:
    """Read an APK and hold it against the rules.

    Args:
        tools: aapt2 and apksigner.
        apk: the file.
        max_bytes: largest size; None for an APK with a model of the user's own.

    Raises:
        BuildError: it breaks one; or as ``read_facts``.
    """
    facts = read_facts(tools, apk)
    extra = facts.permissions - ALLOWED_PERMISSIONS
    if extra:
        raise BuildError(f"{apk.name}: asks for {sorted(extra)[0]}, expected no permission but RECORD_AUDIO")
    if not facts.signatures >= {"v2", "v3"}:
        raise BuildError(f"{apk.name}: signed with {sorted(facts.signatures)}, expected v2 and v3")
    check_libraries(apk.name, facts.libraries)
    for name in facts.names:
        if any(word in name.lower() for word in TELEMETRY_WORDS):
            raise BuildError(f"{apk.name}: holds '{name}', expected nothing of telemetry")
    _check_alignment(apk)
    if max_bytes is not None and facts.size_bytes > max_bytes:
        raise BuildError(f"{apk.name}: has {facts.size_bytes} bytes, expected at most {max_bytes}")
    return facts


def check_libraries(where: str, libraries: dict[str, Library]) -> None:
    """One ABI, 16 KB pages, stripped, and linked with nothing the phone does not have.

    Raises:
        BuildError: a library breaks one of these rules.
    """
    own = {name.rsplit("/", 1)[-1] for name in libraries}
    for name, library in libraries.items():
        if f"/{library.abi}/" not in f"/{name}":
            raise BuildError(f"{where}: '{name}' is a library for {library.abi}, expected it in another folder")
        if library.alignment < PAGE_ALIGNMENT:
            raise BuildError(
                f"{where}: '{name}' is aligned to {library.alignment} bytes, expected {PAGE_ALIGNMENT} for 16 KB pages"
            )
        if not library.is_stripped:
            raise BuildError(f"{where}: '{name}' carries symbols for debuggers, expected a stripped library")
        foreign = set(library.needed) - SYSTEM_LIBRARIES - own
        if foreign:
            raise BuildError(f"{where}: '{name}' needs {sorted(foreign)[0]}, which neither Android nor the APK has")


def _check_alignment(apk: Path) -> None:
    with zipfile.ZipFile(apk) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                if info.filename == "resources.arsc":
                    raise BuildError(f"{apk.name}: 'resources.arsc' is compressed, expected it stored (targetSdk 30)")
                continue
            alignment = PAGE_ALIGNMENT if info.filename.endswith(".so") else STORED_ALIGNMENT
            start = data_offset(apk, info)
            if start % alignment:
                raise BuildError(f"{apk.name}: '{info.filename}' begins at {start}, expected a multiple of {alignment}")
