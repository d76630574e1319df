"""What a person can do wrong when building the app is one sentence and exit code 2; the parts of an APK, alone."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from android_demo import build_apk
from android_demo.builder import check, contents, elf, natives, tools, zip_writer
from android_demo.builder.errors import BuildError
from tests.android.requirements import skip


def test_a_bundle_is_checked_before_it_is_packed(int4_bundle: Path, tmp_path: Path) -> None:
    assert contents.read_manifest(int4_bundle)["model"] == "palmtop-reference"
    with pytest.raises(BuildError, match=r"no bundle\.json there"):
        contents.read_manifest(tmp_path)
    copy = shutil.copytree(int4_bundle, tmp_path / "copy")
    file = copy / "vision.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(BuildError, match=rf"'vision\.onnx' has {len(content) - 1} bytes, expected {len(content)}"):
        contents.read_manifest(copy)
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(BuildError, match=r"'vision\.onnx' has sha256"):
        contents.read_manifest(copy)
    file.unlink()
    with pytest.raises(BuildError, match=r"'vision\.onnx' is missing"):
        contents.read_manifest(copy)
    manifest = json.loads((copy / "bundle.json").read_text())
    for damage in ({**manifest, "files": {"../../x": {"size_bytes": 1, "sha256": "0"}}}, {"files": 7}, []):
        (copy / "bundle.json").write_text(json.dumps(damage))
        with pytest.raises(BuildError, match=r"leads out of the bundle|is not a bundle's manifest"):
            contents.read_manifest(copy)


def aar(path: Path, *names: str) -> natives.Aar:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return natives.find_aar("onnxruntime-genai", path, path.parent, offline=True)


def test_an_aar_of_the_users_own_is_looked_into(tmp_path: Path) -> None:
    good = [f"jni/arm64-v8a/{name}" for name in natives.GENAI_LIBRARIES]
    given = aar(tmp_path / "my.aar", *good)
    assert given.origin == "my.aar"
    assert [p.name for p in natives.take_libraries(given, tmp_path / "out")] == list(natives.GENAI_LIBRARIES)
    with pytest.raises(BuildError, match=r"libmat\.so, expected an AAR without one"):
        natives.take_libraries(aar(tmp_path / "spy.aar", *good, "jni/arm64-v8a/libmat.so"), tmp_path / "out")
    with pytest.raises(BuildError, match=r"less\.aar: .*genai-jni\.so.*expected it in an AAR of onnxruntime-genai"):
        natives.take_libraries(aar(tmp_path / "less.aar", good[0]), tmp_path / "out")
    (tmp_path / "text.aar").write_text("no zip")
    with pytest.raises(BuildError, match="cannot be read as an AAR"):
        natives.take_libraries(natives.find_aar("onnxruntime", tmp_path / "text.aar", tmp_path, offline=True), tmp_path)
    with pytest.raises(BuildError, match="expected an AAR file of onnxruntime"):
        natives.find_aar("onnxruntime", tmp_path / "none.aar", tmp_path, offline=True)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as end:
        build_apk.main([str(a) for a in arguments])
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("argument", ["--nope", "extra", "--bundle"])
def test_a_wrong_command_line_is_refused_in_one_sentence(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, argument)
    assert said.count("\n") == 1
    assert said.startswith("build_apk: ") and argument in said


def test_offline_without_a_cache_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("javac"):
        skip("javac is not installed (package openjdk-17-jdk-headless)")
    said = refusal(capsys, "--offline", "--cache", tmp_path, "-o", tmp_path / "x.apk")
    assert said.startswith("build_apk: pybundletool 0.0.1.dev2: is not in ")
    assert not (tmp_path / "x.apk").exists()


def test_without_a_jdk_the_package_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "openjdk-17-jdk-headless" in refusal(capsys, "--offline", "--cache", tmp_path)


def test_a_key_without_its_password_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("X_PASS", raising=False)
    kit = tools.Tools(tmp_path, tmp_path, tmp_path)
    with pytest.raises(BuildError, match=r"my\.keystore: its password is expected .* X_PASS"):
        tools.sign(kit, tmp_path / "a", tmp_path / "b", Path("my.keystore"), "X_PASS")


def test_a_python_without_palmtop_cannot_export(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'No module named palmtop' >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(BuildError, match=r"give a bundle by --bundle \(No module named palmtop\)"):
        contents.export_reference_bundle(tmp_path / "out", str(fake))


def test_version_codes_grow() -> None:
    codes = [tools.version_code(v) for v in ("0.0.0", "0.0.2", "0.1.0", "0.1.9", "0.2", "1.0.0", "1.10.3")]
    assert codes == sorted(set(codes))


def test_the_gradle_files_name_the_same_levels_and_sources() -> None:
    text = (build_apk.HERE / "app/build.gradle.kts").read_text("utf-8")
    assert f"minSdk = {tools.MIN_SDK}" in text
    assert f"targetSdk = {tools.TARGET_SDK}" in text
    for folder in ("../core/src", "logic", "src", "res"):
        assert f'"{folder}"' in text


def test_zip_entries_are_aligned_and_the_file_is_the_same_every_day(tmp_path: Path) -> None:
    entries = [("a", b"x" * 7, False), ("lib/x.so", b"y" * 100, False), ("b.txt", b"z" * 5000, True)]
    paths = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for path in paths:
        zip_writer.write_zip(path, entries)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert zip_writer.read_entries(paths[0]) == entries
    with zipfile.ZipFile(paths[0]) as archive:
        starts = {info.filename: zip_writer.data_offset(paths[0], info) for info in archive.infolist()}
        assert archive.testzip() is None
    assert starts["a"] % 4 == 0
    assert starts["lib/x.so"] % 16384 == 0


def library(**changes: object) -> dict[str, elf.Library]:
    good = {"abi": "arm64-v8a", "alignment": 16384, "needed": ("libc.so",), "soname": "x.so", "is_stripped": True}
    return {"lib/arm64-v8a/x.so": elf.Library(**{**good, **changes})}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"abi": "x86_64"}, "is a library for x86_64"),
        ({"alignment": 4096}, "is aligned to 4096 bytes, expected 16384"),
        ({"needed": ("libmat.so",)}, "needs libmat.so"),
        ({"is_stripped": False}, "carries symbols"),
    ],
)
def test_a_library_that_would_not_run_is_refused(change: dict[str, object], sentence: str) -> None:
    check.check_libraries("x.apk", library())
    with pytest.raises(BuildError, match=sentence):
        check.check_libraries("x.apk", library(**change))


def test_a_file_that_is_no_library_is_named(tmp_path: Path) -> None:
    for content in (b"", b"\x7fELF\x01\x01", b"\x7fELF\x02\x01" + bytes(40), b"\x7fELF\x02\x01" + b"\xff" * 90):
        (tmp_path / "x.so").write_bytes(content)
        with pytest.raises(BuildError, match=r"x\.so"):
            elf.read_library(tmp_path / "x.so")
