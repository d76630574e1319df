"""Splits of the samples: those that measure plans are not those that calibrate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from palmtop.export.measure.samples import Sample, SampleReader, later_questions
from palmtop.runtime.bundle.manifest import Manifest

JUDGED_EVERY = 4  # every fourth sample of a mode is not used for calibration: plans are measured on it
SPLIT_FROM = 8  # fewer samples serve both purposes
JUDGED_BESIDE = 800  # further packaged samples of each mode that measure whole plans
CHOOSING = 4  # every n-th of those chooses between plans; the others measure the chosen one
JUDGED_LOGITS_BYTES = 256 << 20  # bytes of the logits of those
JUDGED_ALONE = 8  # of those, samples that measure every tensor by itself, twice; whole plans use the others


def judged_of(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples of every mode that measure plans; a mode with few samples gives all of them."""
    found: list[Sample] = []
    for mode in dict.fromkeys(sample.mode for sample in samples):
        own = [sample for sample in samples if sample.mode == mode]
        found += own[JUDGED_EVERY - 1 :: JUDGED_EVERY] if len(own) >= SPLIT_FROM else own
    return found


def judged_beside(folder: Path, manifest: Manifest, seen: int) -> list[Sample]:
    """Return further packaged samples to measure whole plans on: their loss depends on few tokens, so it takes many.

    The number for each mode is limited by the memory of the float model's logits.

    Args:
        folder: folder of the float model.
        manifest: manifest of the float model.
        seen: number of packaged samples of each mode that are in use already.
    """
    reader, vocabulary = SampleReader(folder, manifest), manifest.decoder.vocab_size
    left = JUDGED_LOGITS_BYTES
    most = left // (4 * vocabulary * len(manifest.routes))  # each has at least one position
    count = min(JUDGED_BESIDE, most)
    by_mode = [
        later_questions([mode], seen, count, is_general=reader.is_general) for mode in manifest.routes
    ]  # one image at a time
    found: list[Sample] = []
    for row in zip_longest(*by_mode):
        some = [reader.read(question) for question in row if question is not None]
        left -= 4 * vocabulary * sum(len(sample.positions) for sample in some)
        if left < 0:
            break
        found += some
    return found


def in_two(judged: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return the samples that measure single tensors, and others for whole plans.

    A solver takes changes that seem harmless on its samples; their real loss needs other samples.
    """
    alone: list[Sample] = []
    together: list[Sample] = []
    for mode in dict.fromkeys(sample.mode for sample in judged):
        own = [sample for sample in judged if sample.mode == mode]
        count = min(JUDGED_ALONE, len(own) // 2)
        alone += own[:count] or own
        together += own[count:]
    return alone, together


def in_turns(beside: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return the samples that choose between plans, and those that measure the chosen one.

    The best of several plans on some samples is partly chance; most samples are kept for the final measurement, because
    few tokens hold most of a loss.
    """
    choosing: list[Sample] = []
    verdict: list[Sample] = []
    for mode in dict.fromkeys(sample.mode for sample in beside):
        own = [sample for sample in beside if sample.mode == mode]
        choosing += own[::CHOOSING]
        verdict += [sample for place, sample in enumerate(own) if place % CHOOSING]
    return choosing, verdict
