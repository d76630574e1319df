"""From a float model, statistics and samples to a plan: measure every tensor, solve, measure the whole.

A tensor is quantised twice by itself, at 4 and at 2 bits, and the divergence of the answers is measured. Other
schemes are placed between by the error they make in the layer's outputs: divergence grows with it as it did
between the two. Losses of tensors add up, nearly; how nearly is measured on the whole plan and corrected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.export.whole_matrix import on_every_core
from palmtop.quantize import Quantizer
from palmtop.quantize.budget import Option, Solution, frontier, within_bytes, within_loss
from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.statistics import Statistics

from . import Plan, with_fallback
from .float_model import FloatModel
from .loss import Loss, LossMeter

SCHEMES: tuple[Scheme, ...] = tuple(
    Scheme(bits=bits, group=group, scale_bits=16)
    for bits, groups in ((2, (16, 32, 64)), (4, (16, 32, 64, 128, 256)), (8, (32, 64, 128, 256)))
    for group in groups
)
ANCHORS = (Scheme(bits=4, group=32, scale_bits=16), Scheme(bits=2, group=32, scale_bits=16))
UNSEEN = ANCHORS[0]  # of tensors that no sample has used: nothing says what they may lose
SAMPLE_ROWS = 256  # of a matrix that schemes are compared on
ROUNDS = 4
FRONTIER_POINTS = 40
Report = Callable[[str], None]
SizeOf = Callable[[Mapping[str, Scheme | None]], int]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What one tensor may cost and lose.

    Attributes:
        key: ``part: linear``.
        shape: [N, K].
        schemes: that it may be stored with.
        losses: of each, the mean divergence over the modes.
    """

    key: str
    shape: tuple[int, int]
    schemes: tuple[Scheme, ...]
    losses: tuple[float, ...]

    @property
    def options(self) -> list[Option]:
        """For the solver."""
        return [
            Option(sum(scheme.tensor_bytes(*self.shape)), loss)
            for scheme, loss in zip(self.schemes, self.losses, strict=True)
        ]


