"""What cannot stand beside a base is refused with its reason, and the bundle stays as it was."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from palmtop.errors import CheckpointError, InputError, PalmtopError
from palmtop.export.adapters.install import add_adapter, set_route
from palmtop.export.adapters.palmadapter import pack
from palmtop.export.checkpoint.torch_zip_reader import torch_places
from palmtop.runtime.bundle.opening import open_bundle
from tests.export.adapters.conftest import bundle_logits

Lora = tuple[Path, NDArray[np.float32]]
DOWN = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"


@pytest.fixture
def folder(lora: Lora, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lora[0], tmp_path / "lora"))


@pytest.fixture
def bundle(int4_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int4_bundle, tmp_path / "bundle"))


def refused(bundle: Path, source: Path, message: str) -> None:
    before = (bundle / "bundle.json").read_bytes()
    with pytest.raises(PalmtopError, match=message):
        add_adapter(bundle, source, "new")
    assert (bundle / "bundle.json").read_bytes() == before
    assert sorted(p.name for p in bundle.iterdir() if p.name.startswith(".")) == []
    open_bundle(bundle)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora is True, expected a plain LoRA: DoRA rescales"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is .*whole layers"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"r": 9}, "expected rank 9 as"),
        ({"r": 0}, "r is 0, expected a positive number"),
        ({"rank_pattern": {"down_proj": 4}}, "down_proj.* is .*expected rank 4"),
        ({"rank_pattern": {"(": 4}}, "not a pattern"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
    ],
)
def test_configs(config: dict[str, Any], message: str, bundle: Path, folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    refused(bundle, folder, message)


def _cut(t: dict[str, NDArray[Any]]) -> None:
    t[DOWN] = t[DOWN][:, :-1].copy()


def _nan(t: dict[str, NDArray[Any]]) -> None:
    t[DOWN][3, 5] = np.nan


def _infinite(t: dict[str, NDArray[Any]]) -> None:
    t[DOWN][0, 0] = -np.inf


def _foreign_layer(t: dict[str, NDArray[Any]]) -> None:
    for part in "AB":
        name = DOWN.replace("lora_A", f"lora_{part}")
        t[name.replace("layers.1", "layers.77")] = t[name]


def _foreign_module(t: dict[str, NDArray[Any]]) -> None:
    t["base_model.model.lm_head.lora_A.weight"] = t[DOWN]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut, r"layers\.1\.mlp\.down_proj\.lora_A\.weight' is \[8, 511\], expected 512 columns"),
        (_nan, r"layers\.1\.mlp\.down_proj\.lora_A\.weight' holds a value that is not finite"),
        (_infinite, r"layers\.1\.mlp\.down_proj\.lora_A\.weight' holds a value that is not finite"),
        (_foreign_layer, r"layers\.77\.mlp\.down_proj.* adapts a linear that this bundle has not"),
        (_foreign_module, r"tensor 'base_model\.model\.lm_head\.lora_A\.weight' there, expected"),
        (lambda t: t.pop(DOWN), r"down_proj\.lora_B\.weight' has no lora_A beside it"),
        (lambda t: t.clear() or t.update(x=np.zeros(1, np.float32)), "tensor 'x' there"),
    ],
)
def test_tensors(change: Callable[[dict[str, NDArray[Any]]], Any], message: str, bundle: Path, folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    refused(bundle, folder, message)


def test_another_base_is_refused_by_its_hash(bundle: Path, folder: Path) -> None:
    (folder / "palmtop_adapter.json").write_text(json.dumps({"base_sha256": "ab" * 32, "merged_from": {}}))
    refused(bundle, folder, r"belongs to the base with sha256 abababababab\.\.\.")


def test_what_is_no_adapter_is_refused(bundle: Path, tmp_path: Path) -> None:
    refused(bundle, tmp_path / "nothing", "no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(bundle, tmp_path / "empty", "has no adapter_config.json")
    (tmp_path / "text").write_text("hello")
    refused(bundle, tmp_path / "text", "is not an adapter packed by palmtop")


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("pwned"),))


def test_a_pickle_that_calls_something_is_refused_uncalled(
    bundle: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with zipfile.ZipFile(folder / "adapter_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": _Evil()}))
    refused(bundle, folder, r"its pickle asks for .*expected plain tensors")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02junk"])
def test_damaged_torch_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="torch"):
        torch_places(tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(base_sha256="0" * 64), "belongs to the base with sha256 000000000000"),
        (lambda d: d.update(base_sha256="0"), "base_sha256 is '0'"),
        (lambda d: d.update(format=2), "format is 2, this palmtop reads up to 1"),
        (lambda d: d["weights"].update(sha256="0" * 64), r"weights.bin has sha256"),
        (lambda d: d["weights"].update(size_bytes=5), "ends at byte|says 5"),
        (lambda d: d["linears"]["layers.0.mlp.down_proj"]["a"].update(rows=7), "lora_A' is|expected"),
        (lambda d: d["linears"]["layers.0.mlp.down_proj"]["a"].update(group=3), "not described as expected"),
        (lambda d: d["linears"]["layers.0.mlp.down_proj"]["a"]["offsets"].update(codes=1 << 60), "ends at byte"),
        (lambda d: d["linears"]["layers.0.mlp.down_proj"]["a"]["offsets"].pop("codes"), "not described as expected"),
        (lambda d: d["linears"].update({"../../x": {}}), "is no linear layer"),
        (lambda d: d["linears"].update({"layers.9.mlp.down_proj": d["linears"]["layers.0.mlp.down_proj"]}), "no such"),
        (lambda d: d.update(name="../x"), "expected a name"),
        (lambda d: d.update(linears=[]), "linears is"),
    ],
)
def test_packed_adapters_that_lie(
    edit: Callable[[dict[str, Any]], object], message: str, bundle: Path, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.palmadapter", tmp_path / "bad.palmadapter"
    pack(open_bundle(bundle), "vision", good)
    with zipfile.ZipFile(good) as archive:
        data, weights = json.loads(archive.read("adapter.json")), archive.read("weights.bin")
    edit(data)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("adapter.json", json.dumps(data))
        archive.writestr("weights.bin", weights)
    refused(bundle, bad, message)


def test_a_packed_adapter_is_the_same_bit_for_bit(bundle: Path, folder: Path, tmp_path: Path) -> None:
    add_adapter(bundle, folder, "mine")
    for name in ("mine", "vision"):  # one with a file of its own, one among the decoder's weights
        pack(open_bundle(bundle), name, tmp_path / f"{name}.palmadapter")
        add_adapter(bundle, tmp_path / f"{name}.palmadapter", f"{name}2")
        one, two = bundle_logits(bundle, **{name: 1.0}), bundle_logits(bundle, **{f"{name}2": 1.0})
        np.testing.assert_array_equal(one, two)


def test_a_packed_adapter_turns_a_copy_of_the_bundle_into_this_one(
    bundle: Path, int4_bundle: Path, folder: Path, tmp_path: Path
) -> None:
    """What a phone does, which cannot rewrite a graph: unpack three files."""
    add_adapter(bundle, folder, "mine")
    pack(open_bundle(bundle), "mine", tmp_path / "mine.palmadapter")
    phone = Path(shutil.copytree(int4_bundle, tmp_path / "phone"))
    with zipfile.ZipFile(tmp_path / "mine.palmadapter") as archive:
        spec = json.loads(archive.read("adapter.json"))
        (phone / "adapters").mkdir()
        (phone / spec["installs_as"]).write_bytes(archive.read("weights.bin"))
        for name in ("decoder.onnx", "bundle.json"):
            (phone / name).write_bytes(archive.read(f"bundle/{name}"))
    np.testing.assert_array_equal(bundle_logits(phone, mine=1.0), bundle_logits(bundle, mine=1.0))


@pytest.mark.parametrize("mode", ["text", "image+audio"])
def test_the_route_of_a_mode_is_not_dropped(mode: str, float_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(float_bundle, tmp_path / "bundle"))
    with pytest.raises(InputError, match="is a mode of input, expected a task"):
        set_route(bundle, mode, None)
    assert mode in open_bundle(bundle).manifest.routes
