"""Calibration of float graphs of fixed shapes: ranges of every value, and one run of each for comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count as counted
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.export.measure.samples import MediaInput, Sample
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.processor_config import AudioSpec, ProcessorSpec
from palmtop.runtime.bundle.targets import StaticRoute, StaticSpec
from palmtop.runtime.chat.routing import gates_of
from palmtop.runtime.decoding.decoder import DecoderInputs
from palmtop.runtime.processor.images import static_image_feeds
from palmtop.runtime.processor.sounds import static_sound_feeds, static_steps
from palmtop.runtime.providers.static_decoder import StaticDecoder

from .ranges import Feeds, Measured, Range

Arrays = dict[str, NDArray[Any]]


@dataclass(slots=True)
class Calibrated:
    """Calibration result of one graph.

    Attributes:
        ranges: lowest and highest of every float value.
        feeds: inputs of one run.
        outputs: float32 outputs of that run.
    """

    ranges: dict[str, Range] = field(default_factory=dict)
    feeds: Feeds = field(default_factory=dict)
    outputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, measured: Measured, feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        """Run the graph once more and widen its ranges."""
        outputs = measured.run(feeds, self.ranges)
        if not self.feeds:
            self.feeds, self.outputs = dict(feeds), outputs
        return outputs


class EncoderCalibration:
    """Float encoders under calibration; they also give the features for the decoder's calibration.

    Attributes:
        found: result by graph: "vision", "audio", "audio.64".
    """

    def __init__(self, graphs: Mapping[str, Path], spec: ProcessorSpec) -> None:
        """Load float graphs by name."""
        self.found = {name: Calibrated() for name in graphs}
        self._measured = {name: Measured(path) for name, path in graphs.items()}
        self._spec = spec

    def features(self, media: MediaInput) -> NDArray[np.float32]:
        """Return the feature rows of an image or a sound, [rows, H]."""
        if media.part == "vision":
            measured, found = self._measured["vision"], self.found["vision"]
            assert self._spec.image is not None  # an image is always read with it
            feeds = [static_image_feeds(view, self._spec.image, measured.shapes) for view in media.feeds]
            return media.features([found.add(measured, one) for one in feeds])
        assert self._spec.audio is not None  # likewise
        return np.concatenate([self._window(feeds, self._spec.audio) for feeds in media.feeds])

    def _window(self, feeds: Mapping[str, NDArray[Any]], spec: AudioSpec) -> NDArray[np.float32]:
        """Run one window through every graph that is long enough; return rows of the last."""
        output = "features_vision" if int(feeds["projector"][0]) else "features_speech"
        needed, rows = static_steps(feeds, spec), np.zeros((0, 0), np.float32)
        for name in (n for n in self.found if n.startswith("audio")):
            steps = self._measured[name].shapes["key_bias"][3]
            if steps >= needed:
                own, count = static_sound_feeds(feeds, spec, steps)
                rows = self.found[name].add(self._measured[name], own)[output][:count]
        return rows


class DecoderCalibration:
    """Float graphs of the decoder under calibration, for every route, run on questions with answers (``StaticGraphs``).

    Attributes:
        found: result by file.
    """

    def __init__(self, folder: Path, spec: StaticSpec, manifest: Manifest) -> None:
        """Set up the calibration; nothing is loaded yet.

        Args:
            folder: folder of the float graphs.
            spec: description of the graphs.
            manifest: manifest of the bundle, with routes and sizes.
        """
        self.found: dict[str, Calibrated] = {}
        self._folder, self._spec, self._manifest = folder, spec, manifest
        self._embedding = Measured(folder / spec.embedding)
        self._open: dict[str, Measured] = {}

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows of the embedding table: [1, S] -> [1, S, H]."""
        rows: NDArray[np.float32] = self._embedding.run({"input_ids": ids}, {})["rows"]
        return rows

    def run(self, route: StaticRoute, role: str, feeds: Arrays) -> Mapping[str, NDArray[np.float32]]:
        """Run a graph of the route and widen its ranges."""
        file = getattr(route, role)
        for other in self._open.keys() - {route.prefill, route.decode}:
            del self._open[other]
        if file not in self._open:
            self._open[file] = Measured(self._folder / file)
        # A run with rows in its cache: the first run's cache is empty.
        found = self.found.setdefault(file, Calibrated())
        outputs = found.add(self._open[file], feeds)
        return {name: np.array(array) for name, array in outputs.items()}

    def read(self, sample: Sample, features: Sequence[NDArray[np.float32]]) -> None:
        """Run one sample: its prompt in chunks, its answer token by token."""
        prompt = (
            int(sample.positions[0]) + 1 if sample.media or len(sample.positions) < len(sample.input_ids) - 1 else 0
        )
        ids = sample.input_ids[: self._spec.context].astype(np.int32)
        prompt = min(prompt or len(ids) // 2, len(ids))
        decoder = StaticDecoder(self, self._spec, self._manifest, self._inputs(sample, features))
        decoder.append(ids[:prompt])
        for place in range(prompt, len(ids)):
            decoder.append(ids[place : place + 1])

    def _inputs(self, sample: Sample, features: Sequence[NDArray[np.float32]]) -> DecoderInputs:
        gates = gates_of(self._manifest, self._manifest.routes[sample.mode].adapters)
        hidden = self._manifest.decoder.hidden_size
        rows = np.concatenate(features) if features else np.zeros((1, hidden), np.float32)
        places = np.zeros(self._spec.context, np.int64)
        kept = sample.places[: self._spec.context]
        places[: len(kept)] = kept
        return DecoderInputs(
            media_index=places,
            media_features=rows,
            adapter_gates=gates if len(gates) else None,
            rope_long=np.zeros(1, np.bool_) if self._manifest.decoder.original_context is not None else None,
        )


def calibrate(samples: Iterable[Sample], encoders: EncoderCalibration, decoder: DecoderCalibration | None) -> int:
    """Run every sample through encoders and decoder.

    Returns:
        The number of samples.
    """
    number = 0
    for number, sample in zip(counted(1), samples, strict=False):  # noqa: B007 - the last one is the count
        features = [encoders.features(media) for media in sample.media]
        if decoder is not None:
            decoder.read(sample, features)
    return number
