"""The phone opens, checks and refuses bundles exactly as the Python runtime does, in the same words."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palmtop.errors import BundleError, BundleVersionError, ManifestError, MemoryPlanError
from palmtop.runtime.bundle.genai_config import check_genai_config
from palmtop.runtime.bundle.manifest import REQUIRED_FILES, Manifest
from palmtop.runtime.bundle.opening import check_hashes, open_bundle, sha256_of
from palmtop.runtime.bundle.states import StateSpec
from palmtop.runtime.memory.plan import check_plan, largest_context, plan_memory
from tests.android.jvm import Core, CoreError
from tests.hostile.wrong_values import IMPOSSIBLE, at
from tests.runtime.test_bundle_schema import SCHEMA, changed, mutations, written
from tests.runtime.toy import write_toy_bundle

WRONG_SHAPES: list[object] = [
    [],
    ["batch"],
    ["batch", 1, "tokens", 17],
    ["batch", 1, "tokens", 0],
    ["batch", 1, "tokens", True],
    ["batch", 1, "tokens", 16.0],
    ["batch", 1, 16, "tokens"],
    ["tokens", 1, "batch", 16],
    ["batch", 1, "tokens", "tokens", 16],
    ["batch", 1, "width", 16],
    ["batch", 1 << 20, "tokens", 2],
    ["batch", 1, 16],
    [1, 1, "tokens", 16],
    "batch",
    None,
]
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "toy"))


def python_says(bundle: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        opened = open_bundle(bundle, hashes=False)
        check_hashes(opened)
        check_genai_config(opened)
    return caught.value


def phone_says(core: Core, bundle: Path) -> CoreError:
    with pytest.raises(CoreError) as caught:
        core.ask("open", folder=str(bundle), hashes=True)
    return caught.value


def same_words(core: Core, bundle: Path) -> str:
    """What both say; the parser's own words in brackets may differ."""
    error, phone = python_says(bundle), phone_says(core, bundle)
    wanted = "BUNDLE_VERSION" if isinstance(error, BundleVersionError) else "BUNDLE"
    if isinstance(error, ManifestError):
        assert (phone.kind, phone.code, phone.path) == (wanted, error.code, error.path)
        return str(error)
    message = re.sub(r"JSON \(.*\)", "JSON (...)", str(error), flags=re.DOTALL)
    assert (phone.kind, re.sub(r"JSON \(.*\)", "JSON (...)", phone.message, flags=re.DOTALL)) == (wanted, message)
    return message


def place(data: Any, where: str, value: object) -> None:
    there, last = at(data, where)
    if value is ...:
        del there[last]
    else:
        there[last] = value


WRONG = [
    *IMPOSSIBLE,
    ("schema", 2),
    ("schema", 1.0),
    ("schema", 0),
    ("schema", True),
    ("schema", "1"),
    ("schema", 10**30),
    ("model", ...),
    ("surplus", 1),
    ("decoder.surplus", {}),
    ("decoder.vocab_size", ...),
    ("decoder", []),
    ("adapters", {}),
    ("adapters.0", "x"),
    ("adapters.0.gate", 1),
    ("routes.image.adapters.vision", 1 << 60),
    ("routes.image.adapters", {"nobody": 1.0}),
    ("routes.image.audio_projector", "side'ways\n\u200b"),
    ("routes.a smell", {"adapters": {}, "audio_projector": "speech"}),
    ("decoder.context_length", 1e3),
    ("decoder.hidden_size", 10**300),
    ("decoder.num_heads", 3),
    ("decoder.sampled_never", "1"),
    ("decoder.original_context", "long"),
    ("files.decoder.onnx", ...),
    ("processor.image.kind", "slices"),
    ("processor.image.kind", 5),
    ("processor.image.kind", ...),
    ("processor.audio.kind", "dynamic_hd"),
    ("processor.image", "dynamic_hd"),
    ("processor.image.crop_size", "448" * 30),
    ("processor.image.mean", [0.5, 2e3, 0.5]),
    ("processor.image.std", [0.5, 1e-7, 0.5]),
    ("processor.audio.mel_max_hz", -1.5e-5),
]


