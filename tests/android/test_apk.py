"""The APK itself, read back from the file: what it asks for, what it holds, and that its dex code and model work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from android_demo.build_apk import Options, app_version, build
from android_demo.builder import check, tools
from android_demo.builder.errors import BuildError
from android_demo.packages import default_cache, sha256_of
from tests.android.phone import ROOT, java_classpath, phone_classes_or_skip, tools_or_skip
from tests.android.phone_libraries import PhoneLibraries, package_tree
from tests.android.requirements import is_required, make_or_skip

pytestmark = pytest.mark.android
TIMEOUT_S = 600


@pytest.fixture(scope="module")
def apk(int4_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the very function that the command calls."""
    tools_or_skip()
    path = tmp_path_factory.mktemp("apk") / "palmtop.apk"
    options = Options(output=path, cache=default_cache(), bundle=int4_bundle, offline=not is_required())
    make_or_skip(lambda: build(options))
    return path


@pytest.fixture(scope="module")
def facts(apk: Path) -> check.ApkFacts:
    return check.check_apk(tools_or_skip(), apk)


@pytest.fixture(scope="module")
def contents(apk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contents")
    with zipfile.ZipFile(apk) as archive:
        archive.extractall(folder)
    return folder


def test_the_apk_asks_for_the_microphone_and_nothing_else(facts: check.ApkFacts) -> None:
    assert facts.permissions == {"android.permission.RECORD_AUDIO"}


def test_pictures_and_sounds_of_other_apps_can_be_shared_with_it(apk: Path) -> None:
    command = [tools_or_skip().aapt2, "dump", "xmltree", "--file", "AndroidManifest.xml", apk]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout
    activities = text.split("E: activity ")[1:]
    chat = next(part for part in activities if '".ChatActivity"' in part or "org.palmtop.app.ChatActivity" in part)
    shared = next(part for part in chat.split("E: intent-filter ") if "android.intent.action.SEND" in part)
    words = set(re.findall(r'"([^"]+)" \(Raw', shared))
    assert words >= {"android.intent.action.SEND", "android.intent.action.SEND_MULTIPLE", "image/*", "audio/*"}
    assert "android.intent.category.DEFAULT" in words
    exported = [part for part in activities if "exported(0x01010010)=true" in part]
    assert exported == [chat]  # no other screen can be opened from outside


def test_the_apk_is_signed_for_every_android_it_runs_on(facts: check.ApkFacts) -> None:
    assert facts.signatures >= {"v2", "v3"}
    assert (facts.package, facts.version, facts.min_sdk, facts.target_sdk) == ("org.palmtop.app", app_version(), 24, 34)


def test_its_libraries_are_for_one_phone_and_large_pages(facts: check.ApkFacts) -> None:
    names = {Path(name).name for name in facts.libraries}
    runtimes = {"libonnxruntime.so", "libonnxruntime-genai.so", "libonnxruntime-genai-jni.so"}
    assert names == {*runtimes, "libpalmtop.so"}
    assert {library.abi for library in facts.libraries.values()} == {"arm64-v8a"}
    assert min(library.alignment for library in facts.libraries.values()) >= 16384
    needed = {name for library in facts.libraries.values() for name in library.needed}
    assert needed - names <= {"libc.so", "libm.so", "libdl.so", "liblog.so", "libandroid.so"}


def test_it_is_small_and_has_no_telemetry(facts: check.ApkFacts) -> None:
    assert facts.size_bytes <= 30_000_000
    assert not [name for name in facts.names if "libmat" in name or "telemetry" in name.lower()]


def test_no_class_of_the_dex_can_use_the_network(contents: Path) -> None:
    dex = (contents / "classes.dex").read_bytes()
    assert b"Lorg/palmtop/app/ChatActivity;" in dex
    for name in (b"Ljava/net/", b"HttpURLConnection", b"Landroid/webkit/", b"TelemetryInitializer"):
        assert name not in dex


def test_the_packed_model_is_the_one_given_and_about_names_every_hash(contents: Path, int4_bundle: Path) -> None:
    about = json.loads((contents / "assets/about.json").read_text("utf-8"))
    manifest = contents / "assets/model/bundle.json"
    assert manifest.read_bytes() == (int4_bundle / "bundle.json").read_bytes()
    assert about["model_sha256"] == sha256_of(manifest)
    for library in (contents / "lib/arm64-v8a").iterdir():
        assert sha256_of(library) in about["lines"][library.name].replace(" ", "")
    for licence in about["licences"].values():
        assert (contents / "assets/licences" / licence).stat().st_size > 1000


def test_a_changed_byte_breaks_the_signature(apk: Path, tmp_path: Path) -> None:
    content = bytearray(apk.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.apk").write_bytes(content)
    with pytest.raises(BuildError, match=r"signature of changed\.apk"):
        check.check_apk(tools_or_skip(), tmp_path / "changed.apk")


@pytest.fixture(scope="module")
def classes_of_dex(contents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The APK's dex code turned back into a jar: what dx made is what runs below."""
    site = make_or_skip(lambda: package_tree("enjarify")) / "usr/lib/python3/dist-packages"
    jar = tmp_path_factory.mktemp("dex") / "classes.jar"
    command = [sys.executable, "-O", "-m", "enjarify.main", str(contents / "classes.dex"), "-o", str(jar)]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, timeout=TIMEOUT_S)
    counted = re.search(r"(\d+) classes translated successfully, (\d+) classes had errors", done.stdout + done.stderr)
    assert counted is not None, done.stdout + done.stderr
    assert int(counted[1]) > 100
    assert int(counted[2]) == 0
    return jar


def test_the_dex_code_answers_in_all_four_modes_with_the_phones_libraries(
    contents: Path, classes_of_dex: Path, phone_libraries: PhoneLibraries, tmp_path: Path
) -> None:
    """From the first start to the examples' answers, by the code and the model that are in the APK.

    The libraries are the AARs' for x86-64, whose arm64 twins are packed; the Java machine takes ART's place.
    """
    tests = ROOT / "tests/android/applogic"
    tools.compile_java([tests], list(phone_classes_or_skip()), [], tmp_path / "tests")
    path = java_classpath(classes_of_dex, tmp_path / "tests")
    (tmp_path / "phone").mkdir()
    options = ["-Xverify:all", "-Xmx256m", f"-Donnxruntime-genai.native.path={phone_libraries.folder}"]
    options += [f"-Djava.library.path={phone_libraries.folder}", "-cp", path]
    done = subprocess.run(
        ["java", *options, "Journey", str(contents / "assets"), str(tmp_path / "phone")],
        env={"LD_LIBRARY_PATH": str(phone_libraries.folder), "PATH": "/usr/bin:/bin", "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert "STATE READY palmtop-reference null" in done.stdout, done.stdout + done.stderr
    answers = dict(re.findall(r"^ANSWER ([^|]+)\|([^|]*)\|DONE\|", done.stdout, re.M))
    samples = json.loads((contents / "assets/samples/samples.json").read_text("utf-8"))
    assert answers == {sample["mode"]: sample["expected"] for sample in samples}
