"""Dequantised matrices of a float model, with a cache of their codes that plans share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.stages import Linear
from palmtop.quantize import Quantizer
from palmtop.quantize.parallel_rows import on_every_core
from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.statistics import Statistics

from .allocation import with_fallback

KEPT_BYTES = 256 << 20  # bytes of codes; later matrices are quantised anew each time


class QuantizedCache:
    """Quantiser of requested matrices that keeps their codes up to a limit."""

    def __init__(
        self,
        model: FloatReference,
        quantizer: Quantizer,
        statistics: Callable[[str], Statistics | None],
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        """Set up the cache; nothing is quantised yet.

        Args:
            model: model of the matrices.
            quantizer: quantisation method; clipped search where there are no statistics.
            statistics: returns the statistics of a tensor's inputs, by ``part: linear``.
            kept_bytes: most bytes of codes that are kept.
        """
        self._model = model
        self.quantize = on_every_core(with_fallback(quantizer))
        self.statistics = statistics
        self._kept: dict[tuple[str, str, Scheme], QuantizedTensor] = {}
        self._room = kept_bytes

    def take(self, key: str, tensor: QuantizedTensor) -> None:
        """Use this quantised tensor for ``part: linear`` in its scheme from now on."""
        part, _, name = key.partition(": ")
        self._kept[part, name, tensor.scheme] = tensor

    def weight(self, part: str, linear: Linear, scheme: Scheme) -> NDArray[np.float32]:
        """Return the dequantised matrix, [N, K] float32."""
        key = (part, linear.name, scheme)
        found = self._kept.get(key)
        if found is None:
            float_weight = self._model.graphs[part].weight(linear)
            found = self.quantize(float_weight, scheme, self.statistics(f"{part}: {linear.name}"))
            if found.size_bytes <= self._room:
                self._kept[key] = found
                self._room -= found.size_bytes
        return dequantize(found)
