"""What values a float graph computes: the lowest and the highest of every tensor, over samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

LOG_ERRORS = 3

Feeds = Mapping[str, NDArray[Any]]
Range = tuple[float, float]


def measure_ranges(path: Path, samples: Iterable[Feeds], *, threads: int = 0) -> dict[str, Range]:
    """Run a graph on samples and keep the range of each float value in it, inputs counted.

    The optimiser is off: every value is there under the name that the graph gives it.

    Args:
        path: of an ``.onnx`` file with fixed shapes.
        samples: inputs of a run each; at least one.
        threads: of onnxruntime; 0 is one a core.

    Returns:
        By name (lowest, highest), finite.

    Raises:
        ValueError: there is no sample, or a value is not finite (a bug of the caller or of the graph).
    """
    import onnxruntime as ort

    model = onnx.load(path, load_external_data=False)
    outputs = [name for node in model.graph.node for name in node.output if name]
    there = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in there)
    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.resolve().parent))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = [output.name for output in session.get_outputs()]
    found: dict[str, Range] = {}
    for feeds in samples:
        results = dict(zip(wanted, session.run(wanted, dict(feeds)), strict=True)) | dict(feeds)
        for name, array in results.items():
            if array.dtype == np.float32 and array.size:
                low, high = float(array.min()), float(array.max())
                before = found.get(name, (low, high))
                found[name] = (min(low, before[0]), max(high, before[1]))
    if not found or not np.isfinite(list(found.values())).all():
        raise ValueError(f"{path}: {len(found)} ranges, expected finite ones of at least one sample")
    return found
