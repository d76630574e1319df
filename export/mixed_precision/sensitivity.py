"""Effect of changed weights on the answers: KL divergence from the float model, by mode of input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.export.measure import divergence
from palmtop.export.measure.float_reference import Changed, FloatReference, rows_of
from palmtop.export.measure.layerwise import Live
from palmtop.export.measure.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Divergence of a model with changed weights from the float model.

    Attributes:
        kl: mean of KL(float || changed) over positions in nats, by mode.
        top1: share of positions with the same most probable token, by mode.
    """

    kl: Mapping[str, float]
    top1: Mapping[str, float]

    @property
    def mean_kl(self) -> float:
        """Mean over the modes, each with the same weight."""
        return float(np.mean(list(self.kl.values())))

    @property
    def mean_top1(self) -> float:
        """Mean of ``top1`` over the modes, each with the same weight."""
        return float(np.mean(list(self.top1.values())))


class LossMeter:
    """Meter of the loss of changed weights on samples; keeps the float model's states up to the first change.

    A stage is loaded once and runs all samples before the next one is loaded, even where only one fits into memory.
    """

    def __init__(self, model: FloatReference, samples: Sequence[Sample], *, from_start: bool = False) -> None:
        """Run the float model and keep its results.

        Args:
            model: the float model, kept open; it keeps its own number of stages loaded.
            samples: samples; all their positions are compared.
            from_start: keep only the inputs, for changes that begin at the first layer.
        """
        self._model = model
        self._samples = samples
        self._from_start = from_start
        self._features = _encoded(model, samples, {})
        graph = model.graphs["decoder"]
        lives = [model.decoder_inputs(s, [self._features[id(m)] for m in s.media]) for s in samples]
        self._before: list[list[Live]] = []  # inputs by stage and sample; those of the first stage are shared
        for number, stage in enumerate(graph.stages):
            if from_start and not number:
                self._before.append([dict(live) for live in lives])
            elif not from_start:
                self._before.append([{name: live[name] for name in stage.inputs} for live in lives])
            for live, sample in zip(lives, samples, strict=True):
                live |= model.step("decoder", number, live, sample.positions)
                graph.forget(live, number)
        self._expected = [rows_of(live["logits"]) for live in lives]

    def loss(self, changed: Mapping[str, Changed]) -> Loss:
        """Return the loss for changed weights, [N, K] by part and linear name."""
        kl: dict[str, list[NDArray[np.float64]]] = {}
        same: dict[str, list[NDArray[np.bool_]]] = {}
        for place, found in self._logits(changed):
            sample, expected = self._samples[place], self._expected[place]
            kl.setdefault(sample.mode, []).append(
                np.zeros(len(expected)) if found is None else divergence.kl(expected, found)
            )
            same.setdefault(sample.mode, []).append(
                np.ones(len(expected), np.bool_) if found is None else expected.argmax(-1) == found.argmax(-1)
            )
        modes = list(dict.fromkeys(sample.mode for sample in self._samples))
        return Loss(
            kl={mode: float(np.concatenate(kl[mode]).mean()) for mode in modes},
            top1={mode: float(np.concatenate(same[mode]).mean()) for mode in modes},
        )

    def _logits(self, changed: Mapping[str, Changed]) -> Iterator[tuple[int, NDArray[np.float32] | None]]:
        """Logits [P, V] of every sample, or None where no changed weight is used."""
        encoders = {part: weights for part, weights in changed.items() if part != "decoder" and weights}
        own = changed.get("decoder", {})
        graph = self._model.graphs["decoder"]
        stages = graph.stages
        touched = [n for n, stage in enumerate(stages) if any(linear.name in own for linear in stage.linears)]
        with_media = min((n for n, stage in enumerate(stages) if "media_features" in stage.inputs), default=0)
        features = _encoded(self._model, self._samples, encoders) if encoders else {}
        first = touched[0] if touched else len(stages)
        if self._from_start:
            first = 0
        begins, lives = [], []
        for sample in self._samples:
            live: Live = {}
            begin = first
            if any(id(m) in features for m in sample.media):
                rows = [features.get(id(m), self._features[id(m)]) for m in sample.media]
                live["media_features"] = np.concatenate(rows)
                begin = min(begin, with_media)
            begins.append(begin)
            lives.append(live)
        for number in range(min(begins), len(stages)):
            given = self._model.changed_weights("decoder", number, own)
            for place, sample in enumerate(self._samples):
                if begins[place] > number:
                    continue
                before = self._before[0 if self._from_start else number][place]
                lives[place] |= self._model.step("decoder", number, before | lives[place], sample.positions, given)
                graph.forget(lives[place], number)
                if number == len(stages) - 1:
                    yield place, rows_of(lives[place].pop("logits"))
        yield from ((place, None) for place, begin in enumerate(begins) if begin == len(stages))


def _encoded(
    model: FloatReference, samples: Sequence[Sample], encoders: Mapping[str, Changed]
) -> dict[int, NDArray[np.float32]]:
    """Feature rows by a medium's identity: with changed encoders only of those media that use them."""
    found: dict[int, NDArray[np.float32]] = {}
    for part in ("vision", "audio"):
        media = {id(m): m for s in samples for m in s.media if m.part == part}
        if media and (not encoders or part in encoders):
            features = model.encode(list(media.values()), encoders.get(part))
            found |= dict(zip(media, features, strict=True))
    return found
