"""The family ``minicpmv`` with pictures: checkpoint to bundle to chat, against the whole model in torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import palmtop
from palmtop.errors import CheckpointError, InputError, UnsupportedModelError
from palmtop.export.arch import Model, read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.convert import export_model
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.bundle.processor_config import SlicesSpec
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.processor import Processor
from palmtop.runtime.processor.images.slices import ImageSlices, slice_image
from tests.export.families import CHATML, Family
from tests.export.minicpmv_reference import LONGROPE, THINKING_CHATML, MiniCpmV, chat_text, make, save, words, write
from tests.export.test_phi3 import edit_config

SHAPES: dict[str, dict[str, Any]] = {
    "as 2.6": {"version": 2.6},
    "as 4.0": {"version": 4.0, "head_dim": 32, "rope_parameters": LONGROPE, "num_key_value_heads": 1},
    "as 4.5": {"version": 4.5, "head_dim": 48},
    "2.6 tied": {"version": 2.6, "tie_word_embeddings": True, "num_attention_heads": 2},
}
FAMILY = Family(write=write, shapes=SHAPES)
LIMIT = 1e-3  # of the logits' range
RECIPE = Recipe(bits=32, context=512)
COLOURS = (250, 40, 10), (10, 200, 90), (20, 60, 240), (240, 240, 30)
PICTURES = {"small": (40, 50), "wide": (60, 170), "square": (112, 112)}  # height and width
SYSTEM = {"role": "system", "content": "Name what you see."}


def picture(name: str) -> NDArray[np.uint8]:
    height, width = PICTURES[name]
    noise = np.random.default_rng(height).integers(0, 60, (height, width, 3))
    for row in (0, 1):
        for column in (0, 1):
            part = noise[row * height // 2 :, column * width // 2 :]
            part[:] = part // 4 + np.array(COLOURS[2 * row + column]) * 3 // 4
    return noise.astype(np.uint8)


def message(text: str, *names: str, role: str = "user") -> dict[str, Any]:
    pictures = [{"type": "image", "image": picture(name)} for name in names]
    return {"role": role, "content": [*pictures, {"type": "text", "text": text}] if text else pictures}


DIALOGUES: dict[str, list[dict[str, Any]]] = {
    "text": [message("what is 12 plus 7?")],
    "one": [message("what is this?", "small")],
    "slices": [message("what is this?", "square")],
    "two": [message("compare", "wide", "small")],
    "system": [SYSTEM, message("which colours?", "square")],
    "no text": [message("", "small")],
    "newline": [message("\n\n spaced", "small")],
    "turns": [message("first", "small"), message("yes", role="assistant"), message("and this?", "wide")],
    "text between": [message("first", "small"), message("no", role="assistant"), message("why?")],
    "marks": [message("look at this picture of 3 and 4", "square", "square")],
}


@pytest.fixture(scope="module", params=["as 2.6", "as 4.0", "as 4.5"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[MiniCpmV, Path, Path]:
    folder = tmp_path_factory.mktemp("minicpmv")
    model = write(folder / "checkpoint", 3, **SHAPES[request.param])
    return model, folder / "checkpoint", export_model(folder / "checkpoint", folder / "bundle", RECIPE)


def spec_of(bundle: Path) -> SlicesSpec:
    spec = open_bundle(bundle).manifest.processor.image
    assert isinstance(spec, SlicesSpec)
    return spec


def views(dialogue: list[dict[str, Any]], spec: SlicesSpec) -> list[ImageSlices]:
    parts = [part for each in dialogue if isinstance(each["content"], list) for part in each["content"]]
    return [slice_image(part["image"], spec) for part in parts if part["type"] == "image"]


def reference_ids(model: MiniCpmV, dialogue: list[dict[str, Any]], spec: SlicesSpec) -> list[int]:
    """Ids of the reference's rendered text, encoded whole."""
    turns = []
    for each in dialogue:
        content = [{"type": "text", "text": each["content"]}] if isinstance(each["content"], str) else each["content"]
        text = "".join(part["text"] for part in content if part["type"] == "text")
        turns.append((each["role"], [found.segments for found in views([each], spec)], text))
    if model.version == 4.5:
        rendered = chat_text(turns, THINKING_CHATML, enable_thinking=False)
    else:
        rendered = chat_text(turns, CHATML)
    ids: list[int] = words().encode(rendered, add_special_tokens=False).ids
    return [words().token_to_id("<|endoftext|>"), *ids] if model.version == 4.0 else ids


