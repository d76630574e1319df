"""Allocation of bits: measure every tensor's loss, solve for a plan, measure the whole plan.

A tensor is quantised twice by itself, at 4 and at 2 bits, and the KL divergence of the answers is measured. Other
schemes are interpolated by their error in the layer's outputs: between the two points the divergence is a power of the
error. Losses of tensors are nearly additive; the loss of a plan is measured for all tensors together, on samples that
were not used for calibration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.export.graph.building.mark import EXPERT
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.layerwise import StagedGraph
from palmtop.export.measure.stages import Linear
from palmtop.quantize.budget import Option, Solution, fastest, frontier, within_bytes, within_loss
from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.statistics import Statistics

from .allocation import BitAllocation
from .bundle_size import FRONTIER_POINTS
from .kernel_time import ENCODER_TOKENS, decode_seconds, for_experts, share_of_tokens, with_kernel
from .quantized_cache import QuantizedCache
from .sensitivity import Loss, LossMeter

SCHEMES: tuple[Scheme, ...] = tuple(
    Scheme(bits=bits, group=group, scale_bits=16)
    for bits, groups in ((2, (32, 64, 128)), (4, (16, 32, 64, 128, 256)), (8, (32, 64, 128, 256)))
    for group in groups
)
ANCHORS = (Scheme(bits=4, group=32, scale_bits=16), Scheme(bits=2, group=32, scale_bits=16))
UNSEEN = ANCHORS[0]  # scheme of tensors that no sample has used: their loss cannot be measured
SAMPLE_ROWS = 256  # rows of a matrix by which schemes are compared
UNIFORM = 3  # uniform solutions that are measured for a size
ROUNDS = 6
CLEARLY = 0.9  # share of the uniform plan's loss: a smaller gain may be chance, and the uniform plan is taken
NEAR = 0.0005  # share of the requested size: a closer solution is not searched for
Report = Callable[[str], None]
SizeOf = Callable[[Mapping[str, Scheme | None]], int]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Losses and kernel times of one tensor, or of all tensors of one expert, by scheme.

    Attributes:
        key: name as ``part: linear``.
        shape: [N, K] of the matrix.
        schemes: schemes that it may be stored with.
        losses: mean divergence over the modes, by scheme.
        seconds: kernel time of a token of text, by scheme; empty if the tensor takes none.
        others: shapes of further tensors in the same scheme, by name.
    """

    key: str
    shape: tuple[int, int]
    schemes: tuple[Scheme, ...]
    losses: tuple[float, ...]
    seconds: tuple[float, ...] = ()
    others: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Shapes of all its tensors by name."""
        return {self.key: self.shape, **self.others}

    @property
    def options(self) -> list[Option]:
        """Return the options for the solver."""
        return [
            Option(sum(sum(scheme.tensor_bytes(*shape)) for shape in self.shapes.values()), loss, seconds)
            for scheme, loss, seconds in zip(
                self.schemes, self.losses, self.seconds or (0.0,) * len(self.schemes), strict=True
            )
        ]


def measure(
    model: FloatReference,
    meter: LossMeter,
    coded: QuantizedCache,
    accuracy_levels: Mapping[str, int],
    report: Report | None = None,
) -> list[Sensitivity]:
    """Quantise every tensor by itself and measure the divergence of the answers.

    Args:
        model: the float model.
        meter: meter of the loss on samples.
        coded: quantised matrices of the model.
        accuracy_levels: accuracy level of each graph; schemes without a kernel there are left out.
        report: called with each tensor's name.
    """
    tell = report or (lambda _: None)
    found = []
    for part, graph in model.graphs.items():
        level, tokens = accuracy_levels[part], 1 if part == "decoder" else ENCODER_TOKENS
        schemes = with_kernel(SCHEMES, level, tokens)
        linears = graph.linears()
        units: dict[str, list[Linear]] = {}
        for _, linear in linears.values():
            units.setdefault(linear.unit, []).append(linear)
        for unit, members in units.items():
            tell(f"{part}: {unit}")
            keys = [f"{part}: {linear.name}" for linear in members]
            shapes = dict(zip(keys, (graph.shape(linear) for linear in members), strict=True))
            inputs = [coded.statistics(key) for key in keys]
            is_unseen = any(i is None and m.input is not None for i, m in zip(inputs, members, strict=True))
            own = for_experts(schemes, shapes.values(), level) if members[0].role == EXPERT else schemes
            first, *others = shapes
            more = {key: shapes[key] for key in others}
            if is_unseen:
                found.append(Sensitivity(first, shapes[first], (UNSEEN,), (0.0,), (), more))
                continue
            anchors = []
            for scheme in ANCHORS:
                changed = {linear.name: coded.weight(part, linear, scheme) for linear in members}
                anchors.append(max(meter.loss({part: changed}).mean_kl, 1e-12))
            errors = [_error_of(graph.weight(m), i, coded) for m, i in zip(members, inputs, strict=True)]

            def error(scheme: Scheme, errors: Sequence[Callable[[Scheme], float]] = errors) -> float:
                return max(sum(each(scheme) for each in errors), 1e-30)

            curve = _curve([error(a) for a in ANCHORS], anchors)
            losses = tuple(curve(error(s)) for s in own)
            seconds: tuple[float, ...] = ()
            if part == "decoder" and _is_decoded(members[0].name, linears):
                share = share_of_tokens(members[0], linears)
                seconds = tuple(share * sum(decode_seconds(s, *shape, level) for shape in shapes.values()) for s in own)
            found.append(Sensitivity(first, shapes[first], own, losses, seconds, more))
    return found


def _error_of(
    weight: NDArray[np.float32], inputs: Statistics | None, coded: QuantizedCache
) -> Callable[[Scheme], float]:
    """Return the squared error of some rows of a matrix, of their outputs where its inputs are known, by scheme."""
    some = np.ascontiguousarray(weight[:: max(1, len(weight) // SAMPLE_ROWS)])

    def error(scheme: Scheme) -> float:
        off = dequantize(coded.quantize(some, scheme, inputs)) - some
        return float((off.astype(np.float64) ** 2).sum()) if inputs is None else inputs.output_error(off)

    return error


def fastest_decode(decoder: StagedGraph, accuracy_level: int) -> float:
    """Seconds of one token of text in the fastest kernels of the decoder's matrices on this machine."""
    linears, schemes = decoder.linears(), with_kernel(SCHEMES, accuracy_level)
    read = [linear for name, (_, linear) in linears.items() if _is_decoded(name, linears)]
    return sum(
        share_of_tokens(linear, linears)
        * min(decode_seconds(scheme, *decoder.shape(linear), accuracy_level) for scheme in schemes)
        for linear in read
    )


