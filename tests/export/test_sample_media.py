"""Samples of users whose pictures and sounds are spelled in any way that a chat takes."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palmtop.errors import InputError
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.samples import SampleReader, read_questions
from palmtop.export.recipe import Recipe
from palmtop.runtime.evaluate import read_questions as read_evaluated
from palmtop.runtime.evaluate import read_samples


@pytest.fixture(scope="module")
def float_model(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> FloatReference:
    checkpoint, recipe = Checkpoint(reference_checkpoint), Recipe(context=512)
    model = read_model(checkpoint, recipe)
    return FloatReference(tmp_path_factory.mktemp("media") / "float", checkpoint, model, recipe, threads=1)


@pytest.fixture
def folder(reference_checkpoint: Path, tmp_path: Path) -> Path:
    samples = reference_checkpoint.parent
    shutil.copy(next(samples.rglob("*.png")), tmp_path / "a:picture.png")
    shutil.copy(next(samples.rglob("*.wav")), tmp_path / "sound.wav")
    return tmp_path


def write(folder: Path, *parts: dict[str, Any]) -> Path:
    message = {"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}
    line = {"task": "t", "messages": [message], "answer": "7", "expected": "7"}
    (folder / "mine.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    return folder / "mine.jsonl"


def data_address(path: Path) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(path.read_bytes()).decode()}"


PICTURES: list[Any] = [
    {"type": "image", "image": "a:picture.png"},
    {"type": "image", "path": "a:picture.png"},
    {"type": "image_url", "image_url": {"url": "a:picture.png"}},
    {"type": "image_url", "image_url": "a:picture.png"},
    {"type": "image_url", "image_url": {"url": "DATA"}},
    {"type": "image_url", "image_url": {"url": "FILE"}},
    {"type": "input_image", "image_url": "a:picture.png"},
]
SOUNDS: list[Any] = [
    {"type": "audio", "audio": "sound.wav"},
    {"type": "audio_url", "audio_url": {"url": "sound.wav"}},
    {"type": "audio_url", "audio_url": "sound.wav"},
    {"type": "input_audio", "input_audio": {"data": "BASE64", "format": "wav"}},
]


def filled(part: dict[str, Any], path: Path) -> dict[str, Any]:
    values = {"DATA": data_address(path), "FILE": path.as_uri(), "BASE64": data_address(path).partition(",")[2]}

    def value(each: Any) -> Any:
        return {k: value(v) for k, v in each.items()} if isinstance(each, dict) else values.get(each, each)

    return {key: value(each) for key, each in part.items()}


@pytest.mark.parametrize("part", [*PICTURES, *SOUNDS], ids=lambda part: json.dumps(part)[:60])
def test_a_sample_is_calibrated_on_under_the_adapter_of_its_medium(
    part: dict[str, Any], folder: Path, float_model: FloatReference
) -> None:
    is_picture = part in PICTURES
    path = write(folder, filled(part, folder / ("a:picture.png" if is_picture else "sound.wav")))
    (question,) = read_questions(path)
    sample = SampleReader(float_model.folder, float_model.manifest).read(question)
    width = float_model.manifest.decoder.hidden_size
    rows = [np.zeros((int(sample.places.max()), width), np.float32)]
    gates = float_model.decoder_inputs(sample, rows)["adapter_gates"].tolist()
    assert (sample.mode, gates) == (("image", [1, 0]) if is_picture else ("audio", [0, 1]))
    assert sample.places.any()
    assert [item.part for item in sample.media] == ["vision" if is_picture else "audio"]


def test_a_sample_with_both_is_of_the_mixed_mode_and_keeps_their_order(
    folder: Path, float_model: FloatReference
) -> None:
    (question,) = read_questions(write(folder, SOUNDS[1], PICTURES[2]))
    sample = SampleReader(float_model.folder, float_model.manifest).read(question)
    assert (sample.mode, [item.part for item in sample.media]) == ("image+audio", ["audio", "vision"])


@pytest.mark.parametrize("part", [*PICTURES[:4], *SOUNDS[:3]], ids=lambda part: json.dumps(part)[:60])
def test_samples_of_evaluate_and_verify_are_read_beside_their_file(
    part: dict[str, Any], folder: Path, float_model: FloatReference
) -> None:
    path = write(folder, part)
    for read in (read_evaluated, read_samples):
        (question,) = read(path)
        media = float_model_media(float_model, question.messages)
        assert [Path(source).parent for source in media] == [folder]


def float_model_media(model: FloatReference, messages: Any) -> list[str]:
    from palmtop.runtime.processor import Processor

    return [place.item.source for place in Processor(model.manifest.processor, model.folder).prompt(messages).media]


@pytest.mark.parametrize("read", [read_questions, read_evaluated, read_samples])
@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "picture", "image": "x"}, r"mine.jsonl:1: messages\[0\].content\[0\].type: found 'picture'"),
        ({"type": "image_url"}, r"mine.jsonl:1: messages\[0\].content\[0\]: the image part has no source"),
        ({"type": "image", "image": "http://x/y.png"}, r"mine.jsonl:1: .*palmtop fetches nothing"),
    ],
)
def test_parts_that_a_chat_refuses_are_refused_with_their_line(
    read: Any, part: dict[str, Any], message: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=message):
        list(read(write(folder, part)))
