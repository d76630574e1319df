"""Any torch encoder to ONNX through ``optimum``: the way for towers that have no native graph here.

Knows no architecture: a module, example inputs and the names of its outputs are enough. What it gives is what
tracing gives: branches on data and sizes computed in Python are frozen as the example took them, and weights
stay float32. The native graphs (``export/graph``) need none of this; ``benchmarks/optimum_second_opinion.py``
compares them with it.

Needs the extra ``[optimum]`` (torch, optimum, optimum-onnx; transformers below 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmtop.errors import RuntimeMissingError
from palmtop.export.graph.building.builder import OPSET

if TYPE_CHECKING:
    import torch

DynamicAxes = Mapping[str, Mapping[int, str]]


def export_module(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    path: Path,
    *,
    dynamic_axes: DynamicAxes | None = None,
    opset: int = OPSET,
) -> Path:
    """Trace a module and write it as an ONNX file; weights over 2 GB go beside it.

    Args:
        module: ``forward`` takes tensors by the names in ``inputs`` and returns a tensor or a tuple of them.
        inputs: example inputs, by name. Take one that passes through every branch a real input may take.
        outputs: names for what ``forward`` returns.
        path: of the .onnx file.
        dynamic_axes: by name of input or output, the axes that may vary: ``{"pixels": {0: "N"}}``. An axis
            whose size steers Python code in the module must not be among them.
        opset: of the graph.

    Returns:
        ``path``.

    Raises:
        RuntimeMissingError: the extra is not installed.
    """
    try:
        from optimum.exporters.onnx import OnnxConfig, export
        from optimum.utils import NormalizedConfig
        from transformers import PretrainedConfig
    except ImportError as error:
        raise RuntimeMissingError("optimum is not installed; pip install '.[optimum]'") from error
    axes = dynamic_axes or {}

    class ExampleConfig(OnnxConfig):  # type: ignore[misc]  # optimum is untyped
        """What optimum asks about a model, answered from the example."""

        NORMALIZED_CONFIG_CLASS = NormalizedConfig

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: dict(axes.get(name, {})) for name in inputs}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {name: dict(axes.get(name, {})) for name in outputs}

        def generate_dummy_inputs(self, framework: str = "pt", **shapes: Any) -> dict[str, Any]:
            return {name: t.clone() if framework == "pt" else t.numpy() for name, t in inputs.items()}

    if not hasattr(module, "config"):
        setattr(module, "config", PretrainedConfig())  # noqa: B010 - optimum switches return_dict there
    export(module.eval(), ExampleConfig(module.config), path, opset=opset)
    return path
