"""Files that are not what their names say: pointers, web pages, quantised weights, invalid safetensors."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from palmtop.errors import CheckpointError
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.checkpoint.safetensors_reader import SafetensorsReader
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from tests.export.test_decoder import SMALL_TOWERS
from tests.export.test_phi3 import write_phi3
from tests.export.test_port_layout import write_port_layout
from tests.reference.port import random_checkpoint

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0123456789abcdef" * 4 + "\nsize 4997504848\n"
PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    sizes = {"num_hidden_layers": 1, "hidden_size": 48, "num_attention_heads": 1, **SMALL_TOWERS}
    random_checkpoint(folder / "phi4mm", 3, **sizes)
    write_port_layout(folder / "phi4mm", folder / "phi4_multimodal")
    write_phi3(folder / "phi3", 1)
    return {name: folder / name for name in ("phi4mm", "phi4_multimodal", "phi3")}


@pytest.fixture
def copy(checkpoints: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(checkpoints[name], tmp_path / "checkpoint"))


def read(folder: Path) -> None:
    read_model(open_checkpoint(folder), Recipe(context=64))


STAND_INS = (
    ("phi4mm", "config.json"),
    ("phi4mm", "model.safetensors.index.json"),
    ("phi4mm", "model-00002-of-00002.safetensors"),
    ("phi4mm", "tokenizer.json"),
    ("phi4mm", "tokenizer_config.json"),
    ("phi4mm", "generation_config.json"),
    ("phi4mm", "preprocessor_config.json"),
    ("phi4_multimodal", "vision-lora/adapter_model.safetensors"),
    ("phi4_multimodal", "speech-lora/adapter_config.json"),
    ("phi3", "model.safetensors"),
)


@pytest.mark.parametrize(("architecture", "file"), STAND_INS)
def test_a_git_lfs_pointer_is_named(architecture: str, file: str, copy: Callable[[str], Path]) -> None:
    folder = copy(architecture)
    (folder / file).write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"is a Git LFS pointer to a file of 4997504848 bytes") as raised:
        read(folder)
    assert str(folder / file) in str(raised.value)
    assert "git lfs pull" in str(raised.value)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_a_web_page_is_named(file: str, copy: Callable[[str], Path]) -> None:
    folder = copy("phi3")
    (folder / file).write_text(PAGE)
    with pytest.raises(CheckpointError, match=f"{file}: is a web page, expected the file itself"):
        read(folder)


@pytest.mark.parametrize(("text", "message"), [(POINTER, "is a Git LFS pointer"), (PAGE, "is a web page")])
def test_a_pointer_in_place_of_a_gguf_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_text(text)
    with pytest.raises(CheckpointError, match=f"model.gguf: {message}"):
        open_checkpoint(tmp_path / "model.gguf")


def test_a_pointer_in_place_of_a_torch_file_is_named(copy: Callable[[str], Path]) -> None:
    from palmtop.export.checkpoint.peft_reader import open_peft

    folder = copy("phi4_multimodal") / "vision-lora"
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin: is a Git LFS pointer"):
        open_peft(folder)


@pytest.mark.parametrize("architecture", ["phi4mm", "phi4_multimodal", "phi3"])
def test_a_byte_order_mark_changes_nothing(
    architecture: str, checkpoints: dict[str, Path], copy: Callable[[str], Path]
) -> None:
    """As some Windows editors write it, in every JSON file."""
    folder = copy(architecture)
    for path in [*folder.rglob("*.json"), *folder.glob("*.jinja")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    bundle = export_model(folder, folder.parent / "bundle", Recipe(context=64))
    plain = export_model(checkpoints[architecture], folder.parent / "plain", Recipe(context=64))
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "genai_config.json"):
        assert (bundle / file).read_bytes() == (plain / file).read_bytes(), file


def entry(shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


def write(path: Path, header: str, size: int) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(size))


A, B = entry([2], 0, 8), entry([3], 8, 20)
INVALID: dict[str, tuple[str, int, str]] = {
    "overlap": (json.dumps({"a": A, "b": entry([3], 4, 16)}), 16, "'b' and 'a' overlap"),
    "one inside another": (json.dumps({"a": entry([5], 0, 20), "b": entry([1], 8, 12)}), 20, "'b' and 'a' overlap"),
    "the same bytes": (json.dumps({"a": A, "b": A}), 8, "'b' and 'a' overlap"),
    "hole": (json.dumps({"a": A, "b": entry([3], 12, 24)}), 24, "'b' and 'a' are 4 bytes apart"),
    "hole at the start": (json.dumps({"b": B}), 20, "'b' and the header are 8 bytes apart"),
    "bytes behind": (json.dumps({"a": A, "b": B}), 24, "4 bytes follow the last tensor, expected none"),
    "name twice": (f'{{"a": {json.dumps(A)}, "a": {json.dumps(B)}}}', 20, "'a' is there twice"),
    "metadata twice": (f'{{"__metadata__": {{}}, "__metadata__": {{}}, "a": {json.dumps(A)}}}', 8, "is there twice"),
    "negative size": (json.dumps({"a": entry([-2, -1], 0, 8)}), 8, "tensor 'a' has 8 bytes"),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_the_safetensors_format_forbids_is_refused(case: str, tmp_path: Path) -> None:
    header, size, message = INVALID[case]
    write(tmp_path / "model.safetensors", header, size)
    with pytest.raises(CheckpointError) as raised:
        SafetensorsReader(tmp_path)
    assert message in str(raised.value)
    if "twice" not in case:  # the library's parser takes the last of two
        with pytest.raises(SafetensorError):
            safe_open(tmp_path / "model.safetensors", "numpy").keys()


def test_what_it_allows_is_read(tmp_path: Path) -> None:
    """Any order, tensors without elements, padding of the header, and types that no weight has."""
    tensors = {
        "z": np.arange(3, dtype=np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "ids": np.arange(5),
        "mask": np.ones(3, np.bool_),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "np"})
    folder = SafetensorsReader(tmp_path)
    assert folder.names == ["empty", "ids", "mask", "z"]
    assert folder.weight("z").array().tolist() == [0, 1, 2]
    with pytest.raises(
        CheckpointError, match=r"tensor 'ids' has type int64, expected one of F64, F32, F16, BF16: palm"
    ):
        folder.weight("ids")


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits"),
    "older bitsandbytes": ({"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes, 8 bits"),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ, 4 bits"),
    "awq": ({"quant_method": "awq", "w_bit": 4}, "AWQ, 4 bits"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8"),
    "compressed-tensors": ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
    "hqq": ({"quant_method": "hqq"}, "HQQ"),
    "a new one": ({"quant_method": "tomorrow"}, "tomorrow"),
}


@pytest.mark.parametrize("architecture", ["phi4mm", "phi4_multimodal", "phi3"])
@pytest.mark.parametrize("case", CONFIGS)
def test_a_quantised_checkpoint_is_named_by_every_architecture(
    case: str, architecture: str, copy: Callable[[str], Path]
) -> None:
    settings, name = CONFIGS[case]
    folder = copy(architecture)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    with pytest.raises(CheckpointError, match=rf"says that the checkpoint is quantised \({name}\), expected float"):
        read(folder)


@pytest.mark.parametrize(
    ("file", "message"), [("quantize_config.json", r"quantised \(GPTQ\)"), ("hf_quant_config.json", r"\(ModelOpt\)")]
)
def test_a_quantiser_s_file_beside_the_config_is_named(file: str, message: str, copy: Callable[[str], Path]) -> None:
    folder = copy("phi3")
    (folder / file).write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        read(folder)


def test_mlx_s_key_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("phi3")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization": {"group_size": 64, "bits": 4}}))
    with pytest.raises(CheckpointError, match=r"quantization says that the checkpoint is quantised \(MLX, 4 bits\)"):
        read(folder)


@pytest.mark.parametrize(
    ("end", "dtype", "message"),
    [
        ("weight.absmax", np.uint8, r"\(bitsandbytes\)"),
        ("weight.quant_state.bitsandbytes__nf4", np.uint8, r"\(bitsandbytes\)"),
        ("qweight", np.int32, r"\(GPTQ or AWQ\)"),
        ("weight_packed", np.int32, r"\(compressed-tensors\)"),
        ("W_q", np.uint8, r"\(HQQ\)"),
        ("weight_scale_inv", np.float32, r"\(FP8\)"),
        ("scales", np.float16, r"\(MLX\)"),
    ],
)
def test_quantised_tensors_are_named_where_the_config_says_nothing(
    end: str, dtype: type, message: str, copy: Callable[[str], Path]
) -> None:
    folder = copy("phi3")
    name = f"model.layers.0.mlp.down_proj.{end}"
    save_file({name: np.ones(4, dtype)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"tensor '{name}' is one of a quantised checkpoint {message}"):
        read(folder)


def test_weights_of_eight_bits_are_no_floats(copy: Callable[[str], Path]) -> None:
    folder = copy("phi3")
    header = json.dumps({"model.embed_tokens.weight": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [0, 4]}})
    write(folder / "model.safetensors", header, 4)
    with pytest.raises(CheckpointError, match="has type float8_e4m3fn, expected one of F64, F32, F16, BF16"):
        open_checkpoint(folder).weight("model.embed_tokens.weight")
