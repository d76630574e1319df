"""Pictures and sounds in the forms in which other libraries hold them: all give what their file gives."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from palmtop.errors import InputError
from palmtop.runtime.processor.content import read_messages, with_sources
from palmtop.runtime.processor.images.image_file import load_image
from palmtop.runtime.processor.sounds.sound_file import load_audio

RATE = 16000


def source_of(kind: str, source: Any) -> Any:
    message = {"role": "user", "content": [{"type": kind, kind: source}]}
    return read_messages([message])[0].media[0].source


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture with transparency and an orientation."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    return tmp_path / "a.png"


@pytest.mark.parametrize(
    "form",
    [
        Image.open,
        lambda path: Image.open(io.BytesIO(path.read_bytes())),
        lambda path: open(path, "rb"),  # noqa: SIM115 - as callers do
        lambda path: io.BytesIO(path.read_bytes()),
        lambda path: bytearray(path.read_bytes()),
        lambda path: memoryview(path.read_bytes()),
        lambda path: {"bytes": path.read_bytes(), "path": None},
        lambda path: {"bytes": None, "path": str(path)},
        lambda path: torch.from_numpy(load_image(path)),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_picture_is_read_as_its_file_is(form: Any, picture: Path) -> None:
    given = form(picture)
    for _ in range(2):  # a conversation reads its messages at each turn
        np.testing.assert_array_equal(load_image(source_of("image", given)), load_image(picture))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_pictures_of_every_mode_are_read(mode: str) -> None:
    image = Image.new(mode, (5, 4))
    assert load_image(source_of("image", image)).shape == (4, 5, 3)


def test_a_picture_whose_file_is_gone_is_refused_in_one_sentence(picture: Path) -> None:
    image = Image.open(picture)
    image.close()
    with pytest.raises(InputError, match=r"messages\[0\]\.content\[0\]\.image: the picture cannot be decoded"):
        source_of("image", image)


@pytest.mark.parametrize(
    "form",
    [
        lambda samples, path: {"array": samples, "sampling_rate": RATE},
        lambda samples, path: {"array": samples.tolist(), "sampling_rate": RATE, "path": "gone.wav"},
        lambda samples, path: {"array": torch.from_numpy(samples), "sampling_rate": np.int64(RATE)},
        lambda samples, path: [samples, RATE],
        lambda samples, path: open(path, "rb"),  # noqa: SIM115
        lambda samples, path: {"bytes": path.read_bytes(), "path": "a.wav"},
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_sound_is_read_as_its_samples_are(form: Any, tmp_path: Path) -> None:
    samples = (np.random.default_rng(0).standard_normal(4000) * 0.1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    given = form(samples, tmp_path / "a.wav")
    for _ in range(2):
        np.testing.assert_allclose(load_audio(source_of("audio", given), RATE), samples, atol=1e-7)


@pytest.mark.parametrize("source", [np.zeros(1600), [0.0] * 1600, {"array": np.zeros(4)}, 3, object(), {"rate": 3}])
def test_samples_without_a_rate_are_refused_with_the_right_form(source: Any) -> None:
    with pytest.raises(InputError, match=r"messages\[0\]\.content\[0\]\.audio.*(rate|expected)"):
        source_of("audio", source)


@pytest.mark.parametrize("content", ["text", ["a", Image.new("L", (4, 4)), {"type": "text", "text": "b"}]])
def test_messages_with_other_sources_keep_their_texts(content: Any) -> None:
    found = with_sources([{"role": "user", "content": content}], lambda item: "b.png")[0]["content"]
    assert found == (
        content
        if isinstance(content, str)
        else ["a", {"type": "image", "image": "b.png"}, {"type": "text", "text": "b"}]
    )
    alone = with_sources([{"role": "user", "content": Image.new("L", (4, 4))}], lambda item: "b.png")
    assert alone == [{"role": "user", "content": [{"type": "image", "image": "b.png"}]}]


@pytest.mark.parametrize(
    "content", ["text", ["text"], {"type": "text", "text": "text"}, ["te", {"type": "text", "text": "xt"}]]
)
def test_texts_alone_are_parts(content: Any) -> None:
    assert read_messages([{"role": "user", "content": content}])[0].text == "text"
