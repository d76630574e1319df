"""Pictures and sounds of types that nobody promised: an InputError, wherever they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palmtop.errors import InputError
from palmtop.runtime.media.conversation_media import source_key
from palmtop.runtime.processor.content import read_messages
from palmtop.runtime.processor.images.image_file import load_image
from palmtop.runtime.processor.sounds.sound_file import load_audio

SAMPLES = np.zeros(16000, np.float32)
IMAGES: list[Any] = [bytearray(b"x"), 5, object(), "a\0b.png", Path("a\0b.png"), np.array([object()]), (1,)]
SOUNDS: list[Any] = [
    bytearray(b"x"),
    5,
    SAMPLES,
    (SAMPLES,),
    (SAMPLES, None),
    (SAMPLES, float("nan")),
    ([0.0], 16000),
    (np.float32(1), 16000),
    (np.array(1.0), 16000),
    (np.array([object()]), 16000),
    (np.array(["2020-01-01"], "M8[D]"), 16000),
    "a\0b.wav",
]


def wrapped(kind: str, source: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind, kind: source}]}]


@pytest.mark.parametrize("source", IMAGES, ids=lambda s: type(s).__name__)
def test_other_types_are_no_images(source: Any) -> None:
    with pytest.raises(InputError):
        item = read_messages(wrapped("image", source))[0].media[0]
        source_key(item.source)
        load_image(item.source)
    source_key(source)
    with pytest.raises(InputError):
        load_image(source)


@pytest.mark.parametrize("source", SOUNDS, ids=lambda s: type(s).__name__)
def test_other_types_are_no_sounds(source: Any) -> None:
    with pytest.raises(InputError):
        item = read_messages(wrapped("audio", source))[0].media[0]
        source_key(item.source)
        load_audio(item.source, 16000)
    source_key(source)
    with pytest.raises(InputError):
        load_audio(source, 16000)


@pytest.mark.parametrize("source", ["file://[x", "file:///a%00b.png", {"url": {"url": "a.png"}}, object()])
def test_the_place_of_a_strange_source_is_told(source: object) -> None:
    with pytest.raises(InputError, match=r"messages\[0\]\.content\[0\]\.image"):
        read_messages(wrapped("image", source))
