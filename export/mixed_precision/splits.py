"""Which samples plans are judged on: none that they were calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from palmtop.export.measure.samples import Sample, SampleReader, later_questions
from palmtop.runtime.bundle.manifest import Manifest

JUDGED_EVERY = 4  # of a mode's samples the fourth, the eighth ... are not calibrated on: plans are judged on them
SPLIT_FROM = 8  # fewer samples serve both purposes
JUDGED_BESIDE = 800  # packaged samples of each mode that whole plans are judged on besides
CHOOSING = 4  # every so many-th of those helps to choose a plan; the others say what the chosen one loses
JUDGED_LOGITS_BYTES = 256 << 20  # of those
JUDGED_ALONE = 8  # of those, that every tensor is judged on by itself, twice; whole plans are on the others


def judged_of(samples: Sequence[Sample]) -> list[Sample]:
    """Of every mode those that plans are judged on; a mode with few samples gives all of them."""
    found: list[Sample] = []
    for mode in dict.fromkeys(sample.mode for sample in samples):
        own = [sample for sample in samples if sample.mode == mode]
        found += own[JUDGED_EVERY - 1 :: JUDGED_EVERY] if len(own) >= SPLIT_FROM else own
    return found


def judged_beside(folder: Path, manifest: Manifest, seen: int) -> list[Sample]:
    """More packaged samples to judge whole plans on: what they lose hangs on few tokens, so it takes many to tell.

    As many of each mode as the float model's logits have room for.

    Args:
        folder: of the float model.
        manifest: its own.
        seen: packaged samples of each mode that are used already.
    """
    reader, vocabulary = SampleReader(folder, manifest), manifest.decoder.vocab_size
    left = JUDGED_LOGITS_BYTES
    most = left // (4 * vocabulary * len(manifest.routes))  # each has a position at least
    count = min(JUDGED_BESIDE, most)
    by_mode = [later_questions([mode], seen, count, vocabulary) for mode in manifest.routes]  # pictures one by one
    found: list[Sample] = []
    for row in zip_longest(*by_mode):
        some = [reader.read(question) for question in row if question is not None]
        left -= 4 * vocabulary * sum(len(sample.positions) for sample in some)
        if left < 0:
            break
        found += some
    return found


def in_two(judged: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Those that single tensors are judged on, and others for whole plans.

    A solver takes what seems harmless on its samples; how harmless that is, other samples have to say.
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
    """Those that plans are chosen by, and those that say what the chosen one loses.

    The best of several on some samples was lucky there; most are kept for the verdict, because a few tokens hold most
    of a loss.
    """
    choosing: list[Sample] = []
    verdict: list[Sample] = []
    for mode in dict.fromkeys(sample.mode for sample in beside):
        own = [sample for sample in beside if sample.mode == mode]
        choosing += own[::CHOOSING]
        verdict += [sample for place, sample in enumerate(own) if place % CHOOSING]
    return choosing, verdict
