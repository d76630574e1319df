"""Pictures and sounds of a question as data of the page: small copies, so that the page stays one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palmtop.runtime.processor.content import Kind, MediaItem, read_messages

MOST_PIXELS = 320  # longest side of a copy
MOST_SECONDS = 20  # of a sound; 16 kHz in FLAC are about 20 kB a second
RATE_HZ = 16000


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small copy of a picture, or the beginning of a sound.

    Attributes:
        kind: "image" or "audio".
        size: size of the original as shown to a reader, such as "640 x 480 pixels".
        url: the copy as a ``data:`` URL, PNG or FLAC.
    """

    kind: Kind
    size: str
    url: str


def thumbnails(messages: Sequence[Mapping[str, Any]]) -> tuple[Thumbnail, ...]:
    """Return copies of the media of a conversation, in order.

    Raises:
        InputError: a picture or sound cannot be read.
    """
    items = (item for turn in read_messages(messages) for item in turn.media)
    return tuple(_picture(item) if item.kind == "image" else _sound(item) for item in items)


def _picture(item: MediaItem) -> Thumbnail:
    from PIL import Image

    from palmtop.runtime.processor.images.image_file import load_image

    pixels = load_image(item.source)
    height, width = pixels.shape[:2]
    copy = Image.fromarray(pixels)
    copy.thumbnail((MOST_PIXELS, MOST_PIXELS))
    file = io.BytesIO()
    copy.save(file, "PNG", optimize=True)
    return Thumbnail(kind="image", size=f"{width} x {height} pixels", url=_url("image/png", file))


def _sound(item: MediaItem) -> Thumbnail:
    import soundfile

    from palmtop.runtime.processor.sounds.sound_file import load_audio

    samples = load_audio(item.source, RATE_HZ)
    seconds = len(samples) / RATE_HZ
    file = io.BytesIO()
    soundfile.write(file, samples[: MOST_SECONDS * RATE_HZ], RATE_HZ, format="FLAC")
    first = f", the first {MOST_SECONDS} s here" if seconds > MOST_SECONDS else ""
    return Thumbnail(kind="audio", size=f"{seconds:.1f} s{first}", url=_url("audio/flac", file))


def _url(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
