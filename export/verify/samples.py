"""Packaged questions as decoder inputs: rendered, tokenised, their media encoded by a bundle's own encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palmtop.export.measure.onnx_decoder import ProbeInput
from palmtop.runtime.bundle.manifest import MODES, Manifest
from palmtop.runtime.media.encoder_runner import Encoders
from palmtop.runtime.processor import Processor
from palmtop.runtime.processor.text import expand_media
from palmtop.runtime.reference.heldout import held_out_items

SEED = 7


def packaged_messages(modes: Sequence[str], count: int) -> Iterator[tuple[str, list[Mapping[str, Any]], str]]:
    """``count`` questions of every mode from the packaged held-out set, as (mode, messages, right answer)."""
    for mode in (m for m in MODES if m in modes):
        for item in held_out_items(mode, count, SEED):  # type: ignore[arg-type]
            yield mode, list(item.messages), item.expected


class SampleReader:
    """Turns messages into probe inputs with one bundle's processors and encoders."""

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
        """What tokens say."""
        return self._processor.text.decode(tokens)

    def read(self, mode: str, messages: Sequence[Mapping[str, Any]]) -> ProbeInput:
        """One prompt.

        Raises:
            InputError: the messages do not fit the model.
        """
        prompt = self._processor.prompt(messages)
        features = []
        use_vision_projector = self._manifest.routes[mode].audio_projector == "vision"
        for place in prompt.media:
            if place.item.kind == "image":
                features.append(self._encoders.encode_image(self._processor.tiles(place.item)))
            else:
                mel = self._processor.log_mel(place.item)
                features.append(self._encoders.encode_audio(mel, use_vision_projector))
        ids, places = expand_media(prompt, [len(f) for f in features])
        empty = np.zeros((1, self._manifest.decoder.hidden_size), np.float32)
        return ProbeInput(
            mode=mode,
            input_ids=ids,
            media_places=places,
            features=np.concatenate(features) if features else empty,
        )
