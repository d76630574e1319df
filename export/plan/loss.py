"""What a change of weights does to the answers: KL divergence from the float model, by mode of input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .float_model import Changed, FloatModel, log_softmax, rows_of
from .samples import Sample
from .stages import Live


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How far changed weights lead from the float model.

    Attributes:
        kl: by mode, the mean of KL(float || changed) over positions, in nats.
        top1: by mode, the share of positions with the same most likely token.
    """

    kl: Mapping[str, float]
    top1: Mapping[str, float]

    @property
    def mean_kl(self) -> float:
        """Of the modes, each with the same weight."""
        return float(np.mean(list(self.kl.values())))

    @property
    def mean_top1(self) -> float:
        """Likewise."""
        return float(np.mean(list(self.top1.values())))


class LossMeter:
    """Judges changed weights on samples; what the float model does up to the first change is kept."""

    def __init__(self, model: FloatModel, samples: Sequence[Sample]) -> None:
        """Run the float model.

        Args:
            model: kept open; as many stages stay loaded as it was told.
            samples: all of whose positions are judged.
        """
        self._model = model
        self._samples = samples
        decoder = model.graphs["decoder"]
        self._features = {id(m): model.encode(m) for s in samples for m in s.media}
        self._before: list[list[Live]] = [[] for _ in decoder.stages]  # by stage and sample: what it reads
        self._expected: list[NDArray[np.float32]] = []
        lives = [model.decoder_inputs(s, [self._features[id(m)] for m in s.media]) for s in samples]
        for number, stage in enumerate(decoder.stages):
            for live, sample in zip(lives, samples, strict=True):
                self._before[number].append({name: live[name] for name in stage.inputs})
                live |= model.step("decoder", number, live, sample.positions)
        self._expected = [log_softmax(rows_of(live["logits"])) for live in lives]

    def loss(self, changed: Mapping[str, Changed]) -> Loss:
        """Of weights by part and linear name, [N, K]."""
        encoders = {part: weights for part, weights in changed.items() if part != "decoder" and weights}
        own = changed.get("decoder", {})
        stages = self._model.graphs["decoder"].stages
        touched = [n for n, stage in enumerate(stages) if any(linear.name in own for linear in stage.linears)]
        first = touched[0] if touched else len(stages)
        kl: dict[str, list[NDArray[np.float32]]] = {}
        same: dict[str, list[NDArray[np.bool_]]] = {}
        for place, sample in enumerate(self._samples):
            expected = self._expected[place]
            found = self._logits(place, sample, encoders, own, first)
            found = expected if found is None else log_softmax(found)
            kl.setdefault(sample.mode, []).append((np.exp(expected) * (expected - found)).sum(-1).clip(0))
            same.setdefault(sample.mode, []).append(expected.argmax(-1) == found.argmax(-1))
        return Loss(
            kl={mode: float(np.concatenate(values).mean(dtype=np.float64)) for mode, values in kl.items()},
            top1={mode: float(np.concatenate(values).mean()) for mode, values in same.items()},
        )

    def _logits(
        self, place: int, sample: Sample, encoders: Mapping[str, Changed], own: Changed, first: int
    ) -> NDArray[np.float32] | None:
        """[P, V], or None where nothing that is changed is used."""
        stages = self._model.graphs["decoder"].stages
        live: Live = {}
        if any(m.part in encoders for m in sample.media):
            features = [
                self._model.encode(m, encoders[m.part]) if m.part in encoders else self._features[id(m)]
                for m in sample.media
            ]
            live["media_features"] = np.concatenate(features)
            first = min(n for n, stage in enumerate(stages) if "media_features" in stage.inputs)
        if first == len(stages):
            return None
        for number in range(first, len(stages)):
            live = {**self._before[number][place], **live}
            live |= self._model.step("decoder", number, live, sample.positions, own)
        return rows_of(live["logits"])
