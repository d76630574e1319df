"""Calibration of a KV cache's scales: samples of every mode through the float model, one layer in memory at a time.

Media go through their encoders, and each sample through the adapters of its mode. Needs no torch; the samples are those
that quantisation calibrates on, or the user's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import CheckpointError
from palmtop.export.arch import Model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.graph.kv_cache import KvCache
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.layerwise import Live
from palmtop.export.measure.samples import Sample, SampleReader, packaged_questions, read_questions
from palmtop.export.measure.stages import Stage
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import DecoderSpec

from .ranges import ChannelRanges

ITEMS = 8  # number of packaged samples of each mode
LONGEST_SAMPLE = 2048  # tokens; attention to more at once would need gigabytes, and later keys are not longer
BATCH_BYTES = 256 << 20  # bytes of hidden states between two layers
LIVE_WIDTHS = 4  # vectors of the hidden size per token between two layers

Report = Callable[[str], None]
Run = tuple[Sample, bool]
"""A sample, and whether LongRoPE's long factors are used."""


def calibrated_cache(
    checkpoint: Checkpoint, model: Model, recipe: Recipe, samples: Path | None, report: Report | None = None
) -> KvCache:
    """Return the calibrated KV cache of 8 or 4 bits of a recipe.

    Args:
        checkpoint: checkpoint of the model.
        model: model with a float cache.
        recipe: recipe; its ``kv`` and adapters are used.
        samples: file of JSON lines; None for the packaged samples.
        report: called with a sentence on each step.

    Raises:
        InputError: samples cannot be used.
        CheckpointError: the float model's keys or values are not finite.
    """
    tell = report or (lambda _: None)
    with tempfile.TemporaryDirectory(prefix="palmtop-kv-") as temporary:
        folder = Path(temporary) / "float"
        tell("KV cache: float model")
        reference = FloatReference(folder, checkpoint, model, recipe)
        manifest = reference.manifest
        reader = SampleReader(folder, manifest)
        questions = (
            packaged_questions(list(manifest.routes), ITEMS, is_general=reader.is_general)
            if samples is None
            else read_questions(samples)
        )
        read = [reader.read(question) for question in questions]
        observer = CacheObserver(manifest.decoder, model.decoder.rope.rotary_size, read)
        observer.walk(reference, tell)
    return observer.cache(recipe.kv)


class CacheObserver:
    """Observer of the largest keys and values of every layer, in a walk of its own or in another's.

    Where LongRoPE changes its factors within the context, text is read with the long ones as well: the keys of a layer
    keep their lengths, but the input of the next layer changes.

    Attributes:
        runs: runs whose keys and values count; each at most as long as attention can hold at once.
        found: largest keys and values by layer.
    """

    def __init__(self, spec: DecoderSpec, rotary_size: int, samples: Sequence[Sample]) -> None:
        """Set up the observer; nothing is run yet.

        Args:
            spec: sizes of the decoder.
            rotary_size: leading channels of a head that rotate.
            samples: samples of every mode to be served.
        """
        self.found = [ChannelRanges(rotary_size) for _ in range(spec.num_layers)]
        has_long = spec.original_context is not None and spec.original_context < spec.context_length
        limit = min(LONGEST_SAMPLE, spec.context_length, spec.original_context or LONGEST_SAMPLE)
        cut: list[Run] = [(_cut(sample, limit), False) for sample in samples]
        self.runs = cut + [(sample, True) for sample, _ in cut if has_long and sample.mode == "text"]
        self._token_bytes = LIVE_WIDTHS * 4 * spec.hidden_size
        self._observed: set[int] = set()  # numbers of the runs in the present walk

    def cache(self, bits: int) -> KvCache:
        """Return a cache of so many bits with scales for the largest keys and values."""
        return KvCache(bits=bits, layers=tuple(each.scales(bits) for each in self.found))

    def walk(self, model: FloatReference, report: Report) -> None:
        """Read the runs, in batches whose hidden states fit into memory together.

        Raises:
            CheckpointError: a key or value is not finite.
        """
        read = [sample for sample, _ in self.runs]
        features = model.features(read, report=lambda at: report(f"KV cache: {at}"))
        for number, batch in enumerate(self._batches(), 1):
            lives = [_inputs(model, run, features) for run in batch]
            self._observed = set(range(len(lives)))
            begun = partial(_tell, report, number)
            model.walk("decoder", lives, [None] * len(lives), [self], begun)

    def join(
        self, model: FloatReference, samples: Sequence[Sample], features: Mapping[int, NDArray[np.float32]]
    ) -> list[Live]:
        """Observe a walk over other samples; return graph inputs of the runs that it lacks, for its end."""
        places = {id(sample): place for place, sample in enumerate(samples)}
        self._observed, more = set(), list[Live]()
        for run in self.runs:
            sample, is_long = run
            place = None if is_long else places.get(id(sample))
            if place is None:
                place = len(samples) + len(more)
                more.append(_inputs(model, run, features))
            self._observed.add(place)
        return more

    def values(self, stage: Stage) -> list[str]:
        """Return the keys and values of the stage."""
        return sorted(name for name in stage.made if name.startswith("present."))

    def observe(self, run: int, stage: Stage, found: Live) -> None:
        """Add the keys and values of one run.

        Raises:
            CheckpointError: one of them is not finite.
        """
        if run not in self._observed:
            return
        for layer in sorted({int(name.split(".")[1]) for name in self.values(stage)}):
            key, value = found[f"present.{layer}.key"], found[f"present.{layer}.value"]
            if not (np.isfinite(key).all() and np.isfinite(value).all()):
                raise CheckpointError(f"layer {layer}: keys or values are not finite, expected numbers to scale")
            self.found[layer].add(key, value)

    def end_stage(self) -> None:
        """Do nothing: the largest values are all that is kept."""

    def _batches(self) -> Iterator[list[Run]]:
        """Batches of runs whose hidden states fit into memory together."""
        batch: list[Run] = []
        filled = 0
        for sample, is_long in self.runs:
            size = len(sample.input_ids) * self._token_bytes
            if batch and filled + size > BATCH_BYTES:
                yield batch
                batch, filled = [], 0
            batch.append((sample, is_long))
            filled += size
        if batch:
            yield batch


def _tell(report: Report, batch: int, at: str) -> None:
    report(f"KV cache: batch {batch}, {at}")


def _inputs(model: FloatReference, run: Run, features: Mapping[int, NDArray[np.float32]]) -> Live:
    sample, is_long = run
    live = model.decoder_inputs(sample, [features[id(item)] for item in sample.media])
    return live | {"rope_long": np.array([is_long])}


def _cut(sample: Sample, tokens: int) -> Sample:
    """The sample, or its first tokens: earlier keys do not depend on later ones."""
    if len(sample.input_ids) <= tokens:
        return sample
    return replace(sample, input_ids=sample.input_ids[:tokens], places=sample.places[:tokens])
