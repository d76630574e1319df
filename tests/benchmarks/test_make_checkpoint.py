"""The full-size checkpoints' shape, on dimensions that fit into a test; transformers is the judge of the layout."""

from __future__ import annotations

import collections
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

import palmtop
from benchmarks.full_size import Dimensions, config, tensors
from benchmarks.full_size_tokenizer import special_ids
from benchmarks.make_checkpoint import BLOCK, RandomValues, main, make_checkpoint, size_bytes, split
from palmtop.errors import InputError
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.convert import export_model
from tests.reference.port import load_port

TINY = Dimensions(
    vocab_size=416,
    hidden=64,
    intermediate=96,
    layers=2,
    heads=4,
    kv_heads=2,
    vision_rank=4,
    speech_rank=8,
    vision_hidden=48,
    vision_intermediate=72,
    vision_layers=3,
    vision_heads=3,
    crop=28,
    patch=7,
    audio_hidden=32,
    audio_intermediate=48,
    audio_blocks=2,
    audio_heads=4,
    conv_channels=16,
    bias_distance=20,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "tiny"
    make_checkpoint(path, TINY, seed=3, shard_bytes=100_000)
    return path


def test_every_tensor_of_the_reference_is_there_and_no_other(checkpoint: Path) -> None:
    load_port(checkpoint)  # refuses missing, unexpected and misshapen tensors
    assert len(list(checkpoint.glob("*.safetensors"))) > 2


def test_the_bundle_made_of_it_answers(checkpoint: Path, tmp_path: Path) -> None:
    export_model(checkpoint, tmp_path / "bundle")
    with palmtop.load(tmp_path / "bundle", context=64) as session:
        pieces = list(session.chat([{"role": "user", "content": "hello"}], max_tokens=3))
    assert pieces[-1].reply is not None and pieces[-1].reply.token_ids


def test_transformers_loads_the_text_model(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "text", replace(TINY, text_only=True))
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "text", output_loading_info=True)
    assert type(model).__name__ == "Phi3ForCausalLM"
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "text")
    ids = tokenizer("<|user|>an apple<|end|>").input_ids
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|user|>") and tokenizer.decode(ids) == "<|user|>an apple<|end|>"


def test_the_dimensions_are_upstreams() -> None:
    count = {only: sum(size_bytes(p) for p in tensors(Dimensions(text_only=only))) // 2 for only in (True, False)}
    assert count == {True: 3_836_021_760, False: 5_574_460_384}  # "3.8 B" and "5.6 B"
    shapes = {p.name: p.shape for p in tensors(Dimensions())}
    assert shapes["model.layers.31.self_attn.qkv_proj.base_layer.weight"] == (5120, 3072)
    assert shapes["model.layers.0.mlp.down_proj.lora_A.speech.weight"] == (320, 8192)
    assert shapes["model.embed_tokens_extend.image_embed.img_processor.embeddings.position_embedding.weight"] == (
        1024,
        1152,
    )
    described = config(Dimensions(), special_ids(200064))
    assert "vision_config" not in described["embd_layer"]["image_embd_layer"]  # as upstream: the reader knows the sizes
    assert len(described["rope_scaling"]["long_factor"]) == 48
    assert (described["vision_lora"]["r"], described["vision_lora"]["lora_alpha"]) == (256, 512)
    assert (described["speech_lora"]["r"], described["speech_lora"]["lora_alpha"]) == (320, 640)


def test_special_tokens_have_upstreams_ids() -> None:
    ids = special_ids(200064)
    assert (ids["<|endoftext|>"], ids["<|endoftext10|>"], ids["<|endoftext11|>"]) == (199999, 200010, 200011)
    assert (ids["<|assistant|>"], ids["<|end|>"], ids["<|user|>"], ids["<|system|>"]) == (
        200019,
        200020,
        200021,
        200022,
    )


def test_values_depend_on_the_seed_alone(checkpoint: Path, tmp_path: Path) -> None:
    hashes = []
    for seed in (3, 4):
        make_checkpoint(tmp_path / str(seed), TINY, seed=seed)  # other shards
        hashes.append(Checkpoint(tmp_path / str(seed)).sha256())
    assert hashes[0] == Checkpoint(checkpoint).sha256() != hashes[1]


def test_values_have_their_scale_and_rows_differ(checkpoint: Path) -> None:
    read = Checkpoint(checkpoint)
    for plan in tensors(TINY):
        values = read.weight(plan.name).rows(0, plan.shape[0]).astype(np.float64)
        error = 5 * plan.std / np.sqrt(values.size)
        assert abs(values.mean() - plan.mean) < error + 0.01 * abs(plan.mean), plan.name  # bfloat16's steps at 15
        if values.size > 200:
            assert 0.8 < values.std() / plan.std < 1.2, plan.name
    table = read.weight("model.embed_tokens.weight").rows(0, TINY.vocab_size)
    assert len(np.unique(table, axis=0)) == TINY.vocab_size


def test_blocks_of_a_big_tensor_are_not_copies() -> None:
    plan = next(tensors(replace(TINY, vocab_size=2 * BLOCK // TINY.hidden + 1)))
    blocks = list(RandomValues(0).blocks(plan))
    assert [len(block) for block in blocks] == [BLOCK, BLOCK, TINY.hidden]
    assert np.mean(blocks[0] == blocks[1]) < 0.05


def test_shards_hold_what_fits_and_at_least_one_tensor() -> None:
    plans = list(tensors(TINY))
    shards = split(plans, 10_000)
    assert [p for shard in shards for p in shard] == plans
    assert all(len(shard) == 1 or sum(map(size_bytes, shard)) <= 10_000 for shard in shards)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["-o", str(tmp_path), "--layers", "1"])
    assert result.exit_code == 2
    assert "already exists" in result.output


def test_too_small_a_disk_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**9, 10**9))
    with pytest.raises(InputError, match=r"1\.0 GB of disk are free, the checkpoint needs 11\.2 GB"):
        make_checkpoint(tmp_path / "full", Dimensions())
    assert not list(tmp_path.iterdir())
