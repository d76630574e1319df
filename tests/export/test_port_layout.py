"""Both layouts of the same checkpoint give the same bundle, byte for byte in its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from palmtop.errors import CheckpointError
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from tests.reference.port import load_port
from tests.reference.sizes import port_config

COPIED = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json")


def write_port_layout(upstream: Path, folder: Path) -> None:
    """As ``convert_phi4_multimodal_weights_to_hf.py`` and PEFT would leave it."""
    folder.mkdir()
    for name in COPIED:
        shutil.copyfile(upstream / name, folder / name)
    config = port_config(json.loads((upstream / "config.json").read_text())).to_dict()
    (folder / "config.json").write_text(json.dumps(config, default=str))
    state = {k: v.bfloat16().contiguous() for k, v in load_port(upstream).state_dict().items()}
    base = {k.replace(".base_layer", ""): v for k, v in state.items() if ".lora_" not in k and k != "lm_head.weight"}
    save_file(base, folder / "model.safetensors")
    source = json.loads((upstream / "config.json").read_text())
    for adapter in ("vision", "speech"):
        beside = folder / f"{adapter}-lora"
        beside.mkdir()
        lora = {
            f"base_model.model.{k.replace(f'.{adapter}.weight', '.weight')}": v
            for k, v in state.items()
            if ".lora_" in k and f".{adapter}." in k
        }
        save_file(lora, beside / "adapter_model.safetensors")
        sizes = source[f"{adapter}_lora"]
        settings = {"peft_type": "LORA", "r": sizes["r"], "lora_alpha": sizes["lora_alpha"]}
        (beside / "adapter_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def port(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("port") / "port"
    write_port_layout(reference_checkpoint, folder)
    return folder


def test_weights_are_byte_identical(port: Path, int4_bundle: Path, tmp_path: Path) -> None:
    bundle = export_model(port, tmp_path / "bundle")
    for part in ("decoder", "vision", "audio"):
        same = (bundle / f"weights/{part}.bin").read_bytes() == (int4_bundle / f"weights/{part}.bin").read_bytes()
        assert same, part
    ours, theirs = (json.loads((b / "bundle.json").read_text()) for b in (bundle, int4_bundle))
    for key in ("processor", "decoder", "routes", "vision", "audio", "parts"):
        assert ours[key] == theirs[key], key


def test_a_missing_adapter_folder_is_named(port: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(port, tmp_path / "checkpoint"))
    shutil.rmtree(copy / "speech-lora")
    with pytest.raises(
        CheckpointError, match=r"has no speech adapter, neither in its tensors nor in a folder 'speech-lora'"
    ):
        export_model(copy, tmp_path / "bundle", Recipe(bits=32))


def test_dora_is_refused(port: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(port, tmp_path / "checkpoint"))
    path = copy / "vision-lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(CheckpointError, match="use_dora is True, expected a plain LoRA"):
        export_model(copy, tmp_path / "bundle", Recipe(bits=32))
