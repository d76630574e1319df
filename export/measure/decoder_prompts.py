"""Prompts for the comparison of bundle and checkpoint, as messages and as decoder inputs.

They are the packaged model's own tasks for models of its vocabulary, general requests for others, or a user's file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palmtop.errors import InputError
from palmtop.export.measure.onnx_decoder import DecoderPrompt
from palmtop.runtime.bundle.manifest import MODES, Manifest
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.chat.routing import mode_of
from palmtop.runtime.evaluate import read_samples
from palmtop.runtime.media.encoder_runner import Encoders
from palmtop.runtime.processor import Processor
from palmtop.runtime.reference import has_packaged_vocabulary
from palmtop.runtime.reference.general_prompts import general_messages
from palmtop.runtime.reference.heldout import TASKS, held_out_items

SEED = 7

Question = tuple[str, list[Mapping[str, Any]], str]
"""Mode, messages, and the right answer; empty where none is known."""


def chosen_questions(bundle: Bundle, count: int, samples: Path | None = None) -> list[Question]:
    """Return the questions for a bundle.

    Args:
        bundle: bundle to be compared.
        count: questions of each mode; of a file all are used.
        samples: file of JSON lines with messages, and expected answers where they are known.

    Raises:
        InputError: the file cannot be read, a line is not a sample, or the model does not serve its mode.
    """
    if samples is not None:
        return list(_own_questions(bundle, samples))
    if has_packaged_vocabulary(bundle.path / "tokenizer.json"):
        return list(packaged_messages(bundle.manifest.modes, count))
    modes = [m for m in TASKS if m in bundle.manifest.modes]
    return [(m, list(q), "") for m in modes for q in general_messages(m, count, SEED)]


def _own_questions(bundle: Bundle, samples: Path) -> Iterator[Question]:
    processor = Processor(bundle.manifest.processor, bundle.path)
    for number, sample in enumerate(read_samples(samples), 1):
        kinds = {place.item.kind for place in processor.prompt(sample.messages).media}
        mode = mode_of(has_image="image" in kinds, has_audio="audio" in kinds)
        if mode not in bundle.manifest.modes:
            modes = ", ".join(bundle.manifest.modes)
            raise InputError(f"{samples}: sample {number} is '{mode}', the model serves {modes}")
        yield mode, list(sample.messages), sample.expected


def packaged_messages(modes: Sequence[str], count: int) -> Iterator[tuple[str, list[Mapping[str, Any]], str]]:
    """Return ``count`` questions of every mode from the packaged held-out set, as (mode, messages, right answer)."""
    for mode in (m for m in MODES if m in modes):
        for item in held_out_items(mode, count, SEED):  # type: ignore[arg-type]
            yield mode, list(item.messages), item.expected


class SampleReader:
    """Reader that turns messages into decoder inputs with one bundle's processors and encoders."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._manifest = manifest
        self.eos_ids = manifest.processor.text.eos_ids
        self._processor = Processor(manifest.processor, folder)
        self._encoders = Encoders(
            None if manifest.vision is None else folder / manifest.vision.file,
            None if manifest.audio is None else folder / manifest.audio.file,
            manifest.processor,
            keep=True,
        )

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self._processor.text.decode(tokens)

    def read(self, mode: str, messages: Sequence[Mapping[str, Any]]) -> DecoderPrompt:
        """Return the decoder inputs of one prompt, cut to the bundle's context.

        Raises:
            InputError: the messages do not fit the model.
        """
        prompt = self._processor.prompt(messages)
        features, segments = [], []
        use_vision_projector = self._manifest.routes[mode].audio_projector == "vision"
        for place in prompt.media:
            if place.item.kind == "image":
                tiles = self._processor.tiles(place.item)
                features.append(self._encoders.encode_image(tiles))
                segments.append(tiles.segments)
            else:
                sound = self._processor.sound(place.item)
                features.append(self._encoders.encode_audio(sound, use_vision_projector))
                segments.append(sound.segments)
        ids, places = self._processor.text.expand(prompt, segments)
        most = self._manifest.decoder.context_length
        empty = np.zeros((1, self._manifest.decoder.hidden_size), np.float32)
        return DecoderPrompt(
            mode=mode,
            input_ids=ids[:most],
            media_places=places[:most],
            features=np.concatenate(features) if features else empty,
        )
