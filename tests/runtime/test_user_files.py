"""Files and values as users have them: a byte order mark, other line breaks, names that are not UTF-8, odd numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from palmtop.errors import BundleError, InputError
from palmtop.export.adapters.peft_writer import export_adapter
from palmtop.export.convert import export_model
from palmtop.export.measure.samples import read_questions as read_samples
from palmtop.export.mixed_precision.allocation import BitAllocation
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.json_fields import kind_of
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.bundle.option_checks import check_number
from palmtop.runtime.evaluate import read_questions
from palmtop.runtime.processor.sounds.recording import read_windows
from palmtop.runtime.processor.sounds.sound_file import load_audio
from palmtop.runtime.session_options import SessionOptions
from tests.export.adapters.test_peft_rules import decoder, scales, write_folder

MARK = b"\xef\xbb\xbf"
QUESTION = {"task": "t", "messages": [{"role": "user", "content": "a\u2028b\x85c"}], "expected": "x", "answer": "x"}


def marked(path: Path, text: str) -> Path:
    path.write_bytes(MARK + text.encode())
    return path


def test_a_byte_order_mark_is_no_part_of_a_file(int4_bundle: Path, tmp_path: Path) -> None:
    lines = f"{json.dumps(QUESTION, ensure_ascii=False)}\r\n\n"
    assert [q.expected for q in read_questions(marked(tmp_path / "e.jsonl", lines))] == ["x"]
    assert [q.answer for q in read_samples(marked(tmp_path / "s.jsonl", lines))] == ["x"]
    assert Recipe.from_toml(marked(tmp_path / "r.toml", "bits = 8\n")).bits == 8
    plan = BitAllocation(method="rtn", tensors={"a": None}).text()
    assert BitAllocation.read(marked(tmp_path / "p.json", plan)).method == "rtn"
    bundle = Path(shutil.copytree(int4_bundle, tmp_path / "bundle"))
    marked(bundle / "bundle.json", (bundle / "bundle.json").read_text("utf-8"))
    open_bundle(bundle)
    folder = write_folder(tmp_path / "adapter", decoder("model."))
    marked(folder / "adapter_config.json", (folder / "adapter_config.json").read_text("utf-8"))
    assert len(scales(folder)) == 8


@pytest.mark.parametrize("read", [read_questions, read_samples])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "found no messages|is an empty list, expected an object"),
        ("[1]", "found no messages|is a list, expected an object"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (
            '{"task": "t", "messages": {}, "expected": "x"}',
            "found no messages|'messages' is an object",
        ),
        (
            '{"task": "t", "messages": [], "expected": null, "answer": null}',
            "'(expected|answer)' is null",
        ),
        ('{"task": "t", "messages": []}', "has no '(expected|answer)', expected text"),
        ('{"task": "t", "messages": [3], "expected": true, "answer": true}', "is true, expected text"),
    ],
)
def test_lines_of_another_kind_are_named_in_words_of_json(
    read: Callable[[Path], object], line: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        list(read(tmp_path / "x.jsonl"))  # type: ignore[call-overload]


def test_kinds_are_named_in_words_of_json() -> None:
    values = [None, True, False, 3, 0.5, "x", "", [1], [], {"a": 1}, {}, (), b"x"]
    assert [kind_of(value) for value in values] == [
        *("null", "true", "false", "a number", "a number", "text", "text", "a list", "an empty list", "an object"),
        *("an object", "an empty list", "a value of type bytes"),
    ]


@pytest.mark.parametrize("threads", [2000, 1 << 40, 0, -1, 1.5, True])
def test_threads_that_no_machine_starts_are_refused(
    threads: int, reference_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    expected = "1 to 64 on this machine, which has 2 cores" if threads in (2000, 1 << 40) else "at least 1"
    with pytest.raises(InputError, match=f"option threads: found .*, expected {expected}"):
        SessionOptions(threads=threads)
    with pytest.raises(InputError, match="option threads"):
        export_model(reference_checkpoint, tmp_path / "b", threads=threads)
    monkeypatch.setattr(os, "cpu_count", lambda: 512)
    SessionOptions(threads=2000 if threads == 2000 else 1)


def test_an_option_that_a_command_lacks_is_not_advised(int4_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match=r"already exists, expected a new folder$"):
        export_adapter(open_bundle(int4_bundle), "vision", tmp_path / "there")


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are always Unicode")
def test_every_command_works_in_folders_whose_names_are_not_utf8(
    reference_checkpoint: Path, int4_bundle: Path, tmp_path: Path
) -> None:
    folder = os.fsencode(tmp_path) + b"/b\xffd"
    os.mkdir(folder)
    bundle, checkpoint, adapter = (folder + name for name in (b"/bundle\xfe", b"/checkpoint\xfe", b"/adapter"))
    shutil.copytree(os.fsencode(int4_bundle), bundle)
    shutil.copytree(os.fsencode(reference_checkpoint), checkpoint)
    config = Path(os.fsdecode(checkpoint)) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "_name_or_path": ""}), "utf-8")
    picture = next(reference_checkpoint.parent.rglob("*.png"))
    shutil.copy(picture, folder + b"/\xfd.png")
    with open(folder + b"/tools.json", "w") as file:
        file.write('{"type": "boolean"}')

    def palmtop(*arguments: str | bytes) -> str:
        command = [sys.executable, "-m", "palmtop", *arguments]
        done = subprocess.run(command, capture_output=True, timeout=300)
        told = done.stderr.decode("utf-8", "surrogateescape")
        assert done.returncode == 0, told
        return done.stdout.decode("utf-8", "surrogateescape")

    one = ("--threads", "1", "--max-tokens", "4")
    assert palmtop("run", bundle, "hi", "--image", folder + b"/\xfd.png", *one) == palmtop(
        "run", str(int4_bundle), "hi", "--image", str(picture), *one
    )
    assert palmtop("run", bundle, "hi", "--schema", folder + b"/tools.json", *one).strip() in ("true", "false")
    assert palmtop("inspect", bundle, "--json")
    assert palmtop("adapter", "export", bundle, "vision", "-o", adapter).startswith(os.fsdecode(adapter))
    assert palmtop("adapter", "add", bundle, adapter, "--name", "mine")
    assert palmtop("adapter", "pack", bundle, "mine", "-o", folder + b"/\xfc.palmadapter")
    assert palmtop("adapter", "add", bundle, folder + b"/\xfc.palmadapter", "--name", "again")
    told = palmtop("export", checkpoint, "-o", folder + b"/new\xfb", "--set", "method=rtn", "--no-verify")
    assert told.startswith(f"{os.fsdecode(folder)}/new\udcfb: ")
    assert open_bundle(Path(os.fsdecode(folder + b"/new\xfb"))).manifest.model == "checkpoint\ufffd"


def test_files_and_folders_of_another_kind_are_named_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place, found in (("file", "is a file"), ("none", "no such folder"), (".", "no bundle.json there")):
        with pytest.raises(BundleError, match=f"{found}, expected a bundle folder"):
            open_bundle(tmp_path / place)
    readers = (
        lambda path: list(read_questions(path)),
        lambda path: list(read_samples(path)),
        Recipe.from_toml,
        BitAllocation.read,
    )
    for read in readers:
        for place, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory")):
            with pytest.raises(InputError) as caught:
                read(place)
            assert f"({reason})" in str(caught.value)
            assert str(caught.value).count(str(tmp_path)) == 1


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 10**400])
def test_numbers_without_end_are_told_from_small_ones(value: float) -> None:
    with pytest.raises(InputError, match="expected a finite number above 0"):
        check_number("timeout", value, "above 0")


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are always Unicode")
def test_a_sound_is_heard_in_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    samples = np.sin(np.arange(16000) / 7).astype(np.float32)
    soundfile.write(tmp_path / "plain.wav", samples, 16000)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    shutil.copy(tmp_path / "plain.wav", folder / "\udcfe.wav")
    np.testing.assert_array_equal(load_audio(folder / "\udcfe.wav", 16000), load_audio(tmp_path / "plain.wav", 16000))
    windows = [list(read_windows(place, 30)) for place in (folder / "\udcfe.wav", tmp_path / "plain.wav")]
    np.testing.assert_array_equal(windows[0][0].samples, windows[1][0].samples)