def measure(
    model: FloatModel,
    meter: LossMeter,
    quantizer: Quantizer,
    statistics: Callable[[str], Statistics | None],
    report: Report | None = None,
) -> list[Sensitivity]:
    """Quantise every tensor by itself and see what the answers say."""
    tell, quantize = report or (lambda _: None), on_every_core(with_fallback(quantizer))
    found = []
    for part, graph in model.graphs.items():
        for name, (_, linear) in graph.linears().items():
            key = f"{part}: {name}"
            tell(key)
            weight, inputs = graph.weight(linear), statistics(key)
            shape = (weight.shape[0], weight.shape[1])
            if inputs is None and linear.input is not None:
                found.append(Sensitivity(key, shape, (UNSEEN,), (0.0,)))
                continue
            anchors = []
            for scheme in ANCHORS:
                changed = dequantize(quantize(weight, scheme, inputs))
                anchors.append(max(meter.loss({part: {name: changed}}).mean_kl, 1e-12))
            some = np.ascontiguousarray(weight[:: max(1, len(weight) // SAMPLE_ROWS)])

            def error(scheme: Scheme, some: NDArray[np.float32] = some, inputs: Statistics | None = inputs) -> float:
                off = dequantize(quantize(some, scheme, inputs)) - some
                squared = float((off.astype(np.float64) ** 2).sum()) if inputs is None else inputs.output_error(off)
                return max(squared, 1e-30)

            errors = {scheme: error(scheme) for scheme in SCHEMES}
            curve = _curve([errors[a] for a in ANCHORS], anchors)
            found.append(Sensitivity(key, shape, SCHEMES, tuple(curve(errors[s]) for s in SCHEMES)))
    return found


def _curve(errors: Sequence[float], losses: Sequence[float]) -> Callable[[float], float]:
    """Divergence by error: a power law through two points above the first, in proportion below it."""
    near, far = errors
    power = math.log(losses[1] / losses[0]) / math.log(far / near) if far > near * 1.01 else 1.0
    power = min(max(power, 0.3), 2.0)

    def loss(error: float) -> float:
        ratio = error / near
        return losses[0] * (ratio if ratio <= 1 else ratio**power)

    return loss


class Planner:
    """Solves for sizes and losses, and checks what it says on the whole model."""

    def __init__(
        self,
        model: FloatModel,
        meter: LossMeter,
        sensitivities: Sequence[Sensitivity],
        quantizer: Quantizer,
        method: str,
        statistics: Callable[[str], Statistics | None],
        size_of: SizeOf,
    ) -> None:
        """Nothing is solved yet; ``size_of`` gives a whole bundle's bytes."""
        self._model, self._meter = model, meter
        self._sensitivities = sensitivities
        self._quantize, self._method, self._statistics = on_every_core(with_fallback(quantizer)), method, statistics
        self._size_of = size_of
        self._options = [s.options for s in sensitivities]

    def for_size(self, limit_bytes: int) -> Plan:
        """The best plan that fits.

        Raises:
            InputError: nothing fits; says what the smallest bundle needs.
        """
        overhead = self._overhead(frontier(self._options)[0])
        for _ in range(ROUNDS):
            solution = within_bytes(self._options, limit_bytes - overhead)
            if solution is None:
                smallest = self._size_of(self._schemes(frontier(self._options)[0]))
                raise InputError(
                    f"size is {limit_bytes / 1e6:.1f} MB, expected at least {smallest / 1e6:.1f} MB for this model"
                )
            size_bytes = self._size_of(self._schemes(solution))
            if size_bytes <= limit_bytes:
                break
            overhead += size_bytes - limit_bytes  # borders between tensors have moved
        else:
            raise InputError(f"size is {limit_bytes / 1e6:.1f} MB: no plan was found that fits")
        return self._plan(solution, self._correction(solution))

    def for_loss(self, limit: float) -> Plan:
        """The smallest plan that loses at most so much.

        Raises:
            InputError: the most exact plan loses more.
        """
        correction, solution = 1.0, None
        for _ in range(ROUNDS):
            solution = within_loss(self._options, limit / correction)
            if solution is None:
                least = frontier(self._options)[-1].loss * correction
                raise InputError(f"loss is {limit:g}, expected at least {least:.2g} for this model")
            before, correction = correction, self._correction(solution)
            if abs(correction / before - 1) < 0.05:
                break
        assert solution is not None  # ROUNDS is not 0
        return self._plan(solution, correction)

    def uniform(self, scheme: Scheme) -> Plan:
        """The same scheme for every tensor, to compare with."""
        chosen = {s.key: scheme for s in self._sensitivities}
        loss = self.measured(chosen).mean_kl
        return Plan(method=self._method, tensors=chosen, size_bytes=self._size_of(chosen), loss=loss)

    def measured(self, tensors: Mapping[str, Scheme | None]) -> Loss:
        """Quantise everything as planned and measure what is lost."""
        changed: dict[str, dict[str, NDArray[np.float32]]] = {}
        for part, graph in self._model.graphs.items():
            for name, (_, linear) in graph.linears().items():
                scheme = tensors.get(f"{part}: {name}")
                if scheme is not None:
                    codes = self._quantize(graph.weight(linear), scheme, self._statistics(f"{part}: {name}"))
                    changed.setdefault(part, {})[name] = dequantize(codes)
        return self._meter.loss(changed)

    def _correction(self, solution: Solution) -> float:
        """How much more, or less, is lost together than one by one."""
        measured = self.measured(self._schemes(solution)).mean_kl
        return min(max(measured / max(solution.loss, 1e-12), 0.05), 20.0)

    def _plan(self, solution: Solution, correction: float) -> Plan:
        tensors = self._schemes(solution)
        size_bytes = self._size_of(tensors)
        every = frontier(self._options)
        shown = every[:: max(1, len(every) // FRONTIER_POINTS)]
        beside = size_bytes - solution.size_bytes
        return Plan(
            method=self._method,
            tensors=tensors,
            size_bytes=size_bytes,
            loss=solution.loss * correction,
            frontier=tuple((s.size_bytes + beside, s.loss * correction) for s in shown),
        )

    def _schemes(self, solution: Solution) -> dict[str, Scheme | None]:
        return {s.key: s.schemes[at] for s, at in zip(self._sensitivities, solution.chosen, strict=True)}

    def _overhead(self, solution: Solution) -> int:
        """Bytes of a bundle that are not of tensors with a choice."""
        return self._size_of(self._schemes(solution)) - solution.size_bytes
