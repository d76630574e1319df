"""Ranges of the values of a float graph: the lowest and the highest of every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from palmtop.runtime.bundle.native_files import graph_source

LOG_ERRORS = 3

Feeds = Mapping[str, NDArray[Any]]
Range = tuple[float, float]


class Measured:
    """Float graph in onnxruntime whose values are all outputs.

    The optimiser is off: every value has the name that the graph gives it.
    """

    def __init__(self, path: Path) -> None:
        """Load an ``.onnx`` file with fixed shapes for measuring."""
        import onnxruntime as ort

        model = onnx.load(path, load_external_data=False)
        self._outputs = {output.name for output in model.graph.output}
        inner = [name for node in model.graph.node for name in node.output if name and name not in self._outputs]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
        options = ort.SessionOptions()
        options.log_severity_level = LOG_ERRORS
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with graph_source(path, model.SerializeToString()) as source:
            self._session: Any = source.open(ort.InferenceSession, options, providers=["CPUExecutionProvider"])
        self._wanted = [output.name for output in self._session.get_outputs()]

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shapes of the inputs by name."""
        return {value.name: list(value.shape) for value in self._session.get_inputs()}

    def run(self, feeds: Feeds, ranges: dict[str, Range]) -> dict[str, NDArray[Any]]:
        """Run the graph and widen the ranges of its float values, inputs included.

        Args:
            feeds: inputs by name.
            ranges: (lowest, highest) by name, changed in place.

        Returns:
            The graph's own outputs.

        Raises:
            ValueError: a value is not finite (a bug of the caller or of the graph).
        """
        results = dict(zip(self._wanted, self._session.run(self._wanted, dict(feeds)), strict=True))
        for name, array in (results | dict(feeds)).items():
            if array.dtype != np.float32 or not array.size:
                continue
            low, high = float(array.min()), float(array.max())
            if not np.isfinite((low, high)).all():
                raise ValueError(f"value '{name}' reaches from {low} to {high}, expected finite numbers")
            before = ranges.get(name, (low, high))
            ranges[name] = (min(low, before[0]), max(high, before[1]))
        return {name: array for name, array in results.items() if name in self._outputs}
