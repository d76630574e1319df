"""Sequential quantisation: layer after layer, each on the outputs of the quantised layers before it.

Two runs of every sample go through a stage side by side: one in float, one with all earlier layers quantised. A layer's
weights are first moved, by least squares, so that the quantised run's sum behind the layer (its outputs with their
deltas and, where it writes to the residual stream, that stream) is nearest to the float one. Then they are quantised
with the second moments of the quantised run. So a layer corrects the error of those before it, as far as its inputs
allow.

Quantising on the inputs of the quantised model is Frantar et al.'s (GPTQ, ``--true-sequential``). Using the float
model's outputs as the aim is from Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric
Calibration", ICML 2025; here the move is solved for beforehand, and the residual stream is part of the aim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.export.graph.building.mark import EXPERT
from palmtop.export.measure.float_reference import FloatReference, feature_rows, is_used
from palmtop.export.measure.layerwise import Live
from palmtop.export.measure.samples import MediaInput, Sample
from palmtop.export.measure.stages import Linear, Stage
from palmtop.quantize import Quantizer
from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.statistics import Statistics

from .calibrate import FEWEST_TOKENS

CAUTION = 0.05  # share of the mean of the moments' diagonal that is added to it: limits the move for few inputs
SKIP_NORMS = ("SkipSimplifiedLayerNormalization", "SkipLayerNormalization")  # they add their first two inputs
Array = NDArray[np.float32]
Keep = Callable[[str, QuantizedTensor], None]
Report = Callable[[str], None]


def quantize_in_order(
    model: FloatReference,
    samples: Sequence[Sample],
    schemes: Mapping[str, Scheme | None],
    quantizer: Quantizer,
    keep: Keep,
    report: Report | None = None,
    starved: dict[str, int] | None = None,
) -> None:
    """Quantise every tensor that has a scheme, layer after layer.

    Args:
        model: the float model; two of its stages are kept loaded.
        samples: samples of every mode to be served.
        schemes: schemes by ``part: linear``.
        quantizer: method for whole matrices; it must also work without statistics.
        keep: called with ``part: linear`` and its codes.
        report: called with a sentence on each step.
        starved: gets the tokens of each expert that received too few to be quantised by them.
    """
    tell = report or (lambda _: None)
    features: list[dict[int, Array]] = [{}, {}]
    for part in ("vision", "audio"):
        media = {id(m): m for sample in samples for m in sample.media if m.part == part}
        if media:
            walk = _Walk(model, part, schemes, quantizer, keep, tell)
            for found, more in zip(features, _encoded(walk, media), strict=True):
                found |= more
    walk = _Walk(model, "decoder", schemes, quantizer, keep, tell, starved)
    by_mode = sorted(samples, key=lambda sample: sample.mode)
    pairs = [
        _Pair(
            model.decoder_inputs(sample, [features[0][id(m)] for m in sample.media]),
            model.decoder_inputs(sample, [features[1][id(m)] for m in sample.media]),
            sample.mode,
            sample.positions,
        )
        for sample in by_mode
    ]
    walk.run(pairs)


@dataclass(slots=True)
class _Pair:
    """Values of one sample in the float run and in the quantised run."""

    exact: Live
    changed: Live
    mode: str
    positions: NDArray[np.int64] | None = None


def _encoded(walk: _Walk, media: Mapping[int, MediaInput]) -> tuple[dict[int, Array], dict[int, Array]]:
    """Feature rows of every image or sound by its identity: of the float encoder, and of the quantised one."""
    pairs = [_Pair(dict(feeds), dict(feeds), "") for item in media.values() for feeds in item.feeds]
    walk.run(pairs)
    return feature_rows(media, [pair.exact for pair in pairs]), feature_rows(media, [pair.changed for pair in pairs])


class _Walk:
    """Pass through the stages of one part of a model."""

    def __init__(
        self,
        model: FloatReference,
        part: str,
        schemes: Mapping[str, Scheme | None],
        quantizer: Quantizer,
        keep: Keep,
        report: Report,
        starved: dict[str, int] | None = None,
    ) -> None:
        self._model, self._part = model, part
        self._starved = {} if starved is None else starved
        self._graph = model.graphs[part]
        self._schemes, self._quantizer, self._keep, self._report = schemes, quantizer, keep, report
        self._tables: dict[str, Array] = {}  # [V, H] dequantised: a tied head uses the same matrix again
        # Experts get other tokens in the two runs. What a mixture's layer is off by is then mostly another routing,
        # which no move of its weights makes up for: every linear is quantised on its own inputs, and not moved.
        self._is_mixture = any(linear.role == EXPERT for stage in self._graph.stages for linear in stage.linears)

    def run(self, pairs: list[_Pair]) -> None:
        """Quantise stage after stage; the pairs then hold the graph's outputs."""
        stages = self._graph.stages
        for number, stage in enumerate(stages):
            self._report(f"{self._part} {number + 1}/{len(stages)}")
            new = dict(self._tables)
            for group in in_groups(stage):
                self._quantize(number, group, pairs, new)
            if number + 1 == len(stages) and self._part == "decoder":
                break  # the logits are not needed
            given = self._model.changed_weights(self._part, number, new)
            for pair in pairs:
                pair.exact |= self._step(number, pair, pair.exact, {})
                pair.changed |= self._step(number, pair, pair.changed, given)
                for live in (pair.exact, pair.changed):
                    self._graph.forget(live, number)
        self._graph.close()

    def _quantize(self, number: int, group: Sequence[Linear], pairs: list[_Pair], new: dict[str, Array]) -> None:
        """Quantise one group of ``in_groups``; its dequantised weights, [N, K] by name, are added to ``new``."""
        stage, todo = self._graph.stages[number], []
        for linear in group:
            key = f"{self._part}: {linear.name}"
            scheme = self._schemes.get(key)
            if scheme is None or linear.name in new:
                continue
            if linear.input is None:
                new[linear.name] = self._kept(key, self._quantizer(self._graph.weight(linear), scheme, None))
                self._tables[linear.name] = new[linear.name]
            else:
                todo.append((linear, scheme, _Aim(() if self._is_mixture else summed(stage, linear))))
        if not todo:
            return
        conditions = [linear.condition for linear, _, _ in todo if linear.condition]
        wanted = [
            *(linear.input or "" for linear, _, _ in todo),
            *(n for _, _, aim in todo for n in aim.names),
            *conditions,
        ]
        given = self._model.changed_weights(self._part, number, new)
        for pair in pairs:
            exact = self._step(number, pair, pair.exact, {}, wanted)
            changed = self._step(number, pair, pair.changed, given, wanted)
            for linear, _, aim in todo:
                if is_used(linear, exact):
                    aim.add(pair.mode, changed[linear.input or ""], exact, changed)
        for linear, scheme, aim in todo:
            if not aim.is_seen:
                continue  # no sample has used it: it is stored as without samples
            move, statistics = aim.solved()
            if linear.role == EXPERT and statistics.count < FEWEST_TOKENS:
                self._starved[linear.unit] = statistics.count
                continue
            weight = self._graph.weight(linear)
            tensor = self._quantizer(weight if move is None else weight + move, scheme, statistics)
            new[linear.name] = self._kept(f"{self._part}: {linear.name}", tensor)

    def _kept(self, key: str, tensor: QuantizedTensor) -> Array:
        """Store a quantised tensor and return it dequantised, [N, K]."""
        self._keep(key, tensor)
        return dequantize(tensor)

    def _step(
        self, number: int, pair: _Pair, live: Live, given: Mapping[str, Array], exposed: Sequence[str] = ()
    ) -> Live:
        return self._model.step(self._part, number, live, pair.positions, given, exposed)