def refuse_speed(least_seconds: float, limit_seconds: float | None) -> None:
    """Refuse a speed that no scheme reaches.

    Args:
        least_seconds: of one token in the fastest kernels.
        limit_seconds: that it may take; None for any.

    Raises:
        InputError: names the fastest speed.
    """
    if limit_seconds is not None and least_seconds > limit_seconds:
        raise InputError(
            f"speed is {1 / limit_seconds:.3g} tokens/s, expected at most {1 / least_seconds:.3g} for this model on"
            " this machine"
        )


def _is_decoded(name: str, linears: Collection[str]) -> bool:
    """Return whether every token of text passes through it: no table that is only looked up, no adapter."""
    return ".lora_" not in name and (name != "embed_tokens" or "lm_head" not in linears)


def _curve(errors: Sequence[float], losses: Sequence[float]) -> Callable[[float], float]:
    """Return divergence as a function of error: a power law above the first point, proportional below it."""
    near, far = errors
    power = math.log(losses[1] / losses[0]) / math.log(far / near) if far > near * 1.01 else 1.0
    power = min(max(power, 0.3), 2.0)

    def loss(error: float) -> float:
        ratio = error / near
        return losses[0] * (ratio if ratio <= 1 else ratio**power)

    return loss


class Allocator:
    """Solver for sizes and losses that measures whole plans and chooses among them."""

    def __init__(
        self,
        model: FloatReference,
        meter: LossMeter,
        sensitivities: Sequence[Sensitivity],
        coded: QuantizedCache,
        method: str,
        size_of: SizeOf,
        verdict: LossMeter | None = None,
        limit_seconds: float | None = None,
    ) -> None:
        """Set up a planner; nothing is solved yet.

        Args:
            model: the float model.
            meter: meter on samples used neither for calibration nor for single tensors; it chooses between whole plans.
            sensitivities: losses and times of every tensor.
            coded: quantised matrices of the model.
            method: name of the quantisation method.
            size_of: returns the bytes of a whole bundle.
            verdict: meter on other samples, for the loss of the chosen plan; None takes ``meter``.
            limit_seconds: most seconds of a token of text in the matrices' kernels; None for no limit.
        """
        self._model, self._meter, self._verdict = model, meter, verdict or meter
        self._sensitivities = sensitivities
        self._coded, self._method = coded, method
        self._size_of = size_of
        self._options = [s.options for s in sensitivities]
        self._limit_seconds = limit_seconds

    def for_size(self, limit_bytes: int) -> BitAllocation:
        """Return the best plan that fits a size.

        Losses of single tensors at 2 bits are the least additive, so a solution without 2 bits and the best uniform
        ones are measured together with the solver's, and the best of them is taken.

        Raises:
            InputError: no plan fits or is fast enough; names the smallest size or the highest speed.
        """
        refuse_speed(fastest(self._options), self._limit_seconds)
        plain = self._uniform_within(limit_bytes)
        found = [*plain, *(self._fitting(limit_bytes, fewest) for fewest in (2, 4))]
        candidates = list(dict.fromkeys(solution for solution in found if solution is not None))
        if not candidates:
            smallest = self._size_of(self._schemes(frontier(self._options)[0]))
            if smallest <= limit_bytes and self._limit_seconds is not None:
                raise InputError(
                    f"size is {limit_bytes / 1e6:.4g} MB and speed is {1 / self._limit_seconds:.3g} tokens/s, expected"
                    " a larger size or a lower speed: no bundle has both"
                )
            raise InputError(
                f"size is {limit_bytes / 1e6:.4g} MB, expected at least {smallest / 1e6:.4g} MB for this model"
            )
        losses = [self._lost(solution) for solution in candidates]
        best = losses.index(min(losses))
        plainest = losses.index(min(losses[: len(plain)])) if plain else best
        if losses[best] > CLEARLY * losses[plainest]:
            best = plainest
        is_judged = self._verdict is self._meter  # then the choice has measured it on the samples of the verdict
        return self._plan(candidates[best], losses[best] if is_judged else self._predicted(candidates[best]))

    def for_loss(self, limit: float) -> BitAllocation:
        """Return the smallest plan with at most this loss.

        Raises:
            InputError: the most exact plan loses more, or none is both as exact and as fast.
        """
        refuse_speed(fastest(self._options), self._limit_seconds)
        correction = 1.0
        best: tuple[Solution, float] | None = None
        for _ in range(ROUNDS):
            solution = within_loss(self._options, limit / correction, self._limit_seconds)
            if solution is None:
                break
            lost = self._predicted(solution)
            if lost <= limit and (best is None or solution.size_bytes < best[0].size_bytes):
                best = solution, lost
            if 0.95 * limit <= lost <= limit:
                break
            correction = min(max(lost / max(solution.loss, 1e-12), 0.02), 50.0) * 1.01
        if best is None:
            finest = frontier(self._options)[-1]
            lost = self._predicted(finest)
            if lost > limit:
                raise InputError(f"loss is {limit:g}, expected at least {lost:.2g} for this model")
            if self._limit_seconds is not None and finest.seconds > self._limit_seconds:
                raise InputError(
                    f"loss is {limit:g} and speed is {1 / self._limit_seconds:.3g} tokens/s, expected a larger loss or"
                    " a lower speed: no bundle has both"
                )
            best = finest, lost
        return self._plan(*best)

    def uniform(self, scheme: Scheme) -> BitAllocation:
        """Return the plan with the same scheme for every tensor, for comparison."""
        chosen = {key: scheme for s in self._sensitivities for key in s.shapes}
        loss = self.measured(chosen).mean_kl
        return BitAllocation(method=self._method, tensors=chosen, size_bytes=self._size_of(chosen), loss=loss)

    def measured(self, tensors: Mapping[str, Scheme | None]) -> Loss:
        """Quantise all tensors as planned and measure the loss on the samples that choose plans."""
        return self._meter.loss(self._changed(tensors))

    def predicted(self, tensors: Mapping[str, Scheme | None]) -> Loss:
        """Quantise all tensors as planned and measure the loss on the samples of the verdict."""
        return self._verdict.loss(self._changed(tensors))

    def _changed(self, tensors: Mapping[str, Scheme | None]) -> dict[str, dict[str, NDArray[np.float32]]]:
        changed: dict[str, dict[str, NDArray[np.float32]]] = {}
        for part, graph in self._model.graphs.items():
            for name, (_, linear) in graph.linears().items():
                scheme = tensors.get(f"{part}: {name}")
                if scheme is not None:
                    changed.setdefault(part, {})[name] = self._coded.weight(part, linear, scheme)
        return changed

    def _fitting(self, limit_bytes: int, fewest_bits: int) -> Solution | None:
        """Return the solver's schemes of at least ``fewest_bits`` bits, for a whole bundle of a size."""
        kept = [[at for at, scheme in enumerate(s.schemes) if scheme.bits >= fewest_bits] for s in self._sensitivities]
        options = [[own[at] for at in some] for own, some in zip(self._options, kept, strict=True)]
        overhead = 0
        for _ in range(ROUNDS):
            found = within_bytes(options, limit_bytes - overhead, self._limit_seconds)
            if found is None:
                return None
            chosen = tuple(some[at] for some, at in zip(kept, found.chosen, strict=True))
            solution = Solution(chosen, found.size_bytes, found.loss, found.seconds)
            size_bytes = self._size_of(self._schemes(solution))
            if 0 <= limit_bytes - size_bytes <= NEAR * limit_bytes:
                return solution
            if size_bytes <= limit_bytes and overhead:
                return solution
            # bytes that do not depend on any tensor's scheme, and padding between tensors
            overhead += size_bytes - limit_bytes
        return None

    def _uniform_within(self, limit_bytes: int) -> list[Solution]:
        """Return the uniform solutions with the least loss of those that fit."""
        found = []
        for scheme in SCHEMES:
            if not any(scheme in s.schemes for s in self._sensitivities):
                continue
            chosen = tuple(s.schemes.index(scheme) if scheme in s.schemes else 0 for s in self._sensitivities)
            there = [options[at] for options, at in zip(self._options, chosen, strict=True)]
            sums = sum(o.size_bytes for o in there), sum(o.loss for o in there), sum(o.seconds for o in there)
            if self._limit_seconds is None or sums[2] <= self._limit_seconds:
                found.append(Solution(chosen, *sums))
        fitting: list[Solution] = []
        for solution in sorted(found, key=lambda s: s.loss):
            if solution.size_bytes < limit_bytes and self._size_of(self._schemes(solution)) <= limit_bytes:
                fitting.append(solution)
            if len(fitting) == UNIFORM:
                break
        return fitting

    def _lost(self, solution: Solution) -> float:
        return self.measured(self._schemes(solution)).mean_kl

    def _predicted(self, solution: Solution) -> float:
        return self.predicted(self._schemes(solution)).mean_kl

    def _plan(self, solution: Solution, loss: float) -> BitAllocation:
        """Return a plan with its measured loss; losses of neighbours are the solver's, scaled by the same error."""
        tensors = self._schemes(solution)
        size_bytes = self._size_of(tensors)
        every, correction = frontier(self._options), loss / max(solution.loss, 1e-12)
        shown = every[:: max(1, -(-len(every) // FRONTIER_POINTS))]
        beside = size_bytes - solution.size_bytes
        return BitAllocation(
            method=self._method,
            tensors=tensors,
            size_bytes=size_bytes,
            loss=loss,
            decode_s=solution.seconds or None,
            frontier=tuple((s.size_bytes + beside, s.loss * correction) for s in shown),
        )

    def _schemes(self, solution: Solution) -> dict[str, Scheme | None]:
        return {
            key: s.schemes[at] for s, at in zip(self._sensitivities, solution.chosen, strict=True) for key in s.shapes
        }
