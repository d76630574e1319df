"""QNN's emulator compiles and runs what the pass makes; skipped where the provider is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import palmtop
from palmtop.errors import BundleError, InputError
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.convert import export_model
from palmtop.export.graph.building.mark import Mark
from palmtop.export.providers.qnn.calibrate import Calibrated
from palmtop.export.providers.qnn.compile import binary_of, compile_graphs, snr_db
from palmtop.export.providers.qnn.qdq import add_qdq
from palmtop.export.providers.qnn.ranges import Measured
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.providers import plugins as providers
from palmtop.runtime.providers.placed import node_counts
from palmtop.runtime.reference.heldout import TASKS, held_out_items
from tests.npu.test_qdq import build, feeds, quantise

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed: pip install '.[qnn]'")


def calibrated(folder: Path) -> Calibrated:
    found = Calibrated()
    found.add(Measured(folder / "g.onnx"), feeds(99))
    return found


def test_a_graph_compiles_whole_and_comes_back_from_its_binary(tmp_path: Path) -> None:
    source = quantise(build(tmp_path), 4)
    (done,) = compile_graphs(
        tmp_path, {source.name: "qnn-sm8650_g.onnx"}, "sm8650", {source.name: calibrated(tmp_path)}, share=False
    )
    assert done.nodes > 30
    assert done.snr_db is not None and done.snr_db > 12
    assert (tmp_path / binary_of("qnn-sm8650_g.onnx")).stat().st_size > 1000
    session = providers.open_graph("qnn", tmp_path / "qnn-sm8650_g.onnx")
    assert list(providers.placement(session)) == ["QNNExecutionProvider"]
    on_cpu = ort.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, feeds(5))
    for a, b in zip(on_cpu, session.run(None, feeds(5)), strict=True):
        assert snr_db(a, b) > 30  # the same integers, added up in another order


def test_equal_weights_are_in_a_shared_binary_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((256, 1024)).astype(np.float32)
    for rows in (1, 32):
        with ExternalData(tmp_path, f"w{rows}.bin") as sink, ExternalData(tmp_path, f"c{rows}.bin") as codes:
            from palmtop.export.graph.building.builder import GraphBuilder

            g = GraphBuilder(f"g{rows}", sink)
            x = g.input("x", ir.DataType.FLOAT, [1, rows, 256])
            y = Mark("ffn", 1024, 256, "w").put(g.op("MatMul", x, g.weight("w", weight)))
            g.output(y, "y", ir.DataType.FLOAT, [1, rows, 1024])
            model = g.model()
            add_qdq(model, {"x": (-3.0, 3.0), "y": (-99.0, 99.0)}, lambda _: 8, codes)
            ir.save(model, tmp_path / f"g{rows}.onnx")
    alone = compile_graphs(tmp_path, {"g1.onnx": "alone.onnx"}, "sm8750", {}, share=False)
    compile_graphs(tmp_path, {"g1.onnx": "a.onnx", "g32.onnx": "b.onnx"}, "sm8750", {}, share=True)
    assert alone[0].snr_db is None
    assert not (tmp_path / binary_of("b.onnx")).exists()
    one, both = ((tmp_path / binary_of(name)).stat().st_size for name in ("alone.onnx", "a.onnx"))
    assert weight.size < both < one + weight.size // 4


def test_an_operator_that_qnn_lacks_is_refused_or_reported(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["n"], name="neg"), helper.make_node("Det", ["n"], ["y"], name="det")]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 3]), ("y", [1]))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g.onnx")
    with pytest.raises(BundleError, match=r"g\.onnx: provider 'qnn' does not take every operator.*pass --fallback"):
        providers.open_graph("qnn", tmp_path / "g.onnx")
    session = providers.open_graph("qnn", tmp_path / "g.onnx", fallback=True)
    assert "Det det" in providers.fallen_back(session)


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    source = quantise(build(tmp_path), 8)
    found = calibrated(tmp_path)
    found.outputs = {name: -array for name, array in found.outputs.items()}
    with pytest.raises(BundleError, match=r"compiled, its outputs are -?\d.* dB from float32's, expected at least 6"):
        compile_graphs(tmp_path, {source.name: "c.onnx"}, "sm8750", {source.name: found}, share=False)


def test_an_unknown_soc_is_refused(tmp_path: Path) -> None:
    source = quantise(build(tmp_path), 8)
    with pytest.raises(InputError, match="soc is 'sm0001x', which QNN's compiler does not know"):
        compile_graphs(tmp_path, {source.name: "c.onnx"}, "sm0001x", {}, share=False)


def test_the_state_of_the_provider_says_that_it_is_emulated() -> None:
    state = providers.state("qnn")
    assert state.version == "2.7.0" and not state.missing
    assert len(state.devices) == 1
    if providers.is_emulated("qnn"):
        assert "emulated" in state.devices[0]


@pytest.mark.slow
def test_a_whole_bundle_runs_on_qnn(reference_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(context=256, chunk=32, target="qnn", soc="sm8650,sm8750")
    bundle = export_model(reference_checkpoint, tmp_path / "bundle", recipe)
    opened = open_bundle(bundle)
    assert [t.soc for t in opened.manifest.targets] == ["sm8650", "sm8750"]
    for file, places in node_counts(opened, "qnn"):
        assert list(places) == ["QNNExecutionProvider"], file
    placements: list[Any] = ["qnn", {"vision": "qnn", "audio": "qnn"}]
    for provider in placements:
        right = 0
        with palmtop.load(bundle, provider=provider, keep_encoders=True) as session:
            for task in TASKS:
                for item in held_out_items(task, 3, 0):
                    right += session.answer(item.messages, max_tokens=24).text == item.expected
        assert right >= 9  # of 12; the CPU has 11
