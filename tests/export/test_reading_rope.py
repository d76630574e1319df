"""Every way of writing rotary settings, against transformers' own tables; contradictions and unread settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, Phi3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.convert import export_model
from palmtop.export.graph.rope import RopeConfig, wavelengths
from palmtop.export.reading.rope import READ_BY, RopeRules, read_rope
from palmtop.export.recipe import Recipe
from tests.export.test_phi3 import compare, edit_config, in_words_of_transformers_4, longrope, write_phi3

HEAD = 16
ANY = RopeRules(kinds={**{kind: kind for kind in READ_BY}, "su": "longrope"})
SIZES = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 512}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 128},
    "yarn with scales": {
        "factor": 16.0,
        "original_max_position_embeddings": 32,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "beta_fast": 8.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "yarn with a factor": {"factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 1.25},
    "longrope": {
        "short_factor": [1.0 + 0.1 * i for i in range(8)],
        "long_factor": [2.0 + i for i in range(8)],
        "original_max_position_embeddings": 128,
    },
}


def read(config: dict[str, Any], rules: RopeRules = ANY) -> RopeConfig:
    return read_rope(ConfigSection({**SIZES, **config}, "config.json"), HEAD, rules)


def written(scaling: dict[str, Any], place: str, word: str = "rope_type", theta: float = 5000.0) -> dict[str, Any]:
    """The same settings at one of the places where files have them."""
    if place == "rope_scaling":
        original = {k: v for k, v in scaling.items() if k == "original_max_position_embeddings"}
        inner = {k: v for k, v in scaling.items() if k not in original}
        inner = {word: inner.pop("rope_type"), **inner}
        return {"rope_theta": theta, **original, "rope_scaling": None if inner[word] == "default" else inner}
    flat = {**{word if k == "rope_type" else k: v for k, v in scaling.items()}, "rope_theta": theta}
    if place == "rope_parameters":
        return {"rope_parameters": flat}
    return {
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {"full_attention": flat, "sliding_attention": dict(flat)},
    }


@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters", "by type of layer"])
@pytest.mark.parametrize("word", ["type", "rope_type"])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_are_those_of_transformers(name: str, word: str, place: str) -> None:
    kind = name.split(" ")[0]
    config = LlamaConfig(**SIZES, rope_parameters={"rope_type": kind, "rope_theta": 5000.0, **SCALINGS[name]})
    reference = LlamaRotaryEmbedding(config)
    found = read(written({"rope_type": kind, **SCALINGS[name]}, place, word))
    frequencies = 1 / wavelengths(found, found.short_factor)
    np.testing.assert_allclose(frequencies, reference.inv_freq.numpy(), rtol=2e-6)
    assert found.attention_factor == pytest.approx(reference.attention_scaling, rel=1e-12)
    assert (found.long_factor is None) == (kind != "longrope")
    if kind == "longrope":
        reference(torch.zeros(1), torch.tensor([[200]]))
        np.testing.assert_allclose(1 / wavelengths(found, found.long_factor), reference.inv_freq.numpy(), rtol=2e-6)
        assert found.original_context == 128


def test_the_scalings_differ() -> None:
    """So that no comparison above is of equal things."""
    found = {
        name: read(written({"rope_type": name.split(" ")[0], **s}, "rope_parameters")) for name, s in SCALINGS.items()
    }
    found.pop("dynamic")  # as default up to max_position_embeddings
    assert len({(r.short_factor, r.attention_factor) for r in found.values()}) == len(found)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "theta": (
        {"rope_theta": 10000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        "rope_theta is 10000.0 and rope_parameters.rope_theta is 500.0, expected the same twice",
    ),
    "partial rotation": (
        {"partial_rotary_factor": 0.5, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}},
        "partial_rotary_factor is 0.5 and rope_parameters.partial_rotary_factor is 1.0",
    ),
    "original length": (
        {"original_max_position_embeddings": 64, "rope_parameters": {"rope_type": "longrope", **SCALINGS["longrope"]}},
        "original_max_position_embeddings is 64 and rope_parameters.original_max_position_embeddings is 128",
    ),
    "two spellings": ({"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}}, "is 'dynamic'"),
    "two objects": (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
        "rope_scaling.factor is 2.0 and rope_parameters.factor is 4.0",
    ),
    "types of layers": (
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
        "rope_parameters.full_attention.rope_theta is 1000000.0 and rope_parameters.sliding_attention.rope_theta",
    ),
    "unread by its kind": (
        {"rope_scaling": {"type": "linear", "factor": 2.0, "low_freq_factor": 1.0}},
        "rope_scaling.low_freq_factor is 1.0, expected none: rotary embeddings of type 'linear' do not read it",
    ),
    "no kind": ({"rope_scaling": {"factor": 2.0}}, "rope_scaling.factor is 2.0, expected none"),
    "unknown setting": (
        {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
        r"rope_parameters.mrope_section is \[2, 3, 3\], expected none",
    ),
    "unknown kind": ({"rope_scaling": {"type": "spiral"}}, "rope_scaling.type is 'spiral', expected 'default' or 'lin"),
    "kind is a list": ({"rope_scaling": {"type": ["linear"]}}, r"rope_scaling.type is \['linear'\], expected"),
    "no object": ({"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object"),
    "missing factor": ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
    "negative factor": (
        {"rope_scaling": {"type": "linear", "factor": -1}},
        "factor is -1.0, expected a positive number",
    ),
    "a length of one": (
        {
            "original_max_position_embeddings": 1,
            "rope_scaling": {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
        },
        "original_max_position_embeddings is 1, expected at least 2",
    ),
    "a number beyond floats": ({"rope_theta": 10**400}, "rope_theta is 1000.*, expected a number"),
    "a theta of one": ({"rope_theta": 1.0}, "rope_theta is 1.0, expected more than 1"),
    "an infinite divisor": (
        {"rope_scaling": {"type": "su", "short_factor": [float("inf")] * 8, "long_factor": [2.0] * 8}},
        "short_factor has 8 values, expected 8 positive numbers",
    ),
    "mscale": (
        {"rope_scaling": {"type": "longrope", **SCALINGS["longrope"], "short_mscale": 1.2}},
        "rope_scaling.short_mscale is 1.2, expected none",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_contradiction_or_an_unread_setting_is_refused(case: str) -> None:
    config, message = CONTRADICTIONS[case]
    with pytest.raises(CheckpointError, match=message) as raised:
        read(config)
    assert "\n" not in str(raised.value)


def test_settings_that_agree_may_be_said_twice() -> None:
    config = {"rope_theta": 500, "rope_scaling": {"type": "su", **SCALINGS["longrope"]}, "rope_parameters": None}
    twice = {**config, "rope_parameters": {"rope_type": "longrope", "rope_theta": 500.0, **SCALINGS["longrope"]}}
    assert read(twice) == read(config)


def test_equal_mscales_stand_for_the_attention_factor_where_the_architecture_reads_them() -> None:
    rules = RopeRules(kinds=ANY.kinds, has_mscale=True)
    scaling = {"type": "longrope", **SCALINGS["longrope"], "short_mscale": 1.25, "long_mscale": 1.25}
    assert read({"rope_scaling": scaling}, rules).attention_factor == 1.25
    with pytest.raises(CheckpointError, match="expected the same number twice"):
        read({"rope_scaling": {**scaling, "long_mscale": 1.5}}, rules)


@pytest.mark.parametrize("nested", ["rope_parameters", "rope_scaling", "both"])
def test_phi3_reads_its_settings_from_any_place(nested: str, tmp_path: Path) -> None:
    """The reference is the same model, told in the words of transformers 4."""
    write_phi3(tmp_path / "checkpoint", 5, original_max_position_embeddings=12, rope_parameters=longrope(7))

    def move(config: dict[str, Any]) -> None:
        in_words_of_transformers_4(config)
        scaling = config.pop("rope_scaling")
        rope = {**scaling, **{k: config.pop(k) for k in ("rope_theta", "original_max_position_embeddings")}}
        if nested != "rope_scaling":
            config["rope_parameters"] = {"rope_type": rope["type"], **rope}
        if nested != "rope_parameters":
            config["rope_scaling"] = rope

    model = Phi3ForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    edit_config(tmp_path / "checkpoint", move)
    ids = np.random.default_rng(1).integers(0, 480, 21)
    assert compare(tmp_path, model, ids, 16) < 1e-4


@pytest.mark.parametrize("layout", ["transformers 5", "transformers 4"])
def test_phi4mm_gives_the_same_bundle_from_any_place(
    layout: str, reference_checkpoint: Path, int4_bundle: Path, tmp_path: Path
) -> None:
    """With the settings read from nowhere, 385 became 93."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in reference_checkpoint.iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_scaling")
    for key in ("rope_theta", "original_max_position_embeddings", "partial_rotary_factor"):
        rope[key] = config.pop(key)
    config["rope_parameters" if layout == "transformers 5" else "rope_scaling"] = rope
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    bundle = export_model(folder, tmp_path / "bundle", Recipe())
    for file in ("decoder.onnx", "weights/decoder.bin"):
        assert (bundle / file).read_bytes() == (int4_bundle / file).read_bytes(), file
