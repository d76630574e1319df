"""Calibration of a KV cache's scales: samples of every mode through the float model, one layer in memory at a time.

Media go through their encoders, and each sample through the adapters of its mode. Needs no torch; the samples are those
that quantisation calibrates on, or the user's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import CheckpointError
from palmtop.export.arch import Model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.graph.kv_cache import KvCache
from palmtop.export.measure.float_reference import FloatReference, feature_rows
from palmtop.export.measure.layerwise import Live
from palmtop.export.measure.samples import MediaInput, Sample, SampleReader, packaged_questions, read_questions
from palmtop.export.recipe import Recipe

from .ranges import ChannelRanges

ITEMS = 8  # number of packaged samples of each mode
LONGEST_SAMPLE = 2048  # tokens; attention to more at once would need gigabytes, and later keys are not longer
BATCH_BYTES = 256 << 20  # bytes of hidden states between two layers
LIVE_WIDTHS = 4  # vectors of the hidden size per token between two layers

Report = Callable[[str], None]


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
        found = envelopes(reference, read, model.decoder.rope.rotary_size, tell)
    return KvCache(bits=recipe.kv, layers=tuple(each.scales(recipe.kv) for each in found))


def envelopes(
    model: FloatReference, samples: Sequence[Sample], rotary_size: int, report: Report | None = None
) -> list[ChannelRanges]:
    """Return the largest keys and values by layer.

    Where LongRoPE changes its factors within the context, text is read with the long ones as well: the keys of a layer
    keep their lengths, but the input of the next layer changes.

    Raises:
        CheckpointError: a key or value is not finite.
    """
    tell = report or (lambda _: None)
    features = _features(model, samples, tell)
    spec = model.manifest.decoder
    found = [ChannelRanges(rotary_size) for _ in range(spec.num_layers)]
    has_long = spec.original_context is not None and spec.original_context < spec.context_length
    limit = min(LONGEST_SAMPLE, spec.context_length, spec.original_context or LONGEST_SAMPLE)
    runs = [(_cut(sample, limit), False) for sample in samples]
    runs += [(sample, True) for sample, _ in runs if has_long and sample.mode == "text"]
    for number, batch in enumerate(_batches(runs, LIVE_WIDTHS * 4 * spec.hidden_size), 1):
        lives = []
        for sample, is_long in batch:
            live = model.decoder_inputs(sample, [features[id(m)] for m in sample.media])
            lives.append(live | {"rope_long": np.array([is_long])})
        _walk(model, lives, found, partial(_tell_layer, tell, number))
    return found


def _tell_layer(tell: Report, batch: int, layer: int) -> None:
    tell(f"KV cache: batch {batch}, layer {layer}")


def _walk(model: FloatReference, lives: list[Live], found: list[ChannelRanges], tell: Callable[[int], None]) -> None:
    """Run one layer after the other over all runs, until the keys and values of the last one are known."""
    graph = model.graphs["decoder"]
    layers = [sorted(int(name.split(".")[1]) for name in s.made if name.startswith("present.")) for s in graph.stages]
    last = max(number for number, there in enumerate(layers) if there)
    for number, stage in enumerate(graph.stages[: last + 1]):
        shown = sorted(set(layers[number]))
        wanted = [f"present.{layer}.{which}" for layer in shown for which in ("key", "value")]
        for layer in shown:
            tell(layer)
        for live in lives:
            made = model.step("decoder", number, live, exposed=wanted)
            for layer in shown:
                key, value = made[f"present.{layer}.key"], made[f"present.{layer}.value"]
                if not (np.isfinite(key).all() and np.isfinite(value).all()):
                    raise CheckpointError(f"layer {layer}: keys or values are not finite, expected numbers to scale")
                found[layer].add(key, value)
            live |= {name: made[name] for name in stage.outputs}
            graph.forget(live, number, keep_outputs=False)
    graph.close()


def _features(model: FloatReference, samples: Iterable[Sample], tell: Report) -> dict[int, NDArray[np.float32]]:
    """Feature rows of every image and sound, by its identity."""
    found: dict[int, NDArray[np.float32]] = {}
    media = {id(m): m for sample in samples for m in sample.media}
    for part in ("vision", "audio"):
        own: dict[int, MediaInput] = {key: item for key, item in media.items() if item.part == part}
        if not own:
            continue
        tell(f"KV cache: {part} encoder")
        lives: list[Live] = [dict(feeds) for item in own.values() for feeds in item.feeds]
        model.walk(part, lives, [None] * len(lives), lambda *_: None, lambda: None)
        found |= feature_rows(own, lives)
    return found


def _batches(runs: Sequence[tuple[Sample, bool]], token_bytes: int) -> Iterator[list[tuple[Sample, bool]]]:
    """Batches of runs whose hidden states fit into memory together."""
    batch: list[tuple[Sample, bool]] = []
    filled = 0
    for sample, is_long in runs:
        size = len(sample.input_ids) * token_bytes
        if batch and filled + size > BATCH_BYTES:
            yield batch
            batch, filled = [], 0
        batch.append((sample, is_long))
        filled += size
    if batch:
        yield batch


def _cut(sample: Sample, tokens: int) -> Sample:
    """At most as many tokens as attention can hold at once; the first keys do not depend on later ones."""
    return replace(sample, input_ids=sample.input_ids[:tokens], places=sample.places[:tokens])
