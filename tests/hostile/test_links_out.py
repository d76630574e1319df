"""Bundles of links, as in the hub's cache: taken where the content is the manifest's, refused elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from palmtop.errors import BundleError
from palmtop.export.adapters.install import add_adapter
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.measure.onnx_decoder import OnnxDecoder
from palmtop.export.verify import verify
from palmtop.runtime.bundle.external_locations import with_locations
from palmtop.runtime.bundle.opening import open_bundle, sha256_of
from palmtop.runtime.processor.sounds.log_mel import LogMel
from palmtop.runtime.session import SessionOptions, load_session
from tests.export.adapters.conftest import bundle_logits
from tests.reference.plain import random_lora

QUESTION = [{"role": "user", "content": "words: 12. What is it?"}]


def as_in_the_hubs_cache(bundle: Path, root: Path, *, relative: bool = True) -> Path:
    """``snapshots/x`` of links to ``blobs/HASH``."""
    folder, blobs = root / "snapshots" / "x", root / "blobs"
    blobs.mkdir(parents=True)
    for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
        blob = blobs / sha256_of(path)
        shutil.copyfile(path, blob)
        link = folder / path.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent) if relative else blob)
    return folder


@pytest.fixture
def linked(int4_bundle: Path, tmp_path: Path) -> Path:
    return as_in_the_hubs_cache(int4_bundle, tmp_path / "hub")


@pytest.fixture(scope="module")
def lora(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "mine"
    random_lora(reference_checkpoint, folder, 1)
    return folder


def answer(folder: Path) -> str:
    with load_session(folder, SessionOptions(threads=1)) as session:
        return session.answer(QUESTION, max_tokens=8).text


@pytest.mark.parametrize("relative", [True, False])
def test_a_bundle_of_links_answers_as_the_bundle_does(relative: bool, int4_bundle: Path, tmp_path: Path) -> None:
    linked = as_in_the_hubs_cache(int4_bundle, tmp_path / "hub", relative=relative)
    assert answer(linked) == answer(int4_bundle)
    np.testing.assert_array_equal(bundle_logits(linked, vision=1.0), bundle_logits(int4_bundle, vision=1.0))


def test_one_linked_weight_file_beside_plain_ones(int4_bundle: Path, tmp_path: Path) -> None:
    """What a user does to save space: the weights on another disk."""
    folder = Path(shutil.copytree(int4_bundle, tmp_path / "bundle"))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(folder / "weights" / "decoder.bin", tmp_path / "elsewhere" / "d")
    (folder / "weights" / "decoder.bin").symlink_to(tmp_path / "elsewhere" / "d")
    assert answer(folder) == answer(int4_bundle)


def test_encoders_of_links_are_loaded(linked: Path, int4_bundle: Path) -> None:
    """Their weights are links too; features are those of the plain bundle."""
    features = []
    for folder in (linked, int4_bundle):
        with load_session(folder, SessionOptions(threads=1)) as session:
            log_mel = np.random.default_rng(1).standard_normal((64, 80)).astype(np.float32)
            sound = LogMel(log_mel, session.manifest.processor.audio)
            features.append(session._encoders.encode_audio(sound, False))
    np.testing.assert_array_equal(*features)


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are always Unicode")
@pytest.mark.parametrize("of_links", [True, False])
def test_links_and_names_that_are_not_utf8_are_verified(
    of_links: bool, reference_checkpoint: Path, int4_bundle: Path, tmp_path: Path
) -> None:
    """The comparison opens each layer's graph, with its weights behind links or in such a folder."""
    if of_links:
        folder = as_in_the_hubs_cache(int4_bundle, tmp_path / "hub")
    else:
        folder = Path(shutil.copytree(int4_bundle, Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))))
    assert verify(open_bundle(folder), open_checkpoint(reference_checkpoint), items=1).verdict == "passed"


def test_an_adapter_is_added_to_links_and_the_blobs_stay(
    linked: Path, int4_bundle: Path, lora: Path, tmp_path: Path
) -> None:
    blobs = {path: sha256_of(path) for path in (tmp_path / "hub" / "blobs").iterdir()}
    plain = Path(shutil.copytree(int4_bundle, tmp_path / "plain"))
    for folder in (linked, plain):
        add_adapter(folder, lora, "mine")
    np.testing.assert_array_equal(bundle_logits(linked, mine=1.0), bundle_logits(plain, mine=1.0))
    assert answer(linked) == answer(plain)
    assert {path: sha256_of(path) for path in blobs} == blobs


