from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError
from palmtop.runtime.processor import AudioSpec, ImageSpec, Processor, ProcessorSpec, TextSpec
from palmtop.runtime.processor.content import MediaItem
from palmtop.runtime.processor.sounds.log_mel import LogMel
from palmtop.runtime.reference import checkpoint_path

TEXT = TextSpec(
    bos_id=None,
    eos_ids=(),
    end_of_turn_id=None,
    pad_id=0,
    adds_bos=False,
    image_placeholder="<|image_{n}|>",
    audio_placeholder="<|audio_{n}|>",
)


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, palmtop.runtime.processor as p;"
        "p.Processor(None, '/nowhere');"
        "heavy = 'PIL', 'librosa', 'soxr', 'soundfile', 'tokenizers', 'jinja2', 'numpy';"
        "print([name for name in heavy if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_a_bundle_without_a_template_is_refused(tmp_path: Path) -> None:
    processor = Processor(ProcessorSpec(text=TEXT, image=None, audio=None), tmp_path)
    with pytest.raises(BundleError, match=r"chat_template\.jinja: cannot be read"):
        processor.prompt([{"role": "user", "content": "hi"}])


def test_media_become_encoder_inputs(
    tmp_path: Path, tiny_spec: ImageSpec, audio_spec: AudioSpec, photo: NDArray[np.uint8]
) -> None:
    processor = Processor(ProcessorSpec(text=TEXT, image=tiny_spec, audio=audio_spec), tmp_path)
    tiles = processor.tiles(MediaItem(kind="image", number=1, source=photo[:56, :112]))
    assert tiles.pixels.shape == (3, 3, 56, 56)
    assert tiles.rows == 2 * 5 + 1 + 2 * 3
    sound = processor.sound(MediaItem(kind="audio", number=1, source=(np.zeros(48000, np.int16), 48000)))
    assert isinstance(sound, LogMel)
    assert sound.frames.shape == (98, 80)
    assert sound.segments == (13,)


def test_media_for_a_model_without_are_refused(tmp_path: Path) -> None:
    processor = Processor(ProcessorSpec(text=TEXT, image=None, audio=None), tmp_path)
    with pytest.raises(InputError, match="expected an image and a model that takes images"):
        processor.tiles(MediaItem(kind="image", number=1, source="a.png"))
    with pytest.raises(InputError, match="expected a sound and a model that takes sounds"):
        processor.sound(MediaItem(kind="audio", number=1, source="a.wav"))


def test_the_reference_bundle_makes_a_prompt(tmp_path: Path, tiny_spec: ImageSpec) -> None:
    import json
    from dataclasses import replace

    checkpoint = checkpoint_path()
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    template = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    (tmp_path / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    image = replace(tiny_spec, token_id=ids["<|endoftext10|>"])
    processor = Processor(ProcessorSpec(text=TEXT, image=image, audio=None), tmp_path)
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]
    prompt = processor.prompt([{"role": "user", "content": parts}])
    assert prompt.ids[:2].tolist() == [ids["<|user|>"], ids["<|endoftext10|>"]]
    assert processor.text.decode(prompt.ids.tolist()) == "What is it?"