def our_ids(bundle: Path, dialogue: list[dict[str, Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    processor = Processor(open_bundle(bundle).manifest.processor, bundle)
    prompt = processor.prompt(dialogue)
    return processor.text.expand(prompt, [processor.tiles(place.item).segments for place in prompt.media])


def rows_of(model: MiniCpmV, dialogue: list[dict[str, Any]], spec: SlicesSpec) -> Any:
    found = [view for each in views(dialogue, spec) for view in (each.whole, *each.slices)]
    return model.rows(found) if found else None


@pytest.mark.parametrize("name", DIALOGUES)
def test_ids_are_the_references(name: str, made: tuple[MiniCpmV, Path, Path]) -> None:
    model, _, bundle = made
    ids, places = our_ids(bundle, DIALOGUES[name])
    assert ids.tolist() == reference_ids(model, DIALOGUES[name], spec_of(bundle))
    assert np.array_equal(places > 0, ids == words().token_to_id("<unk>"))
    assert places[places > 0].tolist() == list(range(1, 1 + int((places > 0).sum())))


@pytest.mark.parametrize("name", ["text", "slices", "two", "turns"])
def test_logits_are_the_models(name: str, made: tuple[MiniCpmV, Path, Path]) -> None:
    model, _, bundle = made
    dialogue, spec = DIALOGUES[name], spec_of(bundle)
    opened = open_bundle(bundle)
    ids, places = our_ids(bundle, dialogue)
    features = features_of(bundle, views(dialogue, spec))
    tokens = np.random.default_rng(3).integers(0, 256, 12)
    prompt = DecoderPrompt(mode="image", input_ids=ids, media_places=places, features=features)
    probe = OnnxDecoder(opened.file("decoder.onnx"), opened.manifest.decoder, threads=1)
    found = probe.logits(prompt, np.zeros(0, np.float32), tokens)
    whole = np.concatenate([ids, tokens[:-1]])
    expected = model.logits(whole, spec.token_id, rows_of(model, dialogue, spec))[len(ids) - 1 :]
    assert np.abs(found - expected).max() < LIMIT * np.ptp(expected)


def features_of(bundle: Path, prepared: list[ImageSlices]) -> NDArray[np.float32]:
    from palmtop.runtime.media.encoder_runner import Encoders

    opened = open_bundle(bundle)
    encoders = Encoders(opened.file("vision.onnx"), None, opened.manifest.processor, threads=1)
    found = [encoders.encode_image(each) for each in prepared]
    return np.concatenate(found) if found else np.zeros((1, opened.manifest.decoder.hidden_size), np.float32)


@pytest.mark.parametrize("name", ["one", "two", "system", "turns"])
def test_greedy_answers_are_the_models(name: str, made: tuple[MiniCpmV, Path, Path]) -> None:
    model, _, bundle = made
    dialogue, spec = DIALOGUES[name], spec_of(bundle)
    ends = open_bundle(bundle).manifest.processor.text.eos_ids
    expected = model.answer(
        reference_ids(model, dialogue, spec), spec.token_id, rows_of(model, dialogue, spec), ends, 12
    )
    with palmtop.load(bundle, threads=1) as session:
        reply = session.answer(dialogue, options=GenerationOptions(max_tokens=12))
    assert len(expected) > 2
    assert list(reply.token_ids) == expected


def test_the_picture_counts(made: tuple[MiniCpmV, Path, Path]) -> None:
    model, _, bundle = made
    spec = spec_of(bundle)
    ids = np.array(reference_ids(model, DIALOGUES["slices"], spec))
    rows = rows_of(model, DIALOGUES["slices"], spec)
    with_rows = model.logits(ids, spec.token_id, rows)
    assert np.abs(with_rows - model.logits(ids, spec.token_id, rows.flip(0))).max() > 100 * LIMIT


def test_a_typed_token_is_text(made: tuple[MiniCpmV, Path, Path]) -> None:
    _, _, bundle = made
    typed = [message("<image><unk></image> (<image>./</image>) <|image_1|>", "small")]
    ids, places = our_ids(bundle, typed)
    assert int((ids == spec_of(bundle).token_id).sum()) == int((places > 0).sum()) == spec_of(bundle).queries
    assert int((ids == words().token_to_id("<image>")).sum()) == 1


def test_a_quantised_bundle_proves_itself_with_pictures(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", 3, max_position_embeddings=4096)
    bundle = open_bundle(export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=2048), verify=True))
    quality = json.loads(bundle.file("quality.json").read_text())
    assert "image" in json.dumps(quality)
    assert set(bundle.manifest.routes) == {"text", "image"}


def test_a_line_of_pixels_is_refused_by_the_session(made: tuple[MiniCpmV, Path, Path]) -> None:
    line = np.zeros((1, 4000, 3), np.uint8)
    with palmtop.load(made[2], threads=1) as session, pytest.raises(InputError, match="the image is too narrow"):
        session.answer([{"role": "user", "content": [{"type": "image", "image": line}]}])


CLOSED = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(("stated", "end"), [(None, CLOSED), (False, CLOSED), (True, "<think>\n")])
def test_thinking_is_off_unless_it_is_switched_on(stated: bool | None, end: str, tmp_path: Path) -> None:
    write(tmp_path, 1, version=4.5)
    if stated is not None:
        options = {"chat_template_kwargs": {"enable_thinking": stated}}
        (tmp_path / "generation_config.json").write_text(json.dumps(options))
    model = read(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(model.chat_template)
    text = Processor(model.processor, tmp_path).text
    for thinking, expected in ((None, end), (False, CLOSED), (True, "<think>\n")):
        ids = text.prompt([{"role": "user", "content": "hi"}], thinking=thinking).ids.tolist()
        assert words().decode(ids, skip_special_tokens=False).endswith(f"assistant\n{expected}")
        assert text.starts_thinking(thinking) is (expected == "<think>\n")


def read(folder: Path) -> Model:
    return read_model(open_checkpoint(folder), Recipe(context=64))


@pytest.mark.parametrize("other", ["minicpmv4_6", "minicpmv4_7", "minicpmo"])
def test_models_that_sound_alike_are_refused_by_name(other: str, tmp_path: Path) -> None:
    write(tmp_path, 1)
    edit_config(tmp_path, lambda config: config.update(model_type=other))
    with pytest.raises(
        UnsupportedModelError, match=f"model_type is '{other}', which is no 'minicpmv' .* is not supported"
    ):
        read(tmp_path)


@pytest.mark.parametrize("version", [2.0, 2.5, "2.5", 4.6, 5, None, "new", True, [2.6]])
def test_other_versions_are_refused(version: object, tmp_path: Path) -> None:
    write(tmp_path, 1)
    edit_config(tmp_path, lambda config: config.update(version=version))
    with pytest.raises(UnsupportedModelError, match=r"version is .*, expected one of 2.6, 4.0, 4.5"):
        read(tmp_path)


def test_a_version_may_be_text(tmp_path: Path) -> None:
    write(tmp_path, 1, version=4.0)
    edit_config(tmp_path, lambda config: config.update(version="4.0"))
    assert read(tmp_path).processor.text.adds_bos


def edit(file: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / file).read_text())
        change(data)
        (folder / file).write_text(json.dumps(data))

    return apply


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("config.json", "slice_mode", False, "slice_mode is False, expected True"),
        ("config.json", "patch_size", 16, "patch_size is 16, vision_config says 14"),
        ("config.json", "scale_emb", 12, "scale_emb is 12, expected 1"),
        ("config.json", "query_num", 5, "image_feature_size is 4, config.json says 5"),
        ("config.json", "new_key", 1, "new_key is 1, which this architecture does not read"),
        ("config.json", "vision_config", None, "vision_config is missing"),
        ("preprocessor_config.json", "max_slice_nums", 3, "max_slice_nums is 3, config.json says 4"),
        ("preprocessor_config.json", "scale_resolution", 70, "scale_resolution is 70, config.json says 56"),
        ("preprocessor_config.json", "patch_size", 7, "patch_size is 7, config.json says 14"),
        ("preprocessor_config.json", "slice_mode", False, "slice_mode is False, config.json says True"),
        ("preprocessor_config.json", "use_image_id", False, "use_image_id is False, config.json says True"),
        ("preprocessor_config.json", "slice_start", "<piece>", "'<piece>' is no added token"),
        ("preprocessor_config.json", "norm_std", [0.5, 0.5], "norm_std has 2 values, expected 3"),
    ],
)
def test_contradictions_are_refused(file: str, key: str, value: object, message: str, tmp_path: Path) -> None:
    write(tmp_path, 1)
    edit(file, lambda data: data.update({key: value}))(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resampler.proj", "tensor 'resampler.proj' is missing"),
        ("vpm.encoder.layers.2.mlp.fc1.bias", "layers.2.mlp.fc1.bias' is missing"),
        ("llm.model.layers.0.self_attn.q_proj.bias", "q_proj.bias' is missing"),
        ("llm.lm_head.weight", "llm.lm_head.weight' is missing"),
    ],
)
def test_a_missing_tensor_is_named(name: str, message: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write(tmp_path, 1)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path)


