"""From a checkout to a signed and checked APK, by one command and with pinned tools.

    python android_demo/build_apk.py [-o palmtop.apk] [--bundle DIR] [--offline]

The journey on one screen: packages, bundle, native libraries, assets, resources, Java, dex, ZIP, signature, check.
Standard library only; needs a JDK, and palmtop itself only to export the model that is packed by default.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, this file has no package

from android_demo.builder import contents, natives, tools, zip_writer  # noqa: E402
from android_demo.builder.check import MAX_APK_BYTES, ApkFacts, check_apk  # noqa: E402
from android_demo.builder.errors import BuildError  # noqa: E402
from android_demo.native.build import NativeBuildError, build_library  # noqa: E402
from android_demo.packages import PackageError, default_cache, say, sha256_of  # noqa: E402

HERE = ROOT / "android_demo"
USER_ERROR_EXIT = 2
PASSWORD_VARIABLE = "PALMTOP_KEYSTORE_PASS"


@dataclass(frozen=True)
class Options:
    """What a build can be told; see ``--help``."""

    output: Path
    cache: Path
    bundle: Path | None = None
    offline: bool = False
    ort_aar: Path | None = None
    genai_aar: Path | None = None
    keystore: Path | None = None


def build(options: Options) -> ApkFacts:
    """Build, sign and check an APK.

    Raises:
        BuildError, NativeBuildError, PackageError: it cannot be built; one sentence, a compiler's words below it.
    """
    with tempfile.TemporaryDirectory(prefix="palmtop-apk-") as folder:
        work = Path(folder)
        parts = make_parts(options, work)
        say("compiling")
        dex = make_dex(parts.kit, parts.genai, parts.assets, work)
        say("signing and checking")
        unsigned = work / "unsigned.apk"
        pack(work / "resources.apk", dex, parts.libraries, unsigned)
        signed = work / "signed.apk"
        tools.sign(parts.kit, unsigned, signed, options.keystore, PASSWORD_VARIABLE)
        facts = check_apk(parts.kit, signed, max_bytes=None if options.bundle else MAX_APK_BYTES)
        publish(signed, options.output)
    return facts


@dataclass(frozen=True)
class Parts:
    """What an APK is made of besides code: tools, genai's AAR, libraries by name, and a folder of assets."""

    kit: tools.Tools
    genai: natives.Aar
    libraries: dict[str, Path]
    assets: Path


def make_parts(options: Options, work: Path) -> Parts:
    """Fetch packages, export the model if none is given, build libraries, write assets."""
    kit = tools.find_tools(options.cache, offline=options.offline)
    ort = natives.find_aar("onnxruntime", options.ort_aar, options.cache, offline=options.offline)
    genai = natives.find_aar("onnxruntime-genai", options.genai_aar, options.cache, offline=options.offline)
    bundle = options.bundle
    if bundle is None:
        say("exporting and verifying the reference model")
        bundle = work / "bundle"
        contents.export_reference_bundle(bundle)
    say("packing native libraries and assets")
    libraries = make_libraries(kit, ort, genai, options.cache, work)
    assets = work / "assets"
    assets.mkdir()
    contents.write_assets(
        assets, bundle=bundle, root=ROOT, version=app_version(), aars=[ort, genai], libraries=libraries
    )
    return Parts(kit, genai, libraries, assets)


def app_version() -> str:
    """Version of palmtop, read without importing it."""
    text = (ROOT / "runtime/front/__init__.py").read_text("utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.M)
    if found is None:
        raise BuildError("runtime/front/__init__.py: names no __version__, expected a checkout of palmtop")
    return found[1]


def make_libraries(kit: tools.Tools, ort: natives.Aar, genai: natives.Aar, cache: Path, work: Path) -> dict[str, Path]:
    """The APK's shared libraries by name: the runtimes', stripped (once, then from the cache), and our own."""
    key = f"{ort.sha256[:12]}-{genai.sha256[:12]}-{kit.cross.name}"
    stripped = cache / "stripped" / key
    if not stripped.is_dir():
        stripped.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix="strip-", dir=stripped.parent))
        try:
            for aar in (ort, genai):
                for library in natives.take_libraries(aar, work / "whole"):
                    tools.strip_library(kit, library, beside / library.name)
            beside.rename(stripped)
        except OSError:
            if not stripped.is_dir():  # else another build was first
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    headers = work / "headers"
    natives.take(ort, {"headers/onnxruntime_c_api.h": headers / "onnxruntime_c_api.h"} | extra_headers(ort, headers))
    own = build_library(
        work / "libpalmtop.so",
        abi=natives.ABI,
        compiler=[kit.cross / "usr/bin/aarch64-linux-gnu-gcc-12", *tools.cross_options(kit)],
        headers=headers,
        jdk=tools.java_home(),
        work=work,
        environment=tools.cross_environment(kit),
    )
    return {path.name: path for path in (*sorted(stripped.iterdir()), own)}


