"""The native libraries of the phone app, made loadable on this machine: those of the AARs, and our own.

What runs is the phone's machine code of onnxruntime, genai, its JNI and libpalmtop. What is not the phone's: the C
library (glibc with a shim), the Java machine, and for arm64 the processor (qemu).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from android_demo.native.build import build_library
from android_demo.packages import default_cache, unpack_group
from tests.android.relink import relink
from tests.android.requirements import is_required

SHIM = Path(__file__).with_name("bionic_shim.c")
SHIM_NAMES = ("libm.so", "libdl.so", "liblog.so", "libandroid.so")
LIBRARIES = {"ort": ("onnxruntime", ["libonnxruntime.so"])}
LIBRARIES["genai"] = ("onnxruntime-genai", ["libonnxruntime-genai.so", "libonnxruntime-genai-jni.so"])


@dataclass(frozen=True)
class PhoneLibraries:
    """A folder to load from.

    Attributes:
        folder: with every .so.
    """

    folder: Path


def java_home() -> Path:
    """Of the JDK whose javac is in the path."""
    found = shutil.which("javac")
    assert found is not None  # make_or_skip has looked
    return Path(found).resolve().parent.parent


def aar(group: str) -> Path:
    """The pinned AAR of "ort" or "genai".

    Raises:
        PackageError: it is not in the cache, and downloading was not allowed.
    """
    return package_tree(group) / f"package/Plugins/Android/{LIBRARIES[group][0]}.aar"


def package_tree(group: str) -> Path:
    """Packages of a group, unpacked. Tests download only where they are required to run: it is 300 MB and more."""
    return unpack_group(group, default_cache(), offline=not is_required())


def take_classes(archive: Path, out: Path) -> Path:
    """The Java classes of an AAR."""
    with zipfile.ZipFile(archive) as opened:
        out.write_bytes(opened.read("classes.jar"))
    return out


def make_libraries(folder: Path, abi: str) -> PhoneLibraries:
    """Unpack, relink and build everything for "x86_64" or "arm64-v8a" into a new folder."""
    folder.mkdir(parents=True)
    work = folder / "work"
    work.mkdir()
    for group, (_, names) in LIBRARIES.items():
        with zipfile.ZipFile(aar(group)) as archive:
            for name in names:
                relink(Path(archive.extract(f"jni/{abi}/{name}", work)), folder / name)
            members = [n for n in archive.namelist() if n.startswith("headers/")]
            archive.extractall(work, members)
    compiler_root = None if abi == "x86_64" else package_tree("cross")
    compiler, environment = find_compiler(compiler_root)
    # The unpacked compiler has no arm64 C library to name; the Java machine has loaded one by then.
    real = [] if compiler_root else ["-l:libc.so.6", "-l:libm.so.6"]
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-nostdlib", "-Wl,-soname,libc.so,--no-as-needed"]
    command = [*compiler, *options, "-o", str(folder / "libc.so"), str(SHIM), *real]
    subprocess.run(command, check=True, env={**os.environ, **environment})
    for name in SHIM_NAMES:
        (folder / name).symlink_to("libc.so")
    ours = build_library(
        work / "libpalmtop.so",
        abi=abi,
        compiler=compiler,
        headers=work / "headers",
        jdk=java_home(),
        work=work,
        environment=environment,
    )
    relink(ours, folder / "libpalmtop.so")
    return PhoneLibraries(folder)


def find_compiler(root: Path | None) -> tuple[list[str], dict[str, str]]:
    """A gcc and the environment it needs: this machine's, or the one for arm64 that is unpacked in ``root``."""
    if root is None:
        return ["gcc"], {}
    options = [f"--sysroot={root}", f"-B{root}/usr/bin/aarch64-linux-gnu-"]
    libraries = {"LD_LIBRARY_PATH": str(root / "usr/lib/x86_64-linux-gnu")}
    return [str(root / "usr/bin/aarch64-linux-gnu-gcc-12"), *options], libraries


def arm64_java(libraries: Path, cpu: str | None = None) -> list[str]:
    """The command of an arm64 Java machine under qemu that finds the phone's arm64 libraries.

    Args:
        libraries: folder of ``make_libraries``.
        cpu: a processor that qemu knows; None for the newest.

    Raises:
        PackageError: a package cannot be had.
    """
    root, qemu = package_tree("arm64"), package_tree("qemu")
    java = next(root.glob("usr/lib/jvm/java-17-openjdk-arm64"))
    # Not Java's own folders: with those in the path its launcher starts itself anew, outside the emulator.
    paths = (libraries, root / "lib/aarch64-linux-gnu", root / "usr/lib/aarch64-linux-gnu")
    emulator = [str(qemu / "usr/bin/qemu-aarch64"), *(["-cpu", cpu] if cpu else []), "-L", str(root)]
    emulator += ["-E", "LD_LIBRARY_PATH=" + ":".join(map(str, paths)), "-E", f"JAVA_HOME={java}"]
    return [*emulator, str(java / "bin/java"), "-Xint", "-XX:+UseSerialGC"]