def test_a_version_with_another_versions_tensors_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1, version=2.6)
    edit_config(tmp_path, lambda config: config.update(version=4.5, head_dim=32))
    with pytest.raises(CheckpointError, match=r"q_norm.weight' is missing|k_norm.weight' is missing"):
        read(tmp_path)


def test_the_last_layer_of_the_tower_may_be_dropped(tmp_path: Path) -> None:
    model = make(4)
    del model.vpm.encoder.layers[-1]
    save(tmp_path / "checkpoint", model, slices=4, scale=56)
    edit_config(tmp_path / "checkpoint", lambda config: config.update(drop_vision_last_layer=True))
    bundle = export_model(tmp_path / "checkpoint", tmp_path / "bundle", RECIPE)
    prepared = views(DIALOGUES["slices"], spec_of(bundle))
    expected = rows_of(model, DIALOGUES["slices"], spec_of(bundle)).numpy()
    assert np.abs(features_of(bundle, prepared) - expected).max() < 1e-4 * np.ptp(expected)


def test_the_published_config_of_4_5_is_read_whole(tmp_path: Path) -> None:
    """MiniCPM-V 4.5's own keys; sizes are the tiny checkpoint's."""
    write(tmp_path, 1, version=4.5, head_dim=32)
    own = json.loads((tmp_path / "config.json").read_text())
    published = {
        "_name_or_path": "openbmb/MiniCPM-V-4_5",
        "version": 4.5,
        "architectures": ["MiniCPMV"],
        "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMVConfig"},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 32,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_window_layers": 36,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "batch_vision_input": True,
        "batch_3d_resampler": True,
        "drop_vision_last_layer": False,
        "image_size": 448,
        "model_type": "minicpmv",
        "patch_size": 14,
        "query_num": 4,
        "slice_config": {"max_slice_nums": 4, "patch_size": 14, "model_type": "minicpmv"},
        "slice_mode": True,
        "vision_config": own["vision_config"],
    }
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    kept = (*kept, "num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id")
    (tmp_path / "config.json").write_text(json.dumps({**{key: own[key] for key in kept}, **published}))
    model = read(tmp_path)
    assert model.decoder.rope.theta == 1e6
    assert model.decoder.attention.norm_eps == 1e-6
    assert isinstance(model.processor.image, SlicesSpec)
    assert model.processor.image.scale_resolution == 56
