"""Runs where the extra [optimum] is installed (transformers 4.57), which rules out transformers 5."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.optimum_route import export_module
from palmtop.errors import RuntimeMissingError

needs_optimum = pytest.mark.skipif(find_spec("optimum") is None, reason="the extra [optimum] is not installed")


@pytest.mark.slow
@needs_optimum
@pytest.mark.filterwarnings("ignore")  # the tracer warns about every size it freezes
@pytest.mark.parametrize("seed", [0, 1])
def test_the_native_graphs_agree_with_optimums(tmp_path: Path, seed: int) -> None:
    from benchmarks.optimum_second_opinion import AGREEMENT, compare_audio, compare_vision

    assert compare_vision(tmp_path, {"patch_size": 8}, seed).difference < AGREEMENT
    assert compare_audio(tmp_path, {}, 300 + seed, seed).difference < AGREEMENT


@pytest.mark.slow
@needs_optimum
@pytest.mark.filterwarnings("ignore")
def test_a_dynamic_axis_stays_dynamic(tmp_path: Path) -> None:
    from tests.export.towers import session

    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.GELU())
    axes = {"input": {0: "N"}, "y": {0: "N"}}
    graph = session(export_module(module, {"input": torch.randn(2, 4)}, ["y"], tmp_path / "m.onnx", dynamic_axes=axes))

    x = torch.randn(7, 4)
    found = graph.run(None, {"input": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), module(x).detach())


@pytest.mark.skipif(find_spec("optimum") is not None, reason="the extra [optimum] is installed")
def test_without_the_extra_the_message_tells_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissingError, match=r"pip install '\.\[optimum\]'"):
        export_module(torch.nn.Identity(), {"input": torch.zeros(1)}, ["y"], tmp_path / "m.onnx")
