"""A bundle appears whole or not at all, and nothing but a bundle is ever replaced."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from palmtop.errors import CheckpointError, InputError
from palmtop.export.bundle.atomic_directory import written_beside
from palmtop.export.bundle.external_data import ExternalData


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def write(target: Path, text: str = "new", *, overwrite: bool = True, keep: Path | None = None) -> None:
    with written_beside(target, overwrite=overwrite, keep=keep) as folder:
        (folder / "bundle.json").write_text(text)


def make_bundle(target: Path, text: str = "old") -> Path:
    target.mkdir(parents=True)
    (target / "bundle.json").write_text(text)
    return target


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_a_bundle_is_replaced(tmp_path: Path) -> None:
    target = make_bundle(tmp_path / "bundle")
    write(target)
    assert (target / "bundle.json").read_text() == "new"
    assert hidden(tmp_path) == []


def test_a_link_to_a_bundle_is_followed(tmp_path: Path) -> None:
    target = make_bundle(tmp_path / "bundle")
    (tmp_path / "link").symlink_to(target)
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (target / "bundle.json").read_text() == "new"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["mine.txt"], "is not a bundle; --force replaces only bundles"),
        ([], "is not a bundle; --force replaces only bundles"),
        (["config.json", "model.safetensors", "bundle.json"], "is a checkpoint; --force replaces only bundles"),
    ],
)
def test_any_other_folder_is_never_replaced(tmp_path: Path, files: list[str], message: str) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    for name in files:
        (target / name).write_text("precious")
    with pytest.raises(InputError, match=message):
        write(target)
    assert sorted(p.name for p in target.iterdir()) == sorted(files)
    assert hidden(tmp_path) == []


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is a file, expected a new folder"):
            write(tmp_path / "file", overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("target", [".", "..", "/", "../here"])
def test_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.chdir(make_bundle(tmp_path / "here"))
    with pytest.raises(InputError, match="is or holds the current folder"):
        write(Path(target))
    assert (tmp_path / "here" / "bundle.json").read_text() == "old"


@pytest.mark.parametrize("target", ["a/checkpoint", "a", "a/checkpoint/bundle", "link"])
def test_the_checkpoint_is_never_overlapped(tmp_path: Path, target: str) -> None:
    make_bundle(tmp_path / "a" / "checkpoint")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "checkpoint")
    with pytest.raises(InputError, match="overlaps the checkpoint"):
        write(tmp_path / target, keep=tmp_path / "a" / "checkpoint")
    assert (tmp_path / "a" / "checkpoint" / "bundle.json").read_text() == "old"


def test_a_link_to_itself_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="cannot be used"):
        write(tmp_path / "loop")


def test_a_target_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(InputError, match="already exists"), written_beside(target) as folder:
        (folder / "bundle.json").write_text("new")
        make_bundle(target, "theirs")
    assert (target / "bundle.json").read_text() == "theirs"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("failure", [OSError(errno.EACCES, "Permission denied"), SystemExit(143)])
def test_the_old_bundle_comes_back_when_the_swap_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    target = make_bundle(tmp_path / "bundle")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if ".partial-" in self.name:
            if isinstance(failure, OSError):
                failure.filename = str(self)
            raise failure
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(InputError if isinstance(failure, OSError) else SystemExit):
        write(target)
    assert (target / "bundle.json").read_text() == "old"
    assert hidden(tmp_path) == []


def test_leftovers_of_dead_processes_are_swept_and_others_kept(tmp_path: Path) -> None:
    pid = dead_pid()
    keep = [f".bundle.partial-{os.getppid()}", f".other.partial-{pid}", ".bundle.partial-mine"]
    sweep = [f".bundle.partial-{pid}", f".bundle.old-{pid}", f".bundle.partial-{os.getpid()}"]
    for name in (*keep, *sweep):
        make_bundle(tmp_path / name)
    make_bundle(tmp_path / "bundle")
    write(tmp_path / "bundle")
    assert sorted(hidden(tmp_path)) == sorted(keep)


def test_a_bundle_lost_between_two_renames_comes_back(tmp_path: Path) -> None:
    make_bundle(tmp_path / f".bundle.old-{dead_pid()}")
    with pytest.raises(InputError, match="already exists"):
        write(tmp_path / "bundle", overwrite=False)
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "old"


def test_two_exports_of_one_process_do_not_sweep_each_other(tmp_path: Path) -> None:
    with written_beside(tmp_path / "bundle") as folder:
        with pytest.raises(InputError, match="cannot write there"):
            write(tmp_path / "bundle")
        assert folder.is_dir()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_no_room_is_one_sentence(tmp_path: Path, number: int) -> None:
    message = f"could not be written .{os.strerror(number)}"
    with pytest.raises(InputError, match=message), written_beside(tmp_path / "bundle"):
        raise OSError(number, os.strerror(number))
    assert hidden(tmp_path) == []


def test_a_failing_weight_file_is_named(tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match=re.escape("could not be written (Bad file descriptor)"))
    with refused, written_beside(tmp_path / "bundle") as folder, ExternalData(folder, "weights/a.bin") as sink:
        os.close(sink._file.fileno())
        sink.add("a", (1 << 20,), np.dtype(np.float32), [np.zeros(1 << 20, np.float32)])


def test_a_file_of_the_checkpoint_that_cannot_be_read_is_the_checkpoints_fault(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    refused = pytest.raises(CheckpointError, match=r"tokenizer.json: could not be read \(No such file")
    with refused, written_beside(tmp_path / "bundle", keep=tmp_path / "checkpoint"):
        (tmp_path / "checkpoint" / "tokenizer.json").read_bytes()


def test_an_error_of_ours_is_not_called_a_failed_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_beside(tmp_path / "bundle"):
        (tmp_path / "elsewhere").read_bytes()
    assert hidden(tmp_path) == []


def test_sigterm_leaves_no_partial_folder(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from pathlib import Path\n"
        "from palmtop.export.cli import cleaned_up_when_terminated\n"
        "from palmtop.export.bundle.atomic_directory import written_beside\n"
        f"with cleaned_up_when_terminated(), written_beside(Path({str(tmp_path / 'bundle')!r})) as folder:\n"
        "    (folder / 'half').write_text('half')\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-B", "-c", code])
    try:
        started = time.monotonic()
        while not any(tmp_path.glob(".bundle.partial-*/half")) and time.monotonic() - started < 50:
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 143
    finally:
        child.kill()
        child.wait()
    assert list(tmp_path.iterdir()) == []