def extra_headers(ort: natives.Aar, headers: Path) -> dict[str, Path]:
    """Headers that onnxruntime_c_api.h includes itself, in versions that have them."""
    return {name: headers / Path(name).name for name in natives.names(ort) if name.startswith("headers/")}


def make_dex(kit: tools.Tools, genai: natives.Aar, assets: Path, work: Path) -> Path:
    """Resources, R.java and all Java sources to ``classes.dex``."""
    tools.link_resources(kit, HERE / "app/AndroidManifest.xml", HERE / "app/res", assets, work, app_version())
    jar = work / "genai.jar"
    natives.take(genai, {"classes.jar": jar})
    sources = [HERE / "core/src", HERE / "app/logic", HERE / "app/src", work / "gen"]
    tools.compile_java(sources, [jar], tools.phone_classes(kit, work), work / "classes")
    dex = work / "classes.dex"
    tools.make_dex(kit, [work / "classes", jar], dex)
    return dex


def pack(resources: Path, dex: Path, libraries: dict[str, Path], out: Path) -> None:
    """One ZIP file of resources, code and libraries, each entry in a fixed place."""
    entries = [("classes.dex", dex.read_bytes(), True)]
    entries += [(f"lib/{natives.ABI}/{name}", path.read_bytes(), True) for name, path in sorted(libraries.items())]
    zip_writer.write_zip(out, [*zip_writer.read_entries(resources), *entries])


def publish(apk: Path, output: Path) -> None:
    """Copy beside the target and rename: a file of that name is always a whole APK."""
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.part")
    try:
        shutil.copyfile(apk, beside)
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)


def prepare_gradle(options: Options, folder: Path) -> None:
    """Put what the Gradle build cannot make, classes, libraries and assets, where it looks for them.

    Raises:
        BuildError, NativeBuildError, PackageError: as ``build``.
    """
    with tempfile.TemporaryDirectory(prefix="palmtop-apk-") as work:
        parts = make_parts(options, Path(work))
        for name in ("assets", "lib"):  # and nothing else of a folder that somebody may have named by mistake
            shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(parts.assets, folder / "assets")
        natives.take(parts.genai, {"classes.jar": folder / "genai.jar"})
        (folder / "lib" / natives.ABI).mkdir(parents=True)
        for name, path in parts.libraries.items():
            shutil.copyfile(path, folder / "lib" / natives.ABI / name)


class Parser(argparse.ArgumentParser):
    """A parser that refuses a command line in one sentence."""

    def error(self, message: str) -> NoReturn:
        """End the program."""
        self.exit(USER_ERROR_EXIT, f"build_apk: {message} (see: palmtop android build --help)\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Build, sign and check the Android app.")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("palmtop.apk"), help="APK to write (default: %(default)s)"
    )
    parser.add_argument("--bundle", type=Path, help="model to pack (default: the reference model, exported by palmtop)")
    parser.add_argument("--offline", action="store_true", help="use what is in the cache, ask no network")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="default: %(default)s")
    parser.add_argument("--ort-aar", type=Path, help="onnxruntime's AAR, e.g. the official one")
    parser.add_argument("--genai-aar", type=Path, help="onnxruntime-genai's AAR, e.g. the official one")
    parser.add_argument("--keystore", type=Path, help=f"key to sign with; its password in {PASSWORD_VARIABLE}")
    parser.add_argument("--gradle", type=Path, metavar="DIR", help="only prepare DIR for Android Studio's build")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Build, and print what came of it."""
    given = vars(parse(arguments))
    folder = given.pop("gradle")
    options = Options(**given)
    started = time.monotonic()
    try:
        if folder is not None:
            prepare_gradle(options, folder)
            return
        facts = build(options)
    except (BuildError, NativeBuildError, PackageError) as error:
        print(f"build_apk: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_EXIT)
    abis = sorted({library.abi for library in facts.libraries.values()})
    print(
        f"{options.output}: {facts.package} {facts.version}, {facts.size_bytes / 1e6:.1f} MB, {', '.join(abis)}, "
        f"Android API {facts.min_sdk}+, signed {'+'.join(sorted(facts.signatures))}, "
        f"permissions {', '.join(sorted(p.rsplit('.', 1)[-1] for p in facts.permissions)) or 'none'}, "
        f"in {time.monotonic() - started:.0f} s\nsha256 {sha256_of(options.output)}"
    )


if __name__ == "__main__":
    main()
