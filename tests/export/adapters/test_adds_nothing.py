"""Adapters that add nothing somewhere: their B is zero, or modules that their config names have no tensors."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from palmtop.__main__ import cli
from palmtop.export.adapters.install import add_adapter
from palmtop.export.convert import export_model
from tests.export.test_port_layout import write_port_layout

Lora = tuple[Path, NDArray[np.float32]]
Tensors = dict[str, NDArray[Any]]
LAYERS = r"layers\.\d+\.(self_attn|mlp)\."


def changed(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Change the tensors of every shard of a folder."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        save_file(change(tensors), path)


def zero(chosen: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: np.zeros_like(v) if re.search(chosen, k) else v for k, v in tensors.items()}


def without(chosen: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: v for k, v in tensors.items() if not re.search(chosen, k)}


@pytest.fixture
def checkpoint(reference_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference_checkpoint, tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (r"lora_B\.speech", "adapter speech: lora_A or lora_B is zero in all 16 linears"),
        (r"lora_A\.vision", "adapter vision: lora_A or lora_B is zero in all 16 linears"),
        (r"layers\.2\..*lora_B\.vision", "adapter vision: lora_A or lora_B is zero in 4 of 16 linears"),
    ],
)
def test_a_checkpoints_adapter_that_adds_nothing_is_told_at_export_and_by_verify(
    chosen: str, told: str, checkpoint: Path, tmp_path: Path
) -> None:
    changed(checkpoint, zero(chosen))
    export = ["export", str(checkpoint), "-o", str(tmp_path / "b"), "--no-verify"]
    done = CliRunner().invoke(cli, export)
    assert done.exit_code == 0, done.output
    assert f"palmtop: warning: {told}" in done.stderr
    proved = CliRunner().invoke(cli, ["verify", str(tmp_path / "b"), "--against", str(checkpoint), "--items", "1"])
    assert f"palmtop: warning: {told}" in proved.stderr


def test_a_whole_adapter_is_not_spoken_of(checkpoint: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    export_model(checkpoint, tmp_path / "b", on_note=notes.append)
    assert notes == []


@pytest.mark.parametrize(
    ("chosen", "lost"),
    [
        (r"o_proj", r"'layers\.0\.self_attn\.o_proj' and 3 more"),
        (r"layers\.3\.", r"'layers\.3\.self_attn\.qkv_proj' and 3 more"),
        (r"layers\.1\.mlp\.down", r"'layers\.1\.mlp\.down_proj'"),
    ],
)
def test_modules_that_target_modules_names_and_that_have_no_tensors_are_told(
    chosen: str, lost: str, int4_bundle: Path, lora: Lora, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(lora[0], tmp_path / "lora"))
    changed(folder, without(chosen))
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    told = rf"adapter lora: target_modules names {lost}, without tensors: nothing is added there"
    every = r"(?:qkv|o|gate_up|down)_proj"
    kinds: list[Any] = [["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], rf".*\.{every}", "all-linear"]
    for number, targets in enumerate(kinds):
        path.write_text(json.dumps(config | {"target_modules": targets}))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            add_adapter(shutil.copytree(int4_bundle, tmp_path / f"b{number}"), folder)
        assert re.search(told, caplog.text), targets
    path.write_text(json.dumps(config | {"target_modules": None}))  # PEFT knows what each architecture means
    caplog.clear()
    add_adapter(shutil.copytree(int4_bundle, tmp_path / "b"), folder)
    assert caplog.text == ""


def test_separate_projections_of_a_fused_base_are_told_one_by_one(
    int4_bundle: Path, lora: Lora, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(lora[0], tmp_path / "lora"))
    changed(folder, lambda tensors: split(without("qkv_proj|o_proj|mlp")(tensors), tensors, ("q_proj", "v_proj")))
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for targets, lost in ((["q_proj", "v_proj"], ""), (["q_proj", "k_proj", "v_proj"], "k_proj' and 3 more")):
        path.write_text(json.dumps(config | {"target_modules": targets}))
        caplog.clear()
        add_adapter(shutil.copytree(int4_bundle, tmp_path / f"b{len(targets)}"), folder)
        assert (lost in caplog.text) if lost else not caplog.text


def split(kept: Tensors, tensors: Tensors, names: tuple[str, ...]) -> Tensors:
    """Adapters of the first and the last rows of qkv, under the names that a base of separate projections has."""
    for key, a in tensors.items():
        if "qkv_proj.lora_A" in key:
            b = tensors[key.replace("lora_A", "lora_B")]
            for name in names:
                rows = b[:192] if name == "q_proj" else b[-64:]
                kept[key.replace("qkv_proj", name)] = a.copy()
                kept[key.replace("qkv_proj", name).replace("lora_A", "lora_B")] = rows.copy()
    return kept


def test_a_ports_adapter_folders_are_looked_at_too(reference_checkpoint: Path, tmp_path: Path) -> None:
    port = tmp_path / "port"
    write_port_layout(reference_checkpoint, port)
    changed(port / "speech-lora", zero("lora_B"))
    changed(port / "vision-lora", without(r"layers\.3\..*down_proj"))
    path = port / "vision-lora" / "adapter_config.json"
    every = r"model.layers.\d+.((self_attn.(qkv|o)_proj)|(mlp.(gate_up|down)_proj))"  # as the published folders have it
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": every}))
    notes: list[str] = []
    export_model(port, tmp_path / "b", on_note=notes.append)
    assert [note.partition(":")[0] for note in notes] == ["adapter vision", "adapter speech"]
    assert "names 'layers.3.mlp.down_proj', without tensors" in notes[0]
