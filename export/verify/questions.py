"""Questions for two models at once: the same tokens, and media encoded by each model's own encoders."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from palmtop.export.checkpoint.tokenizer_files import TOKENIZER_FILE
from palmtop.export.measure.decoder_prompts import Question
from palmtop.export.measure.decoder_runner import DecoderRunner, Run
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.onnx_decoder import DecoderPrompt
from palmtop.export.measure.samples import Question as Line
from palmtop.export.measure.samples import Sample, SampleReader
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.chat.routing import gates_of
from palmtop.runtime.reference import has_packaged_vocabulary

from .comparison import GENERAL_STEPS, STEPS, Pair

MOST_WORK = 60e12  # multiply-adds of the float decoder; more of them reduce the number of questions of each mode
MOST_LOGITS_BYTES = 2e9  # logits of all models, which are kept until they are compared; more reduce the number too
SMALL = 250e6  # parameters of a model that is loaded whole to answer questions without a known answer
KEPT = 4  # sets of logits of a question for each setting of the gates: of the models that are compared
EVERY_STAGE = 1 << 20

Report = Callable[[str], None]
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """One question for both models.

    Attributes:
        sample: the question as read for calibration.
        tokens: [T] first tokens of the right answer, its end included; if none is known, the float reference's own, for
            a large model the end of the question.
        pair: the prompt with the float encoders' feature rows, and with the bundle's.
    """

    sample: Sample
    tokens: NDArray[np.int64]
    pair: Pair

    @property
    def mode(self) -> str:
        """Mode of the input."""
        return self.sample.mode


def ask(
    bundle: Bundle,
    reference: FloatReference,
    questions: Sequence[Question],
    parameters: int,
    report: Report,
) -> tuple[list[Asked], bool]:
    """Read questions, and encode their media with both models' encoders.

    Args:
        bundle: bundle to be compared.
        reference: float reference of its checkpoint.
        questions: equally many questions of each mode.
        parameters: parameters of the decoder.
        report: called with a sentence on each step.

    Returns:
        The questions, and whether a large model gets fewer of them: rounds of one question a mode, up to a limit of
        work; at least the first round.
    """
    reader = SampleReader(reference.folder, reference.manifest)
    end = reference.manifest.processor.text.answer_end
    steps = STEPS if has_packaged_vocabulary(bundle.path / TOKENIZER_FILE) else GENERAL_STEPS
    by_mode: dict[str, list[Sample]] = {}
    for mode, messages, expected in questions:
        by_mode.setdefault(mode, []).append(reader.read(Line(mode=mode, messages=messages, answer=expected)))
    taken: list[Sample] = []
    is_limited, work, kept = False, 0.0, 0.0
    variants = 1 + len(reference.manifest.adapters) // 2
    for number in range(max(map(len, by_mode.values()), default=0)):
        some = [samples[number] for samples in by_mode.values() if number < len(samples)]
        work += parameters * variants * sum(len(sample.input_ids) for sample in some)
        kept += 4 * reference.manifest.decoder.vocab_size * steps * KEPT * variants * len(some)
        if work > MOST_WORK or kept > MOST_LOGITS_BYTES:
            is_limited = True
            if number:
                break
        taken += some
    taken.sort(key=lambda sample: list(by_mode).index(sample.mode))
    own = FloatReference.of_files(bundle.path, bundle.manifest)
    features = [encoded(model, taken, report, what) for model, what in ((reference, "float"), (own, "bundle's"))]
    asked = []
    for sample in taken:
        start, tokens = continuation(sample, end, steps)
        if parameters <= SMALL and int(sample.positions[0]) + 1 >= len(sample.input_ids):  # no answer is known
            start, tokens = len(sample.input_ids), tokens[:0]
        pair = tuple(
            DecoderPrompt(
                mode=sample.mode,
                input_ids=sample.input_ids[:start],
                media_places=sample.places[:start],
                features=rows_for(found, sample, bundle.manifest.decoder.hidden_size),
            )
            for found in features
        )
        asked.append(Asked(sample=sample, tokens=tokens, pair=(pair[0], pair[1])))
    if any(not len(each.tokens) for each in asked):
        asked = _answered(asked, reference, steps)
    return asked, is_limited


def continuation(sample: Sample, end: int, steps: int) -> tuple[int, NDArray[np.int64]]:
    """Return the length of a sample's prompt, and the tokens behind it that both models read, at most ``steps``.

    They are the right answer's first tokens; where none is known, the end of the question itself.
    """
    start = min(int(sample.positions[0]) + 1, len(sample.input_ids))
    if start == len(sample.input_ids):
        media = np.flatnonzero(sample.places)
        start = max(1, start - steps + 1, int(media[-1]) + 1 if len(media) else 0)
    return start, np.append(sample.input_ids[start:], end)[:steps]


def _answered(asked: Sequence[Asked], reference: FloatReference, steps: int) -> list[Asked]:
    """Questions without a known answer, with the float reference's greedy one."""
    open_questions = [each for each in asked if not len(each.tokens)]
    manifest = reference.manifest
    runs = [
        Run(prompt=each.pair[0], gates=gates_of(manifest, manifest.routes[each.mode].adapters), tokens=each.tokens)
        for each in open_questions
    ]
    context = manifest.decoder.context_length
    whole = reference.with_sessions(EVERY_STAGE).graphs["decoder"]
    answers = iter(DecoderRunner(whole).greedy(runs, steps, manifest.processor.text.eos_ids, context))
    return [each if len(each.tokens) else replace(each, tokens=next(answers)) for each in asked]


def encoded(model: FloatReference, samples: Sequence[Sample], report: Report, what: str) -> dict[int, Logits]:
    """Return the feature rows of every image and sound by its identity, [rows, H]."""
    found: dict[int, Logits] = {}
    for part in ("vision", "audio"):
        media = {id(item): item for sample in samples for item in sample.media if item.part == part}
        if media:
            report(f"{what} {part} encoder")
            found |= dict(zip(media, model.encode(list(media.values())), strict=True))
            model.graphs[part].close()
    return found


def rows_for(features: Mapping[int, Logits], sample: Sample, width: int) -> Logits:
    """Return the rows of a whole prompt, [rows, H], at least one row."""
    rows = [features[id(item)] for item in sample.media]
    return np.concatenate(rows) if rows else np.zeros((1, width), np.float32)


def clock(report: Report, what: str) -> Callable[[int, int], None]:
    """Return a reporter of stages done, with the time that is left."""
    started = time.perf_counter()
    report(what)

    def tell(done: int, total: int) -> None:
        left = (time.perf_counter() - started) / done * (total - done)
        report(f"{what}: layer {done} of {total}, about {left:.0f} s left")

    return tell
