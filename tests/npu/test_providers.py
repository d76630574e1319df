"""What a user hears when a provider, its graphs or its versions are not what they should be. No provider is needed."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

import palmtop
from palmtop.__main__ import cli
from palmtop.errors import BundleError, InputError, RuntimeMissingError
from palmtop.export.convert import export_model
from palmtop.export.providers.qnn import compile as qnn_compile
from palmtop.export.providers.qnn.compile import Compiled
from palmtop.export.providers.qnn.target import summary as qnn_summary
from palmtop.export.recipe import Recipe
from palmtop.runtime import session as session_module
from palmtop.runtime.bundle.manifest import FileSpec
from palmtop.runtime.bundle.opening import Bundle, open_bundle
from palmtop.runtime.bundle.targets import TargetSpec
from palmtop.runtime.doctor import examine
from palmtop.runtime.providers import openvino, placed
from palmtop.runtime.providers import plugins as providers
from palmtop.runtime.providers.placed import PlacedBundle, hash_of_files, source_of
from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import held_out_items

VERSIONS = {"qairt": "2.51.0", "onnxruntime": "1.31.1", "onnxruntime-qnn": "2.7.0"}


@pytest.fixture
def bundle(int4_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """With vision graphs for sm8750, on a phone that has the provider."""
    monkeypatch.setattr(placed, "find_devices", lambda name: [name])
    monkeypatch.setattr(placed, "is_emulated", lambda name: False)
    monkeypatch.setattr(placed, "this_soc", lambda: "sm8750")
    monkeypatch.setattr(placed, "compiler_versions", lambda name: VERSIONS)
    opened = open_bundle(int4_bundle)
    return with_target(opened, VERSIONS)


def with_target(bundle: Bundle, versions: dict[str, str], soc: str | None = "sm8750") -> Bundle:
    target = TargetSpec(
        provider="qnn", soc=soc, versions={}, decoder=None, encoders={"vision": f"qnn-{soc}_vision.onnx"}
    )
    files = bundle.manifest.files | {
        name: FileSpec(size_bytes=1, sha256=letter * 64)
        for name, letter in ((f"qnn-{soc}_vision.onnx", "a"), ("qnn_vision.onnx", "b"))
    }
    hashes = {name: spec.sha256 for name, spec in files.items()}
    target = replace(target, versions=versions | {"sources": hash_of_files(hashes, target)})
    return Bundle(bundle.path, replace(bundle.manifest, targets=(target,), files=files))


def test_graphs_that_fit_are_accepted(bundle: Bundle) -> None:
    PlacedBundle(bundle, "qnn", ("vision",)).check()


def test_another_soc_is_refused_with_the_export_that_mends_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placed, "this_soc", lambda: "sm8650")
    with pytest.raises(BundleError, match=r"compiled for sm8750, this is sm8650; palmtop export .* --set soc=sm8650$"):
        PlacedBundle(bundle, "qnn", ("vision",)).check()
    monkeypatch.setattr(placed, "this_soc", lambda: None)  # a system that does not tell is not held against the bundle
    PlacedBundle(bundle, "qnn", ("vision",)).check()


def test_of_two_socs_the_machines_own_is_taken(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bundle.manifest.targets[0]
    other = replace(first, soc="sm8650")
    both = Bundle(bundle.path, replace(bundle.manifest, targets=(first, other)))
    monkeypatch.setattr(placed, "this_soc", lambda: "sm8650")
    assert PlacedBundle(both, "qnn", ()).target() is other


def test_another_compiler_is_refused_until_recompiling_is_asked_for(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placed, "compiler_versions", lambda name: VERSIONS | {"qairt": "2.60.0"})
    with pytest.raises(BundleError, match=r"by qairt 2\.51\.0, found 2\.60\.0; pass --recompile"):
        PlacedBundle(bundle, "qnn", ("vision",)).check()
    PlacedBundle(bundle, "qnn", ("vision",), recompile=True).check()


def test_sources_that_changed_make_the_binary_stale(bundle: Bundle) -> None:
    files = bundle.manifest.files | {"qnn_vision.onnx": FileSpec(size_bytes=1, sha256="c" * 64)}
    changed = Bundle(bundle.path, replace(bundle.manifest, files=files))
    with pytest.raises(BundleError, match=r"other sources than lie beside them; palmtop export .* --set soc=sm8750$"):
        PlacedBundle(changed, "qnn", ("vision",)).check()


def test_a_part_without_graphs_is_named(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="have no decoder, expected one; pass --provider decoder=cpu"):
        PlacedBundle(bundle, "qnn", ("vision", "decoder")).check()


def test_a_part_that_the_model_lacks_is_passed_over(bundle: Bundle) -> None:
    deaf = Bundle(bundle.path, replace(bundle.manifest, audio=None))
    PlacedBundle(deaf, "qnn", ("vision", "audio")).check()


def test_a_bundle_without_graphs_is_told_how_to_get_them(int4_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placed, "find_devices", lambda name: [name])
    with pytest.raises(InputError, match=r"has no graphs for provider 'qnn', expected a target; palmtop export"):
        palmtop.load(int4_bundle, provider="qnn")


def test_an_export_without_the_compiler_ends_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(providers.PACKAGES, "qnn", replace(providers.PACKAGES["qnn"], module="no_such_module"))
    monkeypatch.setattr(providers, "_registered", set())
    monkeypatch.setattr("palmtop.export.convert.write_bundle", lambda *_: pytest.fail("hours of work were begun"))
    with pytest.raises(RuntimeMissingError, match=r"pip install 'onnxruntime-qnn==[\d.]+'$"):
        export_model(checkpoint_path(), tmp_path / "bundle", Recipe(context=256, chunk=32, target="qnn"))
    assert not list(tmp_path.iterdir())


def test_an_absent_provider_is_one_sentence_with_the_command(
    int4_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = replace(providers.PACKAGES["qnn"], module="no_such_module")
    monkeypatch.setitem(providers.PACKAGES, "qnn", missing)
    monkeypatch.setattr(providers, "_registered", set())
    with pytest.raises(RuntimeMissingError, match=r"'qnn' is not installed.*pip install 'onnxruntime-qnn==[\d.]+'$"):
        palmtop.load(int4_bundle, provider={"vision": "qnn"})
    result = CliRunner().invoke(cli, ["run", str(int4_bundle), "Hi", "--provider", "qnn"])
    assert isinstance(result.exception, RuntimeMissingError)


def test_a_package_that_cannot_be_loaded_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_library_path() -> str:
        raise OSError("libQnnHtp.so: wrong ELF class")

    module = SimpleNamespace(get_library_path=get_library_path)
    monkeypatch.setattr(providers, "_registered", set())
    monkeypatch.setattr(providers.importlib, "import_module", lambda name: module)
    with pytest.raises(
        RuntimeMissingError, match=r"cannot be loaded \(libQnnHtp.so.*--force-reinstall onnxruntime-qnn==2"
    ):
        providers.find_devices("qnn")


@pytest.mark.parametrize("provider", ["npu", {"visoin": "qnn"}, {"vision": "npu"}, 3])
def test_unknown_names_are_refused(int4_bundle: Path, provider: Any) -> None:
    with pytest.raises(InputError, match="option provider"):
        palmtop.load(int4_bundle, provider=provider)


def test_the_source_of_a_compiled_graph_is_found_by_its_name() -> None:
    target = TargetSpec(provider="qnn", soc="sm8750", versions={}, decoder=None, encoders={})
    assert source_of(target, "qnn-sm8750_audio.64.onnx") == "qnn_audio.64.onnx"
    assert source_of(replace(target, soc=None), "qnn_audio.onnx") == "qnn_audio.onnx"


def test_the_soc_is_read_where_the_system_tells(tmp_path: Path) -> None:
    (tmp_path / "machine").write_text("SM8750\n")
    assert providers.this_soc(tmp_path / "machine") == "sm8750"
    assert providers.this_soc(tmp_path / "none") is None


def test_what_fell_back_is_kept_and_told(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = {"CPUExecutionProvider": ["If a", "Loop b"], "QNNExecutionProvider": ["MatMul c"]}
    session = SimpleNamespace(
        get_provider_graph_assignment_info=lambda: [
            SimpleNamespace(
                ep_name=name,
                get_nodes=lambda names=names: [SimpleNamespace(op_type=n.split()[0], name=n.split()[1]) for n in names],
            )
            for name, names in nodes.items()
        ]
    )
    asked: list[bool] = []

    def open_graph(name: str, path: Path, *, fallback: bool, **_: Any) -> Any:
        asked.append(fallback)
        return session

    monkeypatch.setattr(placed, "open_graph", open_graph)
    whole = PlacedBundle(bundle, "qnn", ("vision",), fallback=True)
    with caplog.at_level(logging.WARNING):
        whole.open(whole.target(), bundle.path / "qnn-sm8750_vision.onnx")
    assert whole.fell_back == {"qnn-sm8750_vision.onnx": ["If a", "Loop b"]}
    assert "2 of 3 nodes fell back to the CPU: If a, Loop b" in caplog.text
    assert asked == [True]


def test_recompiling_opens_the_source_for_the_soc(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, Any]] = []

    def open_graph(name: str, path: Path, *, options: Any, **_: Any) -> Any:
        opened.append((path.name, options))
        return SimpleNamespace(get_provider_graph_assignment_info=list)

    monkeypatch.setattr(placed, "open_graph", open_graph)
    for recompile in (False, True):
        whole = PlacedBundle(bundle, "qnn", ("vision",), recompile=recompile)
        whole.open(whole.target(), bundle.path / "qnn-sm8750_vision.onnx")
        assert whole.compiled_here == (["qnn-sm8750_vision.onnx"] if recompile else [])
    assert opened == [("qnn-sm8750_vision.onnx", {}), ("qnn_vision.onnx", {"soc_model": "SM8750"})]


def test_doctor_lists_providers_with_what_is_missing() -> None:
    states = [
        providers.ProviderState(name="qnn", version="2.7.0", devices=("NPU (Qualcomm)",), missing=""),
        providers.ProviderState(
            name="openvino", version=None, devices=(), missing="not installed; pip install 'the-plugin>=1'"
        ),
        providers.ProviderState(name="other", version="1.0", devices=(), missing="finds no device"),
    ]
    genai: Any = SimpleNamespace(__version__="0")
    found = {f.name: f for f in examine(lambda: genai, lambda: ["CPU"], lambda: states)}
    assert (found["provider qnn"].level, found["provider qnn"].found) == ("good", "2.7.0, NPU (Qualcomm)")
    assert found["provider openvino"].advice == "pip install 'the-plugin>=1'"
    assert (found["provider other"].level, found["provider other"].advice) == ("advice", "finds no device")


def test_the_cpu_is_opened_like_the_others(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"], name="neg")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g.onnx")
    session = providers.open_graph("cpu", tmp_path / "g.onnx")
    assert providers.placement(session) == {"CPUExecutionProvider": ["Neg neg"]}
    assert providers.fallen_back(session) == []  # the CPU was asked for
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"bad\.onnx: provider 'cpu' cannot load it"):
        providers.open_graph("cpu", tmp_path / "bad.onnx")


def test_inspect_shows_targets(
    bundle: Bundle, int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palmtop.runtime.commands import inspect as command

    monkeypatch.setattr(command, "open_bundle", lambda path, hashes: bundle)
    shown = CliRunner().invoke(cli, ["inspect", str(int4_bundle)])
    assert "graphs for qnn on sm8750: vision (qairt 2.51.0" in " ".join(shown.stdout.split())
    data = json.loads(CliRunner().invoke(cli, ["inspect", str(int4_bundle), "--json"]).stdout)
    assert data["targets"][0]["soc"] == "sm8750"


def placed_session(*cpu: str, npu: int = 3) -> Any:
    """A session of which so much runs on the CPU, as onnxruntime tells it."""
    nodes = {"QNNExecutionProvider": [f"Conv c{i}" for i in range(npu)], "CPUExecutionProvider": list(cpu)}

    def part(name: str) -> SimpleNamespace:
        found = [SimpleNamespace(op_type=t.split()[0], name=t.split()[1]) for t in nodes[name]]
        return SimpleNamespace(ep_name=name, get_nodes=lambda: found)

    return SimpleNamespace(get_provider_graph_assignment_info=lambda: [part(name) for name in nodes if nodes[name]])


def test_openvinos_encoders_are_counted_in_a_session(
    int4_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = providers.open_graph

    def open_graph(name: str, path: Path, **how: Any) -> Any:
        session = real("cpu", path)
        session.get_provider_graph_assignment_info = placed_session("Det d").get_provider_graph_assignment_info
        return session

    monkeypatch.setattr(openvino, "open_graph", open_graph)
    monkeypatch.setattr(openvino, "openvino_device", lambda provider: None)
    monkeypatch.setattr(session_module, "openvino_device", lambda provider: None)
    where = {"vision": "openvino", "audio": "openvino"}
    item = next(held_out_items("image", 1, 9))
    with palmtop.load(int4_bundle, provider=where, fallback=True, threads=1) as session:
        session.answer(item.messages, max_tokens=1)
        assert session.fell_back == {"vision.onnx": ["Det d"]}
    assert "vision.onnx: 1 of 4 nodes fell back to the CPU: Det d" in caplog.text


def test_inspect_counts_where_nodes_run_encoders_of_openvino_too(
    int4_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placed, "find_devices", lambda name: [name])
    monkeypatch.setattr(
        placed, "open_graph", lambda _, path, **__: placed_session(*(["Det d"] if "vision" in path.name else []))
    )
    shown = CliRunner().invoke(cli, ["inspect", str(int4_bundle), "--provider", "openvino"]).stdout
    assert shown.splitlines() == [
        "2 graphs for openvino: 1 of 7 nodes fall back to the CPU",
        "vision.onnx: 3 nodes on QNNExecutionProvider, 1 nodes on CPUExecutionProvider",
        "  on the CPU: Det d",
        "audio.onnx: 3 nodes on QNNExecutionProvider",
    ]
    told = CliRunner().invoke(cli, ["inspect", str(int4_bundle), "--provider", "openvino", "--json"]).stdout
    assert json.loads(told)["nodes"]["vision.onnx"] == {"QNNExecutionProvider": 3, "CPUExecutionProvider": 1}


def test_an_export_says_where_the_nodes_of_its_targets_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reference_checkpoint: Path
) -> None:
    arguments = ["export", str(reference_checkpoint), "-o", str(tmp_path / "b"), "--context", "256", "--no-verify"]
    told = CliRunner().invoke(cli, [*arguments, "--target", "openvino", "--set", "chunk=32"]).stdout
    assert f"7 graphs for openvino, which compiles them when they are loaded: palmtop inspect {tmp_path / 'b'}" in told
    compiled = [
        Compiled(file="a.onnx", nodes=40, snr_db=21.04, on_cpu=("Det d",)),
        Compiled(file="b.onnx", nodes=2, snr_db=None),
    ]
    assert qnn_summary("sm8750", compiled) == (
        "2 graphs for qnn on sm8750: 42 nodes on qnn, 1 on the CPU (Det d), where the lookup of the embedding stays by"
        " design; at least 21.0 dB from float32's outputs"
    )


def test_a_graph_that_qnn_does_not_compile_whole_is_refused_with_the_operators(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def open_graph(name: str, path: Path, *, fallback: bool = False, **how: Any) -> Any:
        if not fallback:
            raise providers.CpuFallbackError("pass --fallback")
        return placed_session("Det d", npu=8)

    monkeypatch.setattr(qnn_compile, "open_graph", open_graph)
    with pytest.raises(BundleError, match=r"^g.onnx: 1 of 9 nodes fell back to the CPU: Det d, expected every node on"):
        qnn_compile.compile_graphs(tmp_path, {"g.onnx": "c.onnx"}, "sm8750", {}, share=False)
