"""``palmtop android``: a bundle goes to a phone whole, or one sentence says why not (adb is a script)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from palmtop.__main__ import cli
from palmtop.errors import BundleError, InputError, PalmtopError, RuntimeMissingError
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.commands import android

# A phone that is a folder: paths of its own file system are looked up below PHONE.
ADB = """#!/bin/sh
if [ "$1" = devices ]; then printf 'List of devices attached\\n'; cat "$PHONE/devices"; exit 0; fi
[ "$1" = -s ] || exit 9
shift 2
case "$1" in
shell) echo "$2" >> "$PHONE/log"; exec sh -c "$(echo "$2" | sed "s#/sdcard#$PHONE/sdcard#g")" ;;
push) [ -e "$PHONE/full" ] && { echo 'write failed: No space left on device' >&2; exit 1; }
      mkdir -p "$(dirname "$PHONE$3")" && cp "$2" "$PHONE$3" ;;
*) exit 9 ;;
esac
"""


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "phone"
    folder.mkdir()
    (folder / "devices").write_text("ABC123\tdevice\n", "utf-8")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "adb").write_text(ADB, "utf-8")
    (tools / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PHONE", str(folder))
    return folder


def push(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["android", "push", *map(str, arguments)])


def refusal(*arguments: str | Path) -> PalmtopError:
    error = push(*arguments).exception
    assert isinstance(error, PalmtopError), error
    return error


def models(phone: Path) -> Path:
    return phone / android.MODELS.lstrip("/")


def test_a_bundle_arrives_whole_and_under_its_name(int4_bundle: Path, phone: Path) -> None:
    result = push(int4_bundle, "--name", "my model")
    assert result.exit_code == 0, result.exception
    open_bundle(models(phone) / "my model")
    assert os.listdir(models(phone)) == ["my model"]


def test_a_model_on_the_phone_is_replaced_only_when_asked(int4_bundle: Path, phone: Path) -> None:
    assert push(int4_bundle, "--name", "m").exit_code == 0
    (models(phone) / "m" / "mark").touch()
    assert "is on the phone already" in str(refusal(int4_bundle, "--name", "m"))
    assert (models(phone) / "m" / "mark").exists()
    assert push(int4_bundle, "--name", "m", "--force").exit_code == 0
    assert not (models(phone) / "m" / "mark").exists()


def test_a_full_phone_shows_no_half_model(int4_bundle: Path, phone: Path) -> None:
    (phone / "full").touch()
    assert "is there room on the phone" in str(refusal(int4_bundle, "--name", "m"))
    assert not (models(phone) / "m").exists()


def test_a_damaged_bundle_does_not_leave_the_computer(int4_bundle: Path, phone: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(int4_bundle, tmp_path / "copy")
    content = bytearray((copy / "decoder.onnx").read_bytes())
    content[100] ^= 1
    (copy / "decoder.onnx").write_bytes(content)
    assert isinstance(refusal(copy), BundleError)
    assert not (phone / "log").exists()


@pytest.mark.parametrize(
    ("devices", "arguments", "sentence"),
    [
        ("", [], "found 0 phones, expected one (connect it"),
        ("A\tdevice\nB\tdevice\n", [], "found 2 phones: A, B, expected one (choose by --serial)"),
        ("A\tunauthorized\n", [], "phone A is unauthorized, expected it ready: allow USB debugging"),
        ("A\toffline\n", [], "phone A is offline"),
        ("A\tdevice\n", ["--serial", "B"], "phone B is absent"),
    ],
)
def test_a_phone_that_cannot_be_used_is_named(
    int4_bundle: Path, phone: Path, devices: str, arguments: list[str], sentence: str
) -> None:
    (phone / "devices").write_text(devices, "utf-8")
    error = refusal(int4_bundle, *arguments)
    assert isinstance(error, InputError)
    assert sentence in str(error)


def test_one_of_two_phones_is_chosen(int4_bundle: Path, phone: Path) -> None:
    (phone / "devices").write_text("A\tdevice\nB\tdevice\n", "utf-8")
    assert push(int4_bundle, "--serial", "B").exit_code == 0


def test_a_name_that_the_phone_would_take_apart_is_refused(int4_bundle: Path, phone: Path) -> None:
    assert "option name" in str(refusal(int4_bundle, "--name", "../../x"))


def test_without_adb_one_sentence_says_so(int4_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refusal(int4_bundle)
    assert isinstance(error, RuntimeMissingError)
    assert "'adb'" in str(error)


def test_build_passes_its_arguments_and_its_exit_code_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import sys; open({str(tmp_path / 'seen')!r}, 'w').write(repr(sys.argv[1:])); sys.exit(7)")
    monkeypatch.setattr(android, "find_script", lambda: script)
    result = CliRunner().invoke(cli, ["android", "build", "--offline", "-o", "x.apk", "--help"])
    assert result.exit_code == 7
    assert (tmp_path / "seen").read_text() == "['--offline', '-o', 'x.apk', '--help']"


def test_the_script_is_found_in_a_checkout() -> None:
    assert android.find_script() == Path(__file__).parents[2] / "android_demo/build_apk.py"


def test_an_installed_palmtop_says_that_it_cannot_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(android, "__file__", str(tmp_path / "a/b/android.py"))
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(cli, ["android", "build"]).exception
    assert isinstance(error, RuntimeMissingError)
    assert "checkout" in str(error)
