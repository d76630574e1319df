"""Every tensor of a checkpoint is read, of no use, or refused by name; and what a fine-tune dropped is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from palmtop.errors import CheckpointError
from palmtop.export.arch import Model, read_model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.export.verify import verify
from palmtop.runtime.bundle.opening import open_bundle
from tests.export.test_bad_checkpoints import edit_config, edit_nested
from tests.export.test_decoder import SMALL_TOWERS
from tests.export.test_llama import write_llama
from tests.export.test_phi3 import write_phi3
from tests.export.test_port_layout import write_port_layout
from tests.reference.port import random_checkpoint

Tensors = dict[str, NDArray[np.float32]]
SMALL = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 1, **SMALL_TOWERS}
EMBED = "model.embed_tokens_extend."


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small one of each architecture."""
    folder = tmp_path_factory.mktemp("checkpoints")
    random_checkpoint(folder / "phi4mm", 3, **SMALL)
    write_port_layout(folder / "phi4mm", folder / "phi4_multimodal")
    write_phi3(folder / "phi3", 1)
    write_llama(folder / "llama", 1, attention_bias=True, mlp_bias=True)
    return {name: folder / name for name in ("phi4mm", "phi4_multimodal", "phi3", "llama")}


@pytest.fixture
def copy(checkpoints: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy whose tensors went through a function."""

    def make(architecture: str, change: Callable[[Tensors], object] = lambda _: None) -> Path:
        source, folder = checkpoints[architecture], tmp_path / "checkpoint"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model*"))
        checkpoint = Checkpoint(source)
        tensors = {name: checkpoint.weight(name).array() for name in checkpoint.names}
        change(tensors)
        save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / "model.safetensors")
        return folder

    return make


def read(folder: Path) -> Model:
    return read_model(open_checkpoint(folder), Recipe(context=64))


@pytest.mark.parametrize("architecture", ["phi4mm", "phi4_multimodal", "phi3", "llama"])
def test_an_export_reads_every_tensor_that_is_not_known_to_be_of_no_use(
    architecture: str, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule's lists of names against what the graphs ask for."""
    asked: set[str] = set()
    weight = Checkpoint.weight
    read_first = read(checkpoints[architecture])  # the rule itself asks for all of them: only afterwards is counted

    def counted(self: Checkpoint, name: str) -> Any:
        asked.add(name)
        return weight(self, name)

    monkeypatch.setattr("palmtop.export.convert.read_model", lambda *_: read_first)
    monkeypatch.setattr(Checkpoint, "weight", counted)
    export_model(checkpoints[architecture], tmp_path / "bundle", Recipe(bits=32, context=64))
    unread = set(Checkpoint(checkpoints[architecture]).names) - asked
    unread = {n for n in unread if ".lora_" not in n}  # asked for when the model was read
    tower = f"{EMBED}image_embed.img_processor."
    last = f"{tower}encoder.layers.{SMALL['vision_layers'] - 1}."
    assert {n for n in unread if not n.startswith((last, f"{tower}post_layernorm.", f"{tower}head."))} == set()
    assert bool(unread) == architecture.startswith("phi4")


def add(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda t: t.update({name: np.ones(shape, np.float32)})


def again(old: str, new: str) -> Callable[[Tensors], object]:
    return lambda t: t.update({name.replace(old, new): t[name] for name in list(t) if old in name})


LAYER = "model.layers.0."
OTHER: dict[str, tuple[str, Callable[[Tensors], object], str]] = {
    "a third adapter": ("phi4mm", again(".vision.weight", ".custom.weight"), "lora_A.custom.weight' has no place"),
    "a bias": (
        "phi4mm",
        add(f"{LAYER}self_attn.qkv_proj.base_layer.bias", 48),
        "qkv_proj.base_layer.bias' has no place",
    ),
    "a bias of the port": ("phi4_multimodal", add(f"{LAYER}mlp.down_proj.bias", 48), "down_proj.bias' has no place"),
    "a bias of phi3": ("phi3", add(f"{LAYER}self_attn.o_proj.bias", 56), "o_proj.bias' has no place in a phi3 model"),
    "a bias of the head": ("phi4mm", add("lm_head.bias", 512), "'lm_head.bias' has no place"),
    "a layer of the decoder": (
        "phi4mm",
        again("model.layers.1.", "model.layers.2."),
        "'model.layers.2.input_layernorm.weight'",
    ),
    "a layer of the vision encoder": (
        "phi4mm",
        again("image_embed.img_processor.encoder.layers.1.", "image_embed.img_processor.encoder.layers.9."),
        "img_processor.encoder.layers.9.",
    ),
    "a block of the audio encoder": ("phi4_multimodal", again("encoders.0.", "encoders.7."), "encoder.encoders.7."),
    "a norm of the queries": ("phi3", add(f"{LAYER}self_attn.q_norm.weight", 14), "q_norm.weight' has no place"),
    "a linear twice": ("phi4mm", again("o_proj.base_layer.", "o_proj."), "self_attn.o_proj.weight' has no place"),
    "a LoRA inside the port": (
        "phi4_multimodal",
        add(f"{LAYER}mlp.down_proj.lora_A.vision.weight", 4, 4),
        "lora_A.vision.weight' has no place",
    ),
    "a classifier": ("phi3", add("score.weight", 2, 56), "'score.weight' has no place"),
}


@pytest.mark.parametrize("case", OTHER)
def test_a_tensor_that_nothing_reads_is_refused(case: str, copy: Callable[..., Path]) -> None:
    architecture, change, message = OTHER[case]
    with pytest.raises(CheckpointError) as raised:
        read(copy(architecture, change))
    assert message in str(raised.value)
    assert "expected none beside the model's own" in str(raised.value)


@pytest.mark.parametrize("part", ["rotary_emb.inv_freq", "self_attn.rotary_emb.cos_cached"])
def test_a_buffer_that_follows_from_the_config_is_of_no_use(part: str, copy: Callable[..., Path]) -> None:
    read(copy("phi4mm", add(f"{LAYER}{part}", 8)))


def test_buffers_of_whole_numbers_are_of_no_use(copy: Callable[..., Path]) -> None:
    name = f"{EMBED}image_embed.img_processor.embeddings.position_ids"
    folder = copy("phi4mm", lambda t: t.update({name: np.arange(16, dtype=np.int64)}))
    export_model(folder, folder.parent / "bundle", Recipe(context=64))


@pytest.mark.parametrize("architecture", ["phi4mm", "phi4_multimodal"])
def test_a_trained_head_beside_a_tied_embedding_is_the_head(architecture: str, copy: Callable[..., Path]) -> None:
    table = "model.embed_tokens.weight"
    folder = copy(architecture, lambda t: t.update({"lm_head.weight": -t[table]}))
    notes: list[str] = []
    bundle = open_bundle(
        export_model(folder, folder.parent / "bundle", Recipe(bits=32, context=64), on_note=notes.append)
    )
    assert "tie_word_embeddings is true, but lm_head.weight is not" in notes[0]
    assert verify(bundle, open_checkpoint(folder), items=1).passed
    assert not read(folder).decoder.is_tied
    same = copy_of(folder, lambda t: t.update({"lm_head.weight": t[table].copy()}))
    assert read(same).decoder.is_tied
    assert read(same).notes == ()


def copy_of(folder: Path, change: Callable[[Tensors], object]) -> Path:
    checkpoint = Checkpoint(folder)
    tensors = {name: checkpoint.weight(name).array() for name in checkpoint.names}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def without(*parts: str) -> Callable[[Tensors], object]:
    return lambda t: [t.pop(name) for name in list(t) if any(part in name for part in parts)]


DROPPED: dict[str, tuple[tuple[str, ...], set[str], list[str]]] = {
    "vision": (("image_embed", ".vision.weight"), {"text", "audio"}, ["takes no images"]),
    "audio": (("audio_embed", ".speech.weight"), {"text", "image"}, ["takes no sounds"]),
    "both": (("embed_tokens_extend", ".lora_"), {"text"}, ["takes no images", "takes no sounds"]),
}


@pytest.mark.parametrize("is_configured", [True, False])
@pytest.mark.parametrize("what", DROPPED)
def test_a_fine_tune_that_dropped_a_modality_serves_the_others(
    what: str, is_configured: bool, copy: Callable[..., Path]
) -> None:
    parts, modes, said = DROPPED[what]
    folder = copy("phi4mm", without(*parts))
    if not is_configured and what != "vision":
        edit_config(folder, audio_processor=None, speech_lora=None)
    if not is_configured and what != "audio":
        edit_config(folder, vision_lora=None)
    notes: list[str] = []
    recipe = Recipe(context=64, bits=8)  # random weights lose much at 4 bits
    bundle = open_bundle(export_model(folder, folder.parent / "bundle", recipe, on_note=notes.append))
    assert set(bundle.manifest.modes) == modes
    assert [part for part in said if any(part in note for note in notes)] == said
    assert len(notes) == len(said)
    assert verify(bundle, open_checkpoint(folder), items=1).passed


def test_the_port_without_a_modality_serves_the_others(copy: Callable[..., Path]) -> None:
    folder = copy("phi4_multimodal", without("audio_embed"))
    shutil.rmtree(folder / "speech-lora")
    bundle = open_bundle(export_model(folder, folder.parent / "bundle", Recipe(context=64)))
    assert (set(bundle.manifest.modes), [a.name for a in bundle.manifest.adapters]) == ({"text", "image"}, ["vision"])


def test_half_an_encoder_is_no_dropped_one(copy: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"audio_projection\.speech\.0\.bias' is missing"):
        read(copy("phi4mm", without("audio_projection.speech")))


@pytest.mark.parametrize("architecture", ["phi4mm", "phi4_multimodal"])
def test_a_checkpoint_without_adapters_is_exported_where_none_are_asked_for(
    architecture: str, copy: Callable[..., Path]
) -> None:
    folder = copy(architecture, without(".lora_"))
    for name in ("vision-lora", "speech-lora"):
        shutil.rmtree(folder / name, ignore_errors=True)
    target = folder.parent / "bundle"
    with pytest.raises(CheckpointError, match=r"has no vision adapter, .* --adapters none exports without"):
        export_model(folder, target, Recipe(context=64))
    bundle = open_bundle(export_model(folder, target, Recipe(context=64, adapters="none")))
    assert set(bundle.manifest.modes) == {"text", "image", "audio", "image+audio"}
    assert bundle.manifest.adapters == ()


def test_one_adapter_of_two_serves_no_mode_of_the_other(copy: Callable[..., Path]) -> None:
    folder = copy("phi4mm", without(".speech.weight"))
    with pytest.raises(CheckpointError, match="has no speech adapter"):
        export_model(folder, folder.parent / "bundle", Recipe(context=64))
    bundle = open_bundle(export_model(folder, folder.parent / "bundle", Recipe(context=64, adapters="merge=vision")))
    assert set(bundle.manifest.modes) == {"text", "image", "image+audio"}


KEYS: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "an unknown key": (
        ("attention_scale",),
        0.5,
        "config.json: attention_scale is 0.5, which this architecture does not",
    ),
    "a residual scale": (("residual_multiplier",), 0.22, "residual_multiplier is 0.22, expected 1"),
    "a logit scale": (("logits_scaling",), 8.0, "logits_scaling is 8.0, expected 1"),
    "a soft cap": (("final_logit_softcapping",), 30.0, "final_logit_softcapping is 30.0, expected 0"),
    "a draft head": (("num_nextn_predict_layers",), 1, "num_nextn_predict_layers is 1, expected 0"),
    "tensor parallel training": (("pretraining_tp",), 2, "pretraining_tp is 2, expected 0"),
    "an activation": (("hidden_act",), "gelu", "hidden_act is 'gelu', expected 'silu'"),
    "a bias": (("attention_bias",), True, "attention_bias is True, expected False"),
    "one for true": (("mlp_bias",), 1, "mlp_bias is 1, expected False"),
    "another type of layers": (
        ("layer_types",),
        ["linear_attention"] * 2,
        "layer_types has 'linear_attention', expected",
    ),
    "experts": (("num_local_experts",), 16, "num_local_experts is 16, expected 0"),
}
NESTED: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "of the conformer": (
        ("audio_processor", "config", "macaron"),
        True,
        "audio_processor.config.macaron is True, which",
    ),
    "of the projector": (
        ("embd_layer", "image_embd_layer", "use_abs_pos"),
        1,
        "image_embd_layer.use_abs_pos is 1, which",
    ),
    "of an adapter": (("vision_lora", "use_rslora"), True, "vision_lora.use_rslora is True, which"),
    "of both encoders": (("embd_layer", "embedding_cls"), "image", "embd_layer.embedding_cls is 'image', expected"),
    "mels": (
        ("audio_processor", "config", "encoder_embedding_config"),
        {"input_size": 40},
        "encoder_embedding_config: input_size is 40, expected 80",
    ),
}


