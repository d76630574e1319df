"""Write the packaged held-out material: `python -m tests.reference.package_heldout --work DIR`.

Needs scikit-learn, the Debian fonts and the recordings of `make_speech`; what it writes needs none of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from palmtop.runtime.reference import held_out_path
from tests.reference.glyphs import fonts
from tests.reference.speech import load

GAP = 1600
"""samples of silence between packaged clips, so that the codec smears nothing from one into the next"""


def package_digits(directory: Path) -> None:
    """Write digits.npz: 360 handwritten 8x8 digits and the held-out fonts' sprites, padded to one width."""
    images, targets = load_digits(return_X_y=True)
    _, test = train_test_split(np.arange(len(targets)), test_size=360, random_state=0, stratify=targets)
    test = np.sort(test)
    rendered = fonts(held_out=True)
    widest = max(glyph.sprite.shape[1] for glyph in rendered)
    sprites = [np.pad(glyph.sprite, ((0, 0), (0, widest - glyph.sprite.shape[1]))) for glyph in rendered]
    np.savez_compressed(
        directory / "digits.npz",
        handwritten=images[test].reshape(-1, 8, 8).astype(np.uint8),
        handwritten_digit=targets[test].astype(np.uint8),
        font=np.round(np.stack(sprites) * 255).astype(np.uint8),
        font_width=np.array([glyph.sprite.shape[1] for glyph in rendered], np.uint8),
        font_digit=np.array([glyph.digit for glyph in rendered], np.uint8),
        font_name=np.array([glyph.group for glyph in rendered]),
    )


def package_clips(directory: Path, recordings: Path) -> None:
    """Write one Ogg Vorbis file per synthesizer and clips.json."""
    recording, clips = load(recordings)
    pieces: dict[str, list[NDArray[np.int16]]] = {}
    length: dict[str, int] = {}
    index = []
    for clip in clips:
        file = f"{clip.synthesizer}.ogg"
        start = length.get(file, GAP)
        stop = start + clip.stop - clip.start
        pieces.setdefault(file, [np.zeros(GAP, np.int16)]).extend(
            [recording[clip.start : clip.stop], np.zeros(GAP, np.int16)]
        )
        length[file] = stop + GAP
        entry = {
            "text": clip.text,
            "expected": clip.expected,
            "synthesizer": clip.synthesizer,
            "voice": clip.voice,
        }
        index.append(entry | {"file": file, "start": start, "stop": stop})
    for file, parts in pieces.items():
        _write_ogg(directory / file, np.concatenate(parts))
    lines = ",\n".join(json.dumps(entry) for entry in index)
    (directory / "clips.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _write_ogg(path: Path, recording: NDArray[np.int16]) -> None:
    with soundfile.SoundFile(path, "w", 16000, 1, format="OGG", subtype="VORBIS", compression_level=0.75) as file:
        for start in range(0, len(recording), 16000 * 10):  # libsndfile overflows its stack on one large write
            file.write(recording[start : start + 16000 * 10])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    held_out_path().mkdir(exist_ok=True)
    package_digits(held_out_path())
    package_clips(held_out_path(), work / "speech-heldout.npz")