@pytest.mark.parametrize(("where", "value"), WRONG)
def test_wrong_manifests_are_refused_in_the_same_words(core: Core, bundle: Path, where: str, value: object) -> None:
    data = json.loads((bundle / "bundle.json").read_text())
    if where == "files.decoder.onnx":
        del data["files"]["decoder.onnx"]
    else:
        place(data, where, value)
    (bundle / "bundle.json").write_text(json.dumps(data))
    same_words(core, bundle)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 2000, '{"a": 1,}', "[1] 2", '{"schema": ' + "1" * 5000 + "}", "[]", "\udc80"]
)
def test_broken_json_is_refused(core: Core, bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    same_words(core, bundle)


def truncate(bundle: Path) -> None:
    (bundle / "decoder.onnx").write_bytes((bundle / "decoder.onnx").read_bytes()[:-7])


def flip(bundle: Path) -> None:
    content = bytearray((bundle / "decoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "decoder.onnx").write_bytes(content)


def rename(name: str) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        data = json.loads((bundle / "bundle.json").read_text())
        data["files"][name] = {"size_bytes": 1, "sha256": "0" * 64}
        (bundle / "bundle.json").write_text(json.dumps(data))

    return damage


def leave(name: str) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(b"weights")

    return damage


def link_out(bundle: Path) -> None:
    path = bundle / "tokenizer.json"
    path.rename(bundle.parent / "tokenizer.json")
    path.symlink_to(bundle.parent / "tokenizer.json")


def link_folder(bundle: Path) -> None:
    (bundle.parent / "elsewhere").mkdir()
    (bundle / "weights").symlink_to(bundle.parent / "elsewhere")


def loosen(bundle: Path) -> None:
    """A genai_config.json that would load a library."""
    config = json.loads((bundle / "genai_config.json").read_text())
    config["model"]["decoder"]["session_options"]["custom_ops_library"] = "/tmp/evil.so"
    (bundle / "genai_config.json").write_text(json.dumps(config))
    data = json.loads((bundle / "bundle.json").read_text())
    path = bundle / "genai_config.json"
    data["files"]["genai_config.json"] = {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (bundle / "bundle.json").write_text(json.dumps(data))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no manifest": lambda b: (b / "bundle.json").unlink(),
    "no file": lambda b: (b / "vision.onnx").unlink(),
    "cut file": truncate,
    "flipped bit": flip,
    "file climbs out": rename("../evil"),
    "absolute file": rename("/etc/passwd"),
    "drive": rename("c:evil"),
    "backslash": rename("..\\evil"),
    "no name": rename("."),
    "NUL": rename("a\0b"),
    "long name": rename("x" * 300),
    "linked folder": link_folder,
    "unlisted file": leave("extra.bin"),
    "unlisted below": leave("weights/decoder.bin"),
    "second manifest": leave("weights/bundle.json"),
    "genai config": loosen,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_bundles_are_refused_in_the_same_words(core: Core, bundle: Path, name: str) -> None:
    DAMAGES[name](bundle)
    message = same_words(core, bundle)
    assert str(bundle) in message


def test_a_link_out_of_the_bundle_is_refused_on_the_phone_alone(core: Core, bundle: Path) -> None:
    """A model hub's cache is made of such links; no app has one."""
    link_out(bundle)
    open_bundle(bundle)
    assert "leads out" in phone_says(core, bundle).message


@pytest.mark.parametrize("name", [".gitattributes", "README.md", ".cache/huggingface/download.lock"])
def test_what_hubs_leave_beside_is_no_harm(core: Core, bundle: Path, name: str) -> None:
    leave(name)(bundle)
    assert core.ask("open", folder=str(bundle), hashes=True) == open_bundle(bundle).size_bytes


def test_every_required_file_must_be_listed(core: Core, bundle: Path) -> None:
    data = json.loads((bundle / "bundle.json").read_text())
    for name in REQUIRED_FILES:
        changed = copy.deepcopy(data)
        del changed["files"][name]
        (bundle / "bundle.json").write_text(json.dumps(changed))
        assert f"'{name}' is not among" in same_words(core, bundle)


def test_hashes_are_remembered_until_a_file_changes(core: Core, bundle: Path, tmp_path: Path) -> None:
    memory = tmp_path / "hashes.json"
    core.ask("open", folder=str(bundle), hashes=True, remembered=str(memory))
    known = json.loads(memory.read_text())
    assert set(known) == set(json.loads((bundle / "bundle.json").read_text())["files"])
    time = (bundle / "decoder.onnx").stat().st_mtime
    flip(bundle)
    os.utime(bundle / "decoder.onnx", (time, time))
    core.ask("open", folder=str(bundle), hashes=True, remembered=str(memory))  # size and time as before: trusted
    os.utime(bundle / "decoder.onnx", (time + 5, time + 5))
    with pytest.raises(CoreError, match=r"'decoder\.onnx' has sha256"):
        core.ask("open", folder=str(bundle), hashes=True, remembered=str(memory))


KV_WRONG: list[tuple[str, object]] = [
    ("decoder.states.0.dtype", value) for value in (..., 8, "int16", "int8", True, None)
]
KV_WRONG += [("decoder.states.0.shape", value) for value in WRONG_SHAPES]
KV_WRONG += [("decoder.states.1.layers", value) for value in ([], [0], [1, 0], [0, 0], [0, 2], [-1], "0", None)]
KV_WRONG += [("decoder.states.1.rewind", value) for value in ("never", None, "checkpoint")]
KV_WRONG += [("decoder.states.1.name", value) for value in ("key", "", "a b", "Value", 1)]
KV_WRONG += [("decoder.states.1.input", value) for value in ("past", "%d%d", "%s%d", 5, "past.%d")]
KV_WRONG += [("decoder.states", value) for value in (..., None, [], {}, 5, [5])]


@pytest.mark.parametrize(("where", "value"), KV_WRONG)
def test_wrong_caches_are_refused_in_the_same_words(core: Core, tmp_path: Path, where: str, value: object) -> None:
    """Of a bundle of 4 bits; of 8 bits, its genai_config.json would be another."""
    bundle = write_toy_bundle(tmp_path / "toy", kv_bits=4)
    core.ask("open", folder=str(bundle), hashes=True)
    data = json.loads((bundle / "bundle.json").read_text())
    place(data, where, value)
    (bundle / "bundle.json").write_text(json.dumps(data))
    same_words(core, bundle)


@pytest.mark.parametrize("context", [64, 100, 5000, 131072])
@pytest.mark.parametrize("media_rows", [None, 64])
@pytest.mark.parametrize("kv_bits", [32, 8, 4])
def test_memory_plans_are_equal(
    core: Core, int4_bundle: Path, context: int, media_rows: int | None, kv_bits: int
) -> None:
    data = json.loads((int4_bundle / "bundle.json").read_text())
    manifest = Manifest.from_dict(data)
    dtype = {32: "float32", 8: "int8", 4: "int4"}[kv_bits]
    states = tuple(dataclasses.replace(state, dtype=dtype) for state in manifest.decoder.states)
    recurrent = StateSpec(
        name="ssm",
        input="past_ssm.%d",
        output="present_ssm.%d",
        shape=("batch", 24, 16),
        dtype="float32",
        layers=(0,),
        rewind="checkpoint",
    )
    decoder = dataclasses.replace(manifest.decoder, states=(*states, recurrent))
    manifest = dataclasses.replace(manifest, decoder=decoder)
    data = json.loads(json.dumps(manifest.to_dict()))
    plan = plan_memory(manifest, context=context, media_rows=media_rows, chunk=64)
    for available in (1 << 20, plan.text - 1, plan.text, plan.total, 1 << 33):
        asked = {"manifest": data, "context": context, "media_rows": media_rows, "chunk": 64, "available": available}
        parts = [plan.context, plan.media_rows, plan.weights, plan.used_weights, plan.prepacked, plan.kv_cache]
        parts += [plan.media, plan.encoders, plan.activations, plan.base, plan.text, plan.total]
        parts += [largest_context(manifest, plan, available)]
        assert core.ask("plan", **asked) == parts
        try:
            check_plan(manifest, plan, available)
        except MemoryPlanError as error:
            with pytest.raises(CoreError) as caught:
                core.ask("plan", check=True, **asked)
            assert (caught.value.kind, caught.value.message) == ("MEMORY", str(error))
        else:
            core.ask("plan", check=True, **asked)


def test_the_phone_refuses_what_the_schema_forbids_with_the_same_code_and_path(core: Core, good: Path) -> None:
    data = json.loads((good / "bundle.json").read_text())
    core.ask("manifest", of=data)
    for where, value, code in mutations(SCHEMA, data):
        with pytest.raises(CoreError) as caught:
            core.ask("manifest", of=changed(data, where, value))
        assert (caught.value.code, caught.value.path) == (code, written(where)), (where, value)