@pytest.mark.parametrize("case", KEYS)
@pytest.mark.parametrize("architecture", ["phi4mm", "phi4_multimodal", "phi3"])
def test_a_key_that_would_change_the_computation_is_refused(
    case: str, architecture: str, copy: Callable[..., Path]
) -> None:
    path, value, message = KEYS[case]
    folder = copy(architecture)
    edit_nested(folder, path, value)
    with pytest.raises(CheckpointError) as raised:
        read(folder)
    assert message in str(raised.value)


@pytest.mark.parametrize("case", NESTED)
def test_a_nested_key_that_would_change_the_computation_is_refused(case: str, copy: Callable[..., Path]) -> None:
    path, value, message = NESTED[case]
    folder = copy("phi4mm")
    edit_nested(folder, path, value)
    with pytest.raises(CheckpointError) as raised:
        read(folder)
    assert message in str(raised.value)


@pytest.mark.parametrize("section", ["vision_config", "audio_config"])
def test_a_nested_key_of_the_port_is_refused(section: str, copy: Callable[..., Path]) -> None:
    folder = copy("phi4_multimodal")
    edit_nested(folder, (section, "use_head"), True)
    with pytest.raises(CheckpointError, match=rf"{section}\.use_head is True, which this architecture does not read"):
        read(folder)


