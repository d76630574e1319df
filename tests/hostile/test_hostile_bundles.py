"""Bundles that lie: refused with a BundleError before anything native could be hurt."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palmtop.errors import BundleError
from palmtop.runtime.bundle.manifest import REQUIRED_FILES, Manifest
from palmtop.runtime.bundle.opening import open_bundle, sha256_of
from palmtop.runtime.session import Session, SessionOptions
from tests.hostile.wrong_values import IMPOSSIBLE, at
from tests.runtime.toy import FakeEncoders, write_toy_bundle


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "toy"))


def change(bundle: Path, *edits: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest, whose hashes become right again."""
    path = bundle / "bundle.json"
    data = json.loads(path.read_text())
    for name, file in data["files"].items():
        file.update(size_bytes=(bundle / name).stat().st_size, sha256=sha256_of(bundle / name))
    for edit in edits:
        edit(data)
    path.write_text(json.dumps(data))


def answer(bundle: Path) -> None:
    options = SessionOptions(threads=1, prefill_chunk=16)
    with Session(open_bundle(bundle), options, encoders=FakeEncoders()) as session:
        session.answer([{"role": "user", "content": "hi"}], max_tokens=1)


@pytest.mark.parametrize(("place", "value"), IMPOSSIBLE)
def test_impossible_values_are_refused(good: Path, place: str, value: object) -> None:
    data: Any = json.loads((good / "bundle.json").read_text())
    there, last = at(data, place)
    assert last in there
    there[last] = value
    with pytest.raises(BundleError, match=r"bundle\.json: "):
        Manifest.from_dict(data)


@pytest.mark.parametrize("name", [*REQUIRED_FILES, "decoder.onnx", "vision.onnx"])
def test_what_is_loaded_must_be_listed(good: Path, name: str) -> None:
    data = json.loads((good / "bundle.json").read_text())
    del data["files"][name]
    with pytest.raises(BundleError, match=f"'{name}' is not among the bundle's files"):
        Manifest.from_dict(data)


@pytest.mark.parametrize("name", ["weights/decoder.bin", "extra.bin", "weights/bundle.json"])
def test_files_that_are_not_listed_are_refused(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(b"weights")
    with pytest.raises(BundleError, match=rf"file '{name}' is not in bundle\.json"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", [".gitattributes", "README.md", ".cache/huggingface/download.lock"])
def test_what_git_and_hubs_leave_beside_is_no_harm(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"not ours")
    open_bundle(bundle)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (("model", "decoder", "session_options"), "custom_ops_library", "/tmp/evil.so"),
        (("model", "decoder", "session_options"), "enable_profiling", "/tmp/profile"),
        (("search",), "num_beams", 4),
        (("model",), "vocab_size", 10**9),
        (("model",), "type", "phi3"),
    ],
)
def test_a_genai_config_that_the_manifest_does_not_give_is_refused(
    bundle: Path, section: tuple[str, ...], key: str, value: object
) -> None:
    """genai would load the library, write the profile, and crash on the beams."""
    config = json.loads((bundle / "genai_config.json").read_text())
    inner = config
    for step in section:
        inner = inner[step]
    inner[key] = value
    (bundle / "genai_config.json").write_text(json.dumps(config))
    change(bundle)
    with pytest.raises(BundleError, match=rf"{key} is not what the manifest gives"):
        answer(bundle)


def test_weights_with_two_names_are_refused_before_onnxruntime_does(int4_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(int4_bundle, tmp_path / "bundle"))
    open_bundle(copy)
    os.link(copy / "weights" / "decoder.bin", tmp_path / "again")
    with pytest.raises(BundleError, match=r"'weights/decoder\.bin' has 2 hard links, .* expected a copy"):
        open_bundle(copy)


def test_a_folder_that_is_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (bundle / "weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"'weights' is not in bundle\.json"):
        open_bundle(bundle)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"schema": ' + "1" * 5000 + "}", "\udc80"])
def test_broken_json_is_refused(bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError, match="is not valid JSON"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"])
def test_impossible_file_names_are_refused(bundle: Path, name: str) -> None:
    change(bundle, lambda m: m["files"].update({name: {"size_bytes": 1, "sha256": "0" * 64}}))
    with pytest.raises(BundleError):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["bundle.json", "tokenizer.json"])
def test_unreadable_files_are_refused(bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refusing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, os.strerror(13), str(path))
        return real(path, *args, **kwargs)

    def refusing_bytes(path: Path) -> Any:
        with refusing(path, "rb") as file:
            return file.read()

    monkeypatch.setattr(Path, "open", refusing)
    monkeypatch.setattr(Path, "read_bytes", refusing_bytes)
    monkeypatch.setenv("XDG_CACHE_HOME", str(bundle.parent / "cache"))
    with pytest.raises(BundleError, match=f"{name}: cannot be read"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("genai_config.json", b"{"),
        ("genai_config.json", b"{}"),
        ("decoder.onnx", b"rubbish"),
        ("decoder.onnx", b""),
        ("tokenizer.json", b"{}"),
    ],
)
def test_broken_files_name_the_bundle(bundle: Path, name: str, content: bytes) -> None:
    (bundle / name).write_bytes(content)
    change(bundle)
    with pytest.raises(BundleError, match=str(bundle)):
        answer(bundle)


@pytest.mark.parametrize("name", ["bundle.json", "decoder.onnx", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named(bundle: Path, name: str) -> None:
    (bundle / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    with pytest.raises(BundleError, match=f"{name}: is a Git LFS pointer to a file of 12345 bytes, expected the"):
        open_bundle(bundle)


def _without_media(manifest: dict[str, Any]) -> None:
    manifest.update(vision=None, audio=None, routes={"text": manifest["routes"]["text"]})


@pytest.mark.parametrize(
    "edit",
    [
        _without_media,
        lambda m: m["decoder"].update(original_context=None),
        lambda m: m["decoder"].update(vocab_size=300),
        lambda m: m["decoder"].update(hidden_size=64),
        lambda m: m.update(adapters=m["adapters"][:1], routes={"text": m["routes"]["text"]}),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(
    bundle: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    change(bundle, edit)
    with pytest.raises(BundleError, match=str(bundle)):
        answer(bundle)
