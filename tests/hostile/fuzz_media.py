"""Decodes mutated pictures and sounds, in a process of its own: ``python fuzz_media.py FIRST COUNT``.

Prints the number of each mutant before it is tried, so that whoever started this knows which one killed it.
"""

from __future__ import annotations

import io
import resource
import sys
import traceback

import cv2
import numpy as np
import soundfile
from PIL import Image

from palmtop.errors import PalmtopError
from palmtop.runtime.processor.images.image_file import load_image
from palmtop.runtime.processor.sounds.sound_file import load_audio
from tests.hostile.mutations import mutate

_SOUNDS = (
    ("WAV", "PCM_16"),
    ("WAV", "MS_ADPCM"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("MP3", None),
)
MEMORY_BYTES = 6 << 30  # of address space: a mutant that wants more has found a bomb


def originals() -> list[tuple[str, bytes]]:
    """One small file of each kind."""
    random = np.random.default_rng(0)
    picture = cv2.resize(random.integers(0, 255, (8, 8, 3), dtype=np.uint8), (64, 48))
    files = [("image", bytes(cv2.imencode(f".{end}", picture)[1])) for end in ("png", "jpg")]
    for form in ("BMP", "GIF", "TIFF", "WEBP", "AVIF"):
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, form)
        files.append(("image", stream.getvalue()))
    sound = (random.standard_normal((4000, 2)) * 0.1).astype(np.float32)
    for kind, subtype in _SOUNDS:
        buffer = io.BytesIO()
        soundfile.write(buffer, sound, 16000, format=kind, subtype=subtype)
        files.append(("audio", buffer.getvalue()))
    return files


def main() -> None:
    """Exit code 1 when something else than a PalmtopError was raised."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    cv2.setNumThreads(1)
    files = originals()
    bad = refused = 0
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for number in range(first, first + count):
        print(number, flush=True)
        kind, data = files[number % len(files)]
        mutant = mutate(data, np.random.default_rng(number))
        try:
            if kind == "image":
                pixels = load_image(mutant)
                assert pixels.ndim == 3 and pixels.dtype == np.uint8
            else:
                samples = load_audio(mutant, 16000)
                assert samples.ndim == 1 and np.isfinite(samples).all()
        except PalmtopError as error:
            refused += 1
            assert "\n" not in str(error)
        except BaseException:
            bad += 1
            print(f"mutant {number} ({kind}):", traceback.format_exc(), file=sys.stderr)
    print(f"refused {refused} of {count}", file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