def test_a_peft_folder_of_links_is_added(int4_bundle: Path, lora: Path, tmp_path: Path) -> None:
    folder = as_in_the_hubs_cache(lora, tmp_path / "hub")
    bundle, plain = (Path(shutil.copytree(int4_bundle, tmp_path / name)) for name in ("one", "two"))
    one, two = add_adapter(bundle, folder, "mine"), add_adapter(plain, lora, "mine")
    assert one.file == two.file == "adapters/mine.lora.bin"
    assert sha256_of(bundle / one.file) == sha256_of(plain / one.file)


@pytest.mark.parametrize("name", ["decoder.onnx", "weights/decoder.bin", "tokenizer.json"])
@pytest.mark.parametrize("hashes", [True, False])
def test_a_link_out_to_other_content_is_refused(name: str, hashes: bool, linked: Path) -> None:
    """Of the same size, and even where hashes of a bundle's own files are not asked for."""
    blob = (linked / name).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    (blob.parent / "other").write_bytes(content)
    (linked / name).unlink()
    (linked / name).symlink_to(blob.parent / "other")
    with pytest.raises(BundleError, match=rf"'{name}' is a link that leads out of the bundle and has sha256"):
        open_bundle(linked, hashes=hashes)


@pytest.mark.parametrize("target", ["/etc/hostname", "/dev/zero", "/nowhere", "."])
def test_a_link_to_what_is_no_file_of_the_bundle_is_refused(target: str, linked: Path) -> None:
    (linked / "tokenizer.json").unlink()
    (linked / "tokenizer.json").symlink_to(target)
    with pytest.raises(
        BundleError, match=r"'tokenizer\.json' (has \d+ bytes, expected|is a link to .*, where no file is)"
    ):
        open_bundle(linked, hashes=False)


def test_a_link_that_is_not_listed_is_refused(linked: Path) -> None:
    (linked / "extra.bin").symlink_to((linked / "tokenizer.json").resolve())
    with pytest.raises(BundleError, match=r"file 'extra\.bin' is not in bundle\.json"):
        open_bundle(linked)


def test_a_folder_that_is_a_link_out_is_refused(int4_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(int4_bundle, tmp_path / "bundle"))
    shutil.move(folder / "weights", tmp_path / "weights")
    (folder / "weights").symlink_to(tmp_path / "weights")
    with pytest.raises(BundleError, match="lies in a folder that is a link out of the bundle"):
        open_bundle(folder)


@pytest.mark.parametrize("location", ["../../blobs/x", "/etc/hostname", ".hidden.bin", "README.md"])
def test_a_graph_of_links_that_reads_what_is_not_listed_is_refused(location: str, linked: Path) -> None:
    graph = with_locations((linked / "decoder.onnx").read_bytes(), lambda _: location)
    (linked / "decoder.onnx").unlink()
    (linked / "decoder.onnx").write_bytes(graph)
    data = json.loads((linked / "bundle.json").read_text())
    data["files"]["decoder.onnx"] = {"size_bytes": len(graph), "sha256": sha256_of(linked / "decoder.onnx")}
    (linked / "bundle.json").unlink()
    (linked / "bundle.json").write_text(json.dumps(data))
    manifest = open_bundle(linked).manifest
    with pytest.raises(BundleError, match="expected a file that the bundle lists"):
        answer(linked)
    with pytest.raises(BundleError, match="expected a file that the bundle lists"):
        OnnxDecoder(linked / "decoder.onnx", manifest.decoder)


def test_locations_are_renamed_and_nothing_else(int4_bundle: Path) -> None:
    import onnx
    from onnx.external_data_helper import _get_all_tensors

    content = (int4_bundle / "decoder.onnx").read_bytes()
    assert with_locations(content, lambda location: location) == content
    renamed = onnx.load_from_string(with_locations(content, lambda location: f"{location}{'x' * 200}"))
    expected = onnx.load_from_string(content)
    for tensor in _get_all_tensors(expected):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value += "x" * 200
    assert renamed == expected


@pytest.mark.parametrize("content", [b"rubbish", b"\xff" * 30, b"\x3a\xff\x01a", b"\x3a\x02\x2a\x70"])
def test_what_is_no_graph_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="no ONNX model"):
        with_locations(content, str)