class _Aim:
    """Target of one layer's weights: sums gathered mode by mode, each mode with the same weight.

    Attributes:
        names: values whose sum should equal that of the float run; none for weights that are not moved.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._mode: str | None = None
        self._sums: list[Array] = []  # of the current mode: x x^T [K, K], (what is missing) x^T [N, K]
        self._means: list[Array] = []  # the same of the modes before
        self._count, self._seen, self._modes = 0, 0, 0

    @property
    def is_seen(self) -> bool:
        """Whether a sample has used the layer."""
        return self._mode is not None

    def add(self, mode: str, inputs: Array, exact: Live, changed: Live) -> None:
        """Add one sample; samples of one mode come one after the other.

        Args:
            mode: mode of the sample.
            inputs: [..., K] inputs of the quantised run.
            exact: values of the float run.
            changed: values of the quantised run.
        """
        if mode != self._mode:
            self._end_mode()
            self._mode = mode
        x = inputs.reshape(-1, inputs.shape[-1])
        if not self.names:
            self._sums = [self._sums[0] + x.T @ x] if self._sums else [x.T @ x]
            self._count += len(x)
            return
        missing = np.sum([exact[name] - changed[name] for name in self.names], axis=0, dtype=np.float32)
        products = [x.T @ x, missing.reshape(-1, missing.shape[-1]).T @ x]
        self._sums = [old + new for old, new in zip(self._sums, products, strict=True)] if self._sums else products
        self._count += len(x)

    def solved(self) -> tuple[Array | None, Statistics]:
        """Return the move of the weights, [N, K], or None, and the statistics to quantise them with."""
        self._end_mode()
        if not self.names:
            return None, Statistics(self._means[0] if self._means else np.zeros((0, 0), np.float32), self._seen)
        moments, missing = self._means
        damped = moments.astype(np.float64)
        damped[np.diag_indices_from(damped)] += max(CAUTION * float(np.diagonal(moments).mean()), 1e-12)
        inverse = np.linalg.inv(damped).astype(np.float32)
        return np.asarray(missing @ inverse, np.float32), Statistics(moments, self._seen)

    def _end_mode(self) -> None:
        if self._count:
            self._modes += 1
            own = [total / np.float32(self._count) for total in self._sums]
            share = np.float32(1 / self._modes)
            self._means = [m + (o - m) * share for m, o in zip(self._means, own, strict=True)] if self._means else own
            self._seen += self._count
        self._sums, self._count = [], 0


def in_groups(stage: Stage) -> list[list[Linear]]:
    """Return groups of linears in order; within a group none depends on another.

    The first matrices of adapters are in the group of their layer, all second ones in the group behind it.
    """
    groups: list[list[Linear]] = []
    level_of: dict[str, int] = {}
    made_by: dict[str, set[str]] = {}  # linears that each value depends on
    for node in stage.nodes:
        before = set().union(*(made_by.get(name, set()) for name in node.input), set())
        own = next((linear for linear in stage.linears if linear.weight in node.input), None)
        if own is not None:
            level = 1 + max((level_of[name] for name in before), default=-1)
            groups += [[] for _ in range(level + 1 - len(groups))]
            groups[level].append(own)
            level_of[own.name] = level
            before = before | {own.name}
        for name in node.output:
            made_by[name] = before
    return groups


def summed(stage: Stage, linear: Linear) -> list[str]:
    """Return values whose sum a linear layer adds to with a factor of 1, through sums and inactive branches."""
    value = next(node.output[0] for node in stage.nodes if linear.weight in node.input)
    while True:
        readers = [node for node in stage.nodes if value in node.input]
        kept_as_it_is = next((node for node in readers if node.op_type in ("Identity", "Where")), None)
        if kept_as_it_is is not None:  # an adapter's branch; the other side of it adds to the same value
            value = kept_as_it_is.output[0]
        elif len(readers) == 1 and readers[0].op_type == "Add":
            value = readers[0].output[0]
        elif len(readers) == 1 and readers[0].op_type in SKIP_NORMS:
            return [readers[0].input[0], readers[0].input[1]]
        else:
            return [value]
