"""OpenVINO's CPU device runs exported bundles: all four modes, mixed placement, nothing left to another provider.

The plugin is an extra: without it these tests are skipped, all but those of the sentence that says so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import palmtop
from palmtop.__main__ import cli
from palmtop.errors import BundleError, InputError, RuntimeMissingError
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.providers import plugins as providers
from palmtop.runtime.providers.openvino import open_on_openvino
from palmtop.runtime.providers.static_sessions import StaticSessions
from palmtop.runtime.reference.heldout import TASKS, held_out_items
from palmtop.runtime.session import Session, SessionOptions
from tests.static.conftest import open_on_cpu
from tests.static.intel_device import register_openvino, tolerance

OPTIONS = GenerationOptions(max_tokens=12)
CONTEXT = 512


@pytest.fixture(scope="module")
def openvino() -> None:
    if not register_openvino():
        pytest.skip("onnxruntime-ep-openvino is not installed: pip install '.[openvino]'")


@pytest.fixture(scope="module")
def bundle(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INT4 weights that compute in float32 on the CPU as well, so that both can be compared."""
    recipe = Recipe(accuracy_level=0, target="openvino", context=CONTEXT, chunk=32)
    return export_model(reference_checkpoint, tmp_path_factory.mktemp("openvino") / "bundle", recipe)


@pytest.fixture(scope="module")
def sessions(bundle: Path, openvino: None) -> Iterator[tuple[Session, Session]]:
    """The bundle on genai's CPU, and all of it on OpenVINO."""
    with (
        palmtop.load(bundle, context=CONTEXT, keep_encoders=True) as cpu,
        palmtop.load(bundle, context=CONTEXT, keep_encoders=True, provider="openvino") as there,
    ):
        yield cpu, there


@pytest.mark.parametrize("task", TASKS)
def test_every_mode_answers_as_on_the_cpu(task: Any, sessions: tuple[Session, Session]) -> None:
    for item in held_out_items(task, 3, 4):
        expected, found = (session.answer(item.messages, options=OPTIONS) for session in sessions)
        assert found.token_ids == expected.token_ids
        assert found.adapters == expected.adapters
        logits = [session._default._track.logits() for session in sessions if session._default is not None]
        assert np.abs(logits[0] - logits[1]).max() <= tolerance() * np.ptp(logits[0])


def test_encoders_may_run_there_beside_a_decoder_on_the_cpu(bundle: Path, openvino: None) -> None:
    item = next(held_out_items("image+audio", 1, 9))
    replies = []
    for provider in ("cpu", {"vision": "openvino", "audio": "openvino"}):
        with palmtop.load(bundle, context=CONTEXT, keep_encoders=True, provider=provider) as session:
            replies.append(session.answer(item.messages, options=OPTIONS).token_ids)
            names = [each.get_providers()[0] for each in session._encoders._sessions.values()]  # type: ignore[attr-defined]
            assert names == ["CPUExecutionProvider" if provider == "cpu" else "OpenVINOExecutionProvider"] * 2
    assert replies[0] == replies[1]


def test_a_graph_that_openvino_does_not_take_whole_is_refused(bundle: Path, openvino: None) -> None:
    """The gated graph of the CPU has control flow and fused attention."""
    with pytest.raises(
        BundleError, match=r"decoder\.onnx: provider 'openvino' does not take every operator .* --fallback"
    ):
        open_on_openvino(bundle / "decoder.onnx", "openvino", 1, {})


def test_what_falls_back_is_named_when_that_was_asked_for(
    bundle: Path, openvino: None, caplog: pytest.LogCaptureFixture
) -> None:
    fell_back: dict[str, list[str]] = {}
    session = open_on_openvino(bundle / "decoder.onnx", "openvino", 1, fell_back, fallback=True)
    counts = {provider: len(nodes) for provider, nodes in providers.placement(session).items()}
    assert counts["CPUExecutionProvider"] == 4  # attention of each layer; the gates' control flow is taken
    told = f"decoder.onnx: 4 of {sum(counts.values())} nodes fell back to the CPU: GroupQueryAttention"
    assert told in caplog.text
    assert len(fell_back["decoder.onnx"]) == 4


def test_weights_are_not_stored_twice(bundle: Path, int4_bundle: Path) -> None:
    apart, beside = (open_bundle(folder).manifest.files for folder in (int4_bundle, bundle))
    assert beside["weights/decoder.bin"].size_bytes < 1.01 * apart["weights/decoder.bin"].size_bytes


