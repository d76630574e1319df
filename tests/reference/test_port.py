from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402

from palmtop.runtime.reference import checkpoint_path  # noqa: E402
from tests.reference.pixels import tile  # noqa: E402
from tests.reference.port import (  # noqa: E402
    load_port,
    random_checkpoint,
    to_port_key,
    to_upstream_key,
    upstream_state,
)

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 40,
    "tie_word_embeddings": False,
    "vision_hidden_size": 24,
    "vision_heads": 2,
    "audio_hidden_size": 24,
    "audio_heads": 2,
    "audio_blocks": 1,
    "vision_rank": 3,
    "speech_rank": 20,
}


def test_a_random_checkpoint_loads_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    random_checkpoint(tmp_path, seed=1, shards=3, **SMALL)
    stored: dict[str, torch.Tensor] = {}
    for shard in sorted(tmp_path.glob("*.safetensors")):
        stored |= load_file(shard)
    again = upstream_state(load_port(tmp_path))
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[key], stored[key]) for key in stored)
    assert "lm_head.weight" in stored


def test_names_map_both_ways() -> None:
    index = json.loads((checkpoint_path() / "model.safetensors.index.json").read_text(encoding="utf-8"))
    names = list(index["weight_map"])
    ports = [to_port_key(name) for name in names]
    assert len(set(ports)) == len(names)
    assert [to_upstream_key(name) for name in ports] == names
    assert "model.embed_tokens_extend.audio_embed.audio_projection.vision.0.weight" in names


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    random_checkpoint(tmp_path, seed=1, shards=1, **SMALL)
    shard = next(tmp_path.glob("*.safetensors"))
    tensors = load_file(shard)
    del tensors["model.layers.1.mlp.down_proj.lora_B.speech.weight"]
    save_file(tensors, shard)
    with pytest.raises(ValueError, match=r"missing tensors \['model.layers.1.mlp.down_proj.lora_B.speech.weight'\]"):
        load_port(tmp_path)


def test_the_packaged_checkpoint_has_the_ranks_its_config_states() -> None:
    model = load_port(checkpoint_path())
    layer = model.model.layers[0].mlp.down_proj
    assert (layer.r["vision"], layer.r["speech"]) == (16, 24)
    assert layer.lora_A["vision"].weight.shape[0] == 16
    assert sum(p.numel() for p in model.parameters()) < 6_000_000


def test_adapters_change_the_logits(tmp_path: Path) -> None:
    random_checkpoint(tmp_path, seed=2, shards=1, **SMALL)
    model = load_port(tmp_path)
    ids = torch.arange(9)[None]
    logits = {}
    with torch.no_grad():
        for name in ("vision", "speech"):
            model.set_adapter(name)
            logits[name] = model(input_ids=ids).logits
        model.disable_adapters()
        logits["none"] = model(input_ids=ids).logits
    assert (logits["vision"] - logits["none"]).abs().max() > 0.1
    assert (logits["speech"] - logits["none"]).abs().max() > 0.1
    assert (logits["speech"] - logits["vision"]).abs().max() > 0.1


def test_a_picture_narrower_than_its_tiles_is_padded_and_masked() -> None:
    tiles = tile(np.zeros((1, 60, 100, 3), np.uint8), crop=56, patch=14)
    assert tiles.grid == (2, 2)  # 112 x 112, of which 112 x 67 is picture
    assert tiles.mask[0, 1:].sum() == 8 * 5
    assert tiles.useful == (3, 4)
    assert tiles.rows == 3 * 5 + 1 + 2 * 3
    assert tiles.pixel_values[0, -1, :, -1].min() == 1.0  # white
