"""Text of a context's length: prose, or dialogues for a model without a general vocabulary."""

from __future__ import annotations

from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from palmtop.export.measure.samples import SampleReader, packaged_questions
from palmtop.runtime.bundle.opening import Bundle

MOST = 512  # questions or passages before they repeat
CALIBRATED = 32  # the first of them may have been used for calibration


def long_text(bundle: Bundle, tokens: int) -> NDArray[np.int64]:
    """Return token ids, [tokens], of packaged passages, one after the other, or of questions with their answers.

    Prose for a general vocabulary: only passages are used then.
    """
    manifest = bundle.manifest
    reader = SampleReader(bundle.path, manifest)
    questions = list(packaged_questions(["text"], MOST, is_general=reader.is_general))
    prose = [question for question in questions if not question.messages]
    ids: list[int] = []
    for question in cycle(list(islice(prose or questions, CALIBRATED, None)) or questions):
        ids += reader.read(question).input_ids.tolist()
        if question.messages:
            ids.append(manifest.processor.text.answer_end)
        if len(ids) >= tokens:
            return np.array(ids[:tokens], np.int64)
    raise AssertionError("a cycle has no end")