@pytest.mark.parametrize(
    "choices",
    [{"symmetric": True, "group": 128}, {"bits": 8}, {"scale_bits": 16, "group": 16}],
    ids=str,
)
def test_stored_bytes_mean_the_same_to_both_operators(
    choices: dict[str, Any], reference_checkpoint: Path, tmp_path: Path
) -> None:
    """Blocks, odd counts of groups and padded rows: static graphs on the CPU provider against the gated graph there."""
    recipe = Recipe(method="rtn", accuracy_level=0, target="openvino", context=128, chunk=8, **choices)
    folder = export_model(reference_checkpoint, tmp_path / "bundle", recipe)
    opened = open_bundle(folder)
    spec = opened.manifest.targets[0].decoder
    assert spec is not None
    with (
        palmtop.load(folder, context=128) as genai,
        Session(
            opened,
            SessionOptions(),
            static=StaticSessions(folder, spec, open_on_cpu, open_on_cpu),
        ) as static,
    ):
        gates = np.eye(3, 2, -1, np.float32)  # none, vision, speech
        for on in gates:
            found = []
            for session in (genai, static):
                decoder = session._open_decoder()
                assert decoder.inputs.adapter_gates is not None
                decoder.inputs.adapter_gates[:] = on
                decoder.append(np.arange(10, 30, dtype=np.int32))
                decoder.append(np.array([7], np.int32))
                found.append(decoder.logits().copy())
                decoder.close()
            assert np.abs(found[0] - found[1]).max() <= 1e-4 * np.ptp(found[0])


def test_bundles_without_graphs_for_it_say_how_to_get_them(int4_bundle: Path) -> None:
    with pytest.raises(InputError, match="has no graphs for provider 'openvino', expected a target; palmtop export"):
        palmtop.load(int4_bundle, provider="openvino")


def test_a_missing_plugin_is_named_with_the_command(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
    monkeypatch.setattr(providers, "_registered", set())
    for provider in ("openvino", {"vision": "openvino"}):
        with pytest.raises(
            RuntimeMissingError,
            match=r"'openvino' is not installed, .*; pip install 'onnxruntime-ep-openvino>=1",
        ):
            palmtop.load(bundle, provider=provider)


def test_a_machine_without_the_device_is_told_so(bundle: Path, openvino: None) -> None:
    with pytest.raises(
        RuntimeMissingError,
        match=r"has no device NPU on this machine, it offers .*CPU.*; --provider openvino:cpu takes",
    ):
        palmtop.load(bundle, provider="openvino:npu")


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        ("opnvino", "found 'opnvino', expected one of cpu, openvino"),
        ("openvino:tpu", "found 'openvino:tpu'"),
        ({"smell": "cpu"}, "found part 'smell', expected vision, audio, decoder"),
        ({"vision": 3}, "option provider: for vision found 3"),
        (3, "found int, expected a name, or names by part"),
    ],
)
def test_other_providers_are_refused(bundle: Path, provider: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        palmtop.load(bundle, provider=provider)


def test_commands_take_a_provider(bundle: Path, openvino: None) -> None:
    arguments = ["bench", str(bundle), "--mode", "text", "--repeat", "1", "--prompt-tokens", "40", "--json"]
    run = CliRunner().invoke(cli, [*arguments, "--answer-tokens", "3", "--provider", "openvino"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert result["context"] == CONTEXT
    assert [m["warm"] for m in result["measurements"]] == [False, True]
    twice = CliRunner().invoke(cli, [*arguments, "--provider", "cpu", "--provider", "vision=openvino"])
    assert isinstance(twice.exception, InputError)


def test_inspect_counts_every_node_on_openvino(bundle: Path, openvino: None) -> None:
    run = CliRunner().invoke(cli, ["inspect", str(bundle), "--provider", "openvino"])
    assert run.exit_code == 0, run.output
    lines = [line for line in run.output.splitlines() if line.startswith("openvino_")]
    assert len(lines) == 6  # prefill and decode of none, vision, speech
    assert all(line.endswith("nodes on OpenVINOExecutionProvider") for line in lines)


def test_an_export_that_was_killed_goes_on(
    reference_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    """Stopped among the target's graphs: nothing half is left, and the next try ends with the same bytes."""
    from palmtop.export.providers.fixed_shape import graphs as writer

    recipe = Recipe(accuracy_level=0, target="openvino", context=CONTEXT, chunk=32)
    calls = []

    def stop(model: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        save(model, path)

    save = writer.ir.save
    monkeypatch.setattr(writer.ir, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        export_model(reference_checkpoint, tmp_path / "again", recipe)
    assert not (tmp_path / "again").exists()
    monkeypatch.setattr(writer.ir, "save", save)
    folder = export_model(reference_checkpoint, tmp_path / "again", recipe)
    first, second = (open_bundle(each).manifest for each in (bundle, folder))
    assert first.files == second.files
    assert [p.name for p in tmp_path.iterdir()] == ["again"]