HARMLESS = {
    "unsloth_version": "2025.3",
    "_attn_implementation": "flash_attention_2",
    "transformers_version": "5.23.0",
    "attention_dropout": 0.1,
    "torch_dtype": "bfloat16",
    "use_cache": False,
    "temperature": 0.7,
    "pretraining_tp": 1,
    "num_nextn_predict_layers": 0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1,
    "pruned_heads": {},
    "something_absent": None,
    "layer_types": ["full_attention"] * 2,
}


@pytest.mark.parametrize("architecture", ["phi4mm", "phi4_multimodal", "phi3"])
def test_keys_that_change_nothing_are_fine(architecture: str, copy: Callable[..., Path]) -> None:
    folder = copy(architecture)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **HARMLESS}))
    assert read(folder).notes == ()


@pytest.mark.parametrize("architecture", ["phi4mm", "phi3"])
def test_a_default_context_is_no_longer_than_what_the_model_serves(
    architecture: str, copy: Callable[..., Path]
) -> None:
    folder = copy(architecture)
    edit_config(folder, max_position_embeddings=4096)
    target = folder.parent / "bundle"
    assert open_bundle(export_model(folder, target)).manifest.decoder.context_length == 4096
    with pytest.raises(CheckpointError, match="max_position_embeddings is 4096, expected at least 8192"):
        export_model(folder, target, Recipe(context=8192), overwrite=True)
