"""What users get wrong: every mistake is one sentence, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from palmtop.errors import CheckpointError, InputError, PalmtopError, UnsupportedModelError
from palmtop.export.arch import names
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.cli import export_command
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from tests.export.test_decoder import SMALL_TOWERS
from tests.reference.port import random_checkpoint


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "checkpoint"
    random_checkpoint(folder, 3, num_hidden_layers=1, hidden_size=48, num_attention_heads=1, **SMALL_TOWERS)
    return folder


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "checkpoint"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        if value is None:
            del config[key]
        else:
            config[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def replace_tensor(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Rewrite all tensors into one float32 file, with one of them changed."""
    checkpoint = Checkpoint(folder)
    tensors = {n: checkpoint.weight(n).array() for n in checkpoint.names}
    tensors[name] = np.ascontiguousarray(change(tensors[name]), np.float32)
    for path in (*shards(folder), folder / "model.safetensors.index.json"):
        path.unlink()
    save_file(tensors, folder / "model.safetensors")


def edit_nested(folder: Path, path: tuple[str, ...], value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


def drop_tensors(folder: Path, part: str) -> None:
    """Rewrite all tensors but those whose name contains ``part``."""
    checkpoint = Checkpoint(folder)
    tensors = {n: checkpoint.weight(n).array() for n in checkpoint.names if part not in n}
    for path in (*shards(folder), folder / "model.safetensors.index.json"):
        path.unlink()
    save_file(tensors, folder / "model.safetensors")


DOWN = "model.layers.0.mlp.down_proj.base_layer.weight"
LORA = "model.layers.0.self_attn.o_proj.lora_A.speech.weight"


def replace_by_unreadable(path: Path) -> None:
    """A file whose reading fails for root too: nothing is mapped at address 0 of a process."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


def write_header(path: Path, header: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def with_nan(array: Any) -> Any:
    array = array.copy()
    array[1, 1] = np.nan
    return array


BREAKAGES: dict[str, tuple[Callable[[Path], object], type[PalmtopError], str]] = {
    "missing shard": (
        lambda f: shards(f)[0].unlink(),
        CheckpointError,
        "shard 'model-00001-of-00002.safetensors' is missing",
    ),
    "truncated shard": (
        lambda f: shards(f)[1].write_bytes(shards(f)[1].read_bytes()[:-100]),
        CheckpointError,
        "is truncated: tensor '",
    ),
    "truncated header": (
        lambda f: shards(f)[1].write_bytes(shards(f)[1].read_bytes()[:50]),
        CheckpointError,
        "truncated or not safetensors",
    ),
    "not safetensors": (
        lambda f: shards(f)[1].write_bytes(b"PK\x03\x04" * 100),
        CheckpointError,
        "truncated or not safetensors",
    ),
    "huge header": (
        lambda f: shards(f)[1].write_bytes(struct.pack("<Q", 1 << 60) + b"{}"),
        CheckpointError,
        "truncated or not safetensors",
    ),
    "header is no json": (
        lambda f: shards(f)[1].write_bytes(struct.pack("<Q", 4) + b"oops" * 4),
        CheckpointError,
        "header is not valid",
    ),
    "unknown model": (
        lambda f: edit_config(f, model_type="bert"),
        UnsupportedModelError,
        f"model_type is 'bert', expected one of {', '.join(names())}",
    ),
    "near model_type": (
        lambda f: edit_config(f, model_type="phi3small"),
        UnsupportedModelError,
        "the nearest is 'phi3'",
    ),
    "no model_type": (
        lambda f: edit_config(f, model_type=None, architectures=None),
        UnsupportedModelError,
        "model_type is 'None'",
    ),
    "model_type is a path": (lambda f: edit_config(f, model_type="../cli"), UnsupportedModelError, "expected one of"),
    "no config": (lambda f: (f / "config.json").unlink(), CheckpointError, "'config.json' is missing"),
    "config is no json": (lambda f: (f / "config.json").write_text("{"), CheckpointError, "is not valid JSON"),
    "config is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        CheckpointError,
        "is an empty list, expected an object",
    ),
    "config cannot be read": (
        lambda f: replace_by_unreadable(f / "config.json"),
        CheckpointError,
        "config.json: could not be read (Input/output error)",
    ),
    "config is too deep": (
        lambda f: (f / "config.json").write_text('{"a": ' + "[" * 100_000),
        CheckpointError,
        "config.json: is nested too deeply",
    ),
    "config holds an endless number": (
        lambda f: (f / "config.json").write_text('{"a": ' + "1" * 5000 + "}"),
        CheckpointError,
        "config.json: is not valid JSON",
    ),
    "shard cannot be read": (
        lambda f: replace_by_unreadable(shards(f)[1]),
        CheckpointError,
        "could not be read (Input/output error)",
    ),
    "header is too deep": (
        lambda f: write_header(shards(f)[1], b'{"a": ' + b"[" * 100_000),
        CheckpointError,
        "header is nested too deeply",
    ),
    "offset is infinite": (
        lambda f: write_header(shards(f)[1], b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [Infinity, 4]}}'),
        CheckpointError,
        "header is not valid",
    ),
    "config lacks a key": (lambda f: edit_config(f, hidden_size=None), CheckpointError, "hidden_size is missing"),
    "size is text": (
        lambda f: edit_config(f, num_hidden_layers="4"),
        CheckpointError,
        "num_hidden_layers is '4', expected a positive number",
    ),
    "rope factors too short": (
        lambda f: edit_config(f, rope_scaling={"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
        CheckpointError,
        "short_factor has 1 values, expected",
    ),
    "wrong width": (lambda f: edit_config(f, intermediate_size=100), CheckpointError, "expected [200, 48]"),
    "wrong rank": (
        lambda f: edit_config(f, vision_lora={"r": 5, "lora_alpha": 10}),
        CheckpointError,
        "expected rank 5 as config.json says",
    ),
    "another HD order": (
        lambda f: edit_nested(f, ("embd_layer", "image_embd_layer", "hd_transform_order"), "glb_sub"),
        CheckpointError,
        "embd_layer.image_embd_layer.hd_transform_order is 'glb_sub', expected 'sub_glb'",
    ),
    "biases in the decoder": (
        lambda f: edit_config(f, attention_bias=True),
        CheckpointError,
        "attention_bias is True, expected False",
    ),
    "contradicting rates": (
        lambda f: (f / "preprocessor_config.json").write_text('{"audio_compression_rate": 4}'),
        CheckpointError,
        "audio_compression_rate is 4, config.json says 8",
    ),
    "an adapter tensor is missing": (
        lambda f: drop_tensors(f, "layers.0.mlp.down_proj.lora_"),
        CheckpointError,
        "model.layers.0.mlp.down_proj.lora_A.vision.weight' is missing",
    ),
    "adapter of another width": (
        lambda f: replace_tensor(f, LORA, lambda a: a[:, :-1]),
        CheckpointError,
        f"tensor '{LORA}' is [24, 47], expected 48 columns",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), CheckpointError, "'tokenizer.json' is missing"),
    "NaN in the base": (
        lambda f: replace_tensor(f, DOWN, with_nan),
        CheckpointError,
        f"tensor '{DOWN}' holds a value that is not finite",
    ),
    "NaN in an adapter": (
        lambda f: replace_tensor(f, LORA, with_nan),
        CheckpointError,
        f"tensor '{LORA}' holds a value",
    ),
    "wrong shape": (
        lambda f: replace_tensor(f, DOWN, lambda a: a[:-1]),
        CheckpointError,
        f"tensor '{DOWN}' is [47, 512], expected [48, 512]",
    ),
}


@pytest.mark.parametrize("case", BREAKAGES)
def test_a_broken_checkpoint_is_refused_and_leaves_nothing(case: str, copy: Path, tmp_path: Path) -> None:
    break_it, error, message = BREAKAGES[case]
    break_it(copy)
    target = tmp_path / "bundles" / "bundle"
    target.parent.mkdir()
    with pytest.raises(error) as raised:
        export_model(copy, target, Recipe(context=64))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(target.parent.iterdir()) == []


def test_the_whole_checkpoint_is_fine(copy: Path, tmp_path: Path) -> None:
    """So the refusals above are about what was broken."""
    export_model(copy, tmp_path / "bundle", Recipe(context=64))


def test_a_shard_lost_or_cut_while_hashing_is_one_sentence(copy: Path) -> None:
    checkpoint = Checkpoint(copy)
    shards(copy)[1].write_bytes(b"")
    with pytest.raises(CheckpointError, match="was replaced or changed while it was read"):
        checkpoint.sha256()
    shards(copy)[1].unlink()
    with pytest.raises(CheckpointError, match=r"' could not be read \(No such file"):
        checkpoint.sha256()


def test_a_checkpoint_is_never_replaced_by_its_bundle(copy: Path) -> None:
    before = sorted(copy.iterdir())
    for target in (copy, copy / "bundle", copy.parent):
        with pytest.raises(InputError, match="overlaps the checkpoint"):
            export_model(copy, target, Recipe(context=64), overwrite=True)
    assert sorted(copy.iterdir()) == before


def test_the_command_line_says_what_was_measured(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quality = {
        "checks": [{"name": name, "passed": True} for name in ("names", "tensors")],
        "skipped": ["logits: too large"],
    }
    quality |= {"tensors": {"a": {}}, "modes": {}, "adapters": {}, "kv_cache": None}

    def export(source: Path, target: Path, *_: object, **__: object) -> Path:
        export_model(source, target, Recipe(context=64))
        (target / "quality.json").write_text(json.dumps(quality))
        return target

    monkeypatch.setattr("palmtop.export.convert.export_model", export)
    found = CliRunner().invoke(export_command, [str(copy), "-o", str(tmp_path / "bundle")])
    assert found.exit_code == 0, found.output
    assert "Compared with the checkpoint: 2 checks passed; 1 tensors (numbers in quality.json)" in found.stdout
    assert found.stderr == "palmtop: warning: not measured: logits: too large\n"


def test_an_existing_target_is_kept(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="already exists, expected a new folder"):
        export_model(copy, tmp_path / "bundle", Recipe(context=64))
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "precious"


def test_a_failed_replacement_keeps_the_old_bundle(copy: Path, tmp_path: Path) -> None:
    export_model(copy, tmp_path / "bundle", Recipe(context=64))
    before = (tmp_path / "bundle" / "bundle.json").read_bytes()
    shards(copy)[1].write_bytes(b"rubbish")
    with pytest.raises(CheckpointError):
        export_model(copy, tmp_path / "bundle", Recipe(context=64), overwrite=True)
    assert (tmp_path / "bundle" / "bundle.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_full_disk_is_one_sentence(copy: Path, tmp_path: Path) -> None:
    """A limit on file sizes makes writes fail as a full disk does."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        f"sys.argv = ['palmtop', 'export', {str(copy)!r}, '-o', {str(tmp_path / 'bundle')!r}, '--context', '64']\n"
        "from palmtop.__main__ import main\n"
        "main()\n"
    )
    found = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 2, found.stderr
    assert "could not be written (File too large)" in found.stderr
    assert len([line for line in found.stderr.splitlines() if "of memory" not in line]) == 1  # the other is the cost
    assert not (tmp_path / "bundle").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits is 5, expected one of"),
        ({"encoder_bits": 2}, "encoder-bits is 2, expected one of"),
        ({"group": 48}, "group is 48, expected one of"),
        ({"adapters": "vision"}, "adapters is 'vision', expected gated, none or merge"),
        ({"adapters": "merge="}, "adapters merges ''"),
        ({"context": 3}, "context is 3, expected at least 16"),
        ({"accuracy_level": 1}, "accuracy-level is 1, expected 0 or 4"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PalmtopError) as raised:
        Recipe(**options)
    assert message in str(raised.value)


def test_merging_an_adapter_that_is_not_there_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="merges 'smell', expected one of vision, speech"):
        export_model(copy, tmp_path / "bundle", Recipe(adapters="merge=smell", context=64))


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "palmtop",
        "export",
        str(tmp_path / "nowhere"),
        "-o",
        str(tmp_path / "b"),
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.strip().splitlines() == [
        f"palmtop: {tmp_path / 'nowhere'}: no such folder, expected a checkpoint with config.json"
    ]
