"""Builds libpalmtop.so without an NDK: against libraries of our own that only have the right names and symbols.

A shared library of Android needs to know its neighbours' names (``libc.so``, ``libdl.so``) and the symbols it takes
from them, not their contents. So the stubs below are all that is linked, and ``-z defs`` proves that nothing else is
needed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCE = Path(__file__).with_name("palmtop.c")
NEIGHBOURS = {
    "libc.so": ("calloc", "free", "memcpy", "memset"),
    "libdl.so": ("dlopen", "dlsym", "dlerror"),
}
"""Symbols that every Android has; memcpy and memset are the compiler's own calls."""
PAGE_BYTES = 16384  # of the phones to come; a multiple of today's 4096
MACHINE_OPTIONS = {"arm64-v8a": ["-mno-outline-atomics"], "x86_64": []}


class NativeBuildError(Exception):
    """The compiler is missing or refused; its words follow."""


def build_library(
    out: Path,
    *,
    abi: str,
    compiler: Sequence[str | Path],
    headers: Path,
    jdk: Path,
    work: Path,
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Compile and link ``libpalmtop.so``.

    Args:
        out: the library to write.
        abi: "arm64-v8a" or "x86_64".
        compiler: a gcc for that machine, with its options.
        headers: folder with onnxruntime_c_api.h, from the AAR.
        jdk: JAVA_HOME, for jni.h.
        work: a folder for the stubs.
        environment: added to this process's, e.g. LD_LIBRARY_PATH of an unpacked compiler.

    Raises:
        NativeBuildError: the compiler is missing or refused.
    """
    common: list[str | Path] = [*compiler, "-shared", "-fPIC", "-nostdlib", "-O2", *MACHINE_OPTIONS[abi]]
    for name, symbols in NEIGHBOURS.items():
        stub = work / f"stub-{abi}-{name}.c"
        stub.write_text("".join(f"void {symbol}(void) {{}}\n" for symbol in symbols), "ascii")
        quiet = ["-fno-builtin", "-w"]
        _run([*common, *quiet, f"-Wl,-soname,{name}", "-o", _stub_folder(work, abi) / name, stub], environment)
    warnings = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fno-stack-protector", "-fvisibility=hidden"]
    includes: list[str | Path] = ["-I", headers, "-I", jdk / "include", "-I", jdk / "include/linux"]
    linker = f"-Wl,-soname,libpalmtop.so,-z,defs,-z,noexecstack,-z,relro,-z,now,-z,max-page-size={PAGE_BYTES},-s"
    libraries = [f"-L{_stub_folder(work, abi)}", "-l:libc.so", "-l:libdl.so"]
    _run([*common, *warnings, *includes, linker, "-o", out, SOURCE, *libraries], environment)
    return out


def _stub_folder(work: Path, abi: str) -> Path:
    folder = work / f"stubs-{abi}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: Sequence[str | Path], environment: Mapping[str, str] | None) -> None:
    try:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError as error:
        raise NativeBuildError(f"libpalmtop.so: the compiler '{command[0]}' is not installed") from error
    if done.returncode:
        raise NativeBuildError(f"libpalmtop.so: the compiler refused:\n{done.stderr.strip()}")
