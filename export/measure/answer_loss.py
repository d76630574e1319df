"""Loss of known answers with a bundle's adapters: teacher-forced cross entropy of the answers' tokens, by adapter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.export.measure.divergence import log_softmax
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.chat.routing import Wanted, choose, mode_of
from palmtop.runtime.processor import Processor

from .decoder_prompts import SampleReader

BASE = "none"


class Sample(Protocol):
    """Interface of a question with its right answer (``runtime.evaluate.Question``)."""

    @property
    def task(self) -> str:
        """Name of the task."""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """Messages of the question."""

    @property
    def expected(self) -> str:
        """The right answer."""


def answer_losses(
    bundle: Bundle, samples: Iterable[Sample], requests: Mapping[str, Wanted], *, graph: bytes | None = None
) -> dict[str, dict[str, float]]:
    """Return the mean loss in nats per token, the end of the answer included, each sample weighing the same.

    Args:
        bundle: bundle with every adapter that a request names.
        samples: questions with answers.
        requests: adapters to switch on, by label.
        graph: decoder with more adapters than the bundle's file; the bundle's manifest must have them.

    Returns:
        Losses by label and task; the task "all" is the mean over all samples.

    Raises:
        InputError: a message cannot be read, or the bundle lacks an adapter.
    """
    manifest = bundle.manifest
    probe = OnnxDecoder(bundle.file(manifest.decoder.file), manifest.decoder, graph=graph)
    reader, text = SampleReader(bundle.path, manifest), Processor(manifest.processor, bundle.path).text
    found: dict[str, dict[str, list[float]]] = {label: {} for label in requests}
    for sample in samples:
        mode = _mode(sample.messages)
        prompt = reader.read(mode, sample.messages)
        answer = np.array([*text.encode(sample.expected), manifest.processor.text.answer_end], np.int64)
        for label, wanted in requests.items():
            gates = choose(manifest, mode, wanted).gates(manifest)
            loss = _loss(probe, prompt, gates, answer)
            for task in (sample.task, "all"):
                found[label].setdefault(task, []).append(loss)
    return {label: {task: float(np.mean(v)) for task, v in tasks.items()} for label, tasks in found.items()}


def _loss(probe: OnnxDecoder, prompt: DecoderPrompt, gates: NDArray[np.float32], answer: NDArray[np.int64]) -> float:
    chances = log_softmax(probe.logits(prompt, gates, answer))
    return float(-chances[np.arange(len(answer)), answer].mean())


def _mode(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the mode by the parts' types; a message of another shape is refused where it is read."""
    parts = [p for m in messages if isinstance(m.get("content"), list) for p in m["content"] if isinstance(p, Mapping)]
    kinds = {str(part.get("type", "")).removesuffix("_url").removeprefix("input_") for part in parts}
    return mode_of(has_image="image" in kinds, has_audio="audio" in kinds)
