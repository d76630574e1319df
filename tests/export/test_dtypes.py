"""float32, float16 and bfloat16 checkpoints, in one file or in shards, are read for what they hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe

RECIPE = Recipe(method="rtn", context=64)


def rewritten(source: Path, folder: Path, dtype: torch.dtype, shards: int) -> Path:
    """The same checkpoint in another type, with so many files."""
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors" and path.name != "model.safetensors.index.json":
            shutil.copyfile(path, folder / path.name)
    state = {}
    for shard in sorted(source.glob("*.safetensors")):
        state |= {name: tensor.to(dtype) for name, tensor in load_file(shard).items()}
    names = sorted(state)
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return folder
    where = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({n: state[n] for n in names if where[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def weights(bundle: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((bundle / "weights").iterdir())}


@pytest.mark.parametrize(("dtype", "shards"), [(torch.float32, 1), (torch.float32, 3), (torch.bfloat16, 1)])
def test_wider_types_and_other_shards_give_the_same_bytes(
    reference_checkpoint: Path, tmp_path: Path, dtype: torch.dtype, shards: int
) -> None:
    other = rewritten(reference_checkpoint, tmp_path / "other", dtype, shards)
    export_model(reference_checkpoint, tmp_path / "a", RECIPE)
    export_model(other, tmp_path / "b", RECIPE)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_float16_is_read_exactly(reference_checkpoint: Path, tmp_path: Path) -> None:
    other = rewritten(reference_checkpoint, tmp_path / "other", torch.float16, 2)
    checkpoint = Checkpoint(other)
    state = {}
    for shard in other.glob("*.safetensors"):
        state |= load_file(shard)
    for name in checkpoint.names:
        np.testing.assert_array_equal(checkpoint.weight(name).array(), state[name].float().numpy(), err_msg=name)
    export_model(other, tmp_path / "bundle", RECIPE)
