"""A model walked a layer at a time gives what one session of the whole graph gives, with one layer in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from palmtop.export.arch import read_model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.convert import export_model
from palmtop.export.measure import layerwise
from palmtop.export.measure.decoder_runner import DecoderRunner, Run
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.layerwise import StagedGraph
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle


@pytest.fixture(scope="module")
def reference(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> FloatReference:
    checkpoint = Checkpoint(reference_checkpoint)
    folder = tmp_path_factory.mktemp("walked") / "float"
    return FloatReference(folder, checkpoint, read_model(checkpoint, Recipe()), Recipe(), laid_open=False)


def runs(hidden_size: int) -> list[Run]:
    rng = np.random.default_rng(3)
    found = []
    for length, gates in ((9, [0, 0]), (30, [1, 0]), (17, [0.5, 0.25])):
        places = np.zeros(length, np.int64)
        places[2:6] = np.arange(1, 5)
        prompt = DecoderPrompt(
            mode="text",
            input_ids=rng.integers(3, 400, length),
            media_places=places,
            features=rng.standard_normal((4, hidden_size)).astype(np.float32),
        )
        found.append(Run(prompt=prompt, gates=np.array(gates, np.float32), tokens=rng.integers(3, 400, 5)))
    return found


def whole(bundle: Path) -> list[np.ndarray]:
    spec = open_bundle(bundle).manifest.decoder
    probe = OnnxDecoder(bundle / "decoder.onnx", spec)
    return [probe.logits(run.prompt, run.gates, run.tokens) for run in runs(spec.hidden_size)]


def test_the_walked_reference_is_a_session_of_the_float_bundle(reference: FloatReference, float_bundle: Path) -> None:
    own = runs(reference.manifest.decoder.hidden_size)
    walked = DecoderRunner(reference.graphs["decoder"]).logits(own)
    at_once = DecoderRunner(reference.graphs["decoder"], step=64).logits(own)
    for expected, found, other in zip(whole(float_bundle), walked, at_once, strict=True):
        assert np.abs(found - expected).max() <= 1e-6 * np.ptp(expected)
        assert np.abs(other - expected).max() <= 1e-5 * np.ptp(expected)


def test_a_walked_bundle_is_its_own_session(int4_bundle: Path) -> None:
    check_walk(int4_bundle)


def test_a_walked_bundle_with_scales_in_float16_is_its_own_session(reference_checkpoint: Path, tmp_path: Path) -> None:
    """Their Cast stands before the layer that reads them, the tied table's before the first one."""
    export_model(reference_checkpoint, tmp_path / "b", Recipe(method="rtn", scale_bits=16), verify=False)
    check_walk(tmp_path / "b")


def check_walk(bundle: Path) -> None:
    graph = StagedGraph.of_file(bundle / "decoder.onnx", laid_open=False)
    found = DecoderRunner(graph).logits(runs(open_bundle(bundle).manifest.decoder.hidden_size))
    for expected, own in zip(whole(bundle), found, strict=True):
        assert np.abs(own - expected).max() <= 1e-5 * np.ptp(expected)


def test_a_head_in_parts_gives_the_same_logits(reference: FloatReference, monkeypatch: pytest.MonkeyPatch) -> None:
    own = runs(reference.manifest.decoder.hidden_size)
    expected = DecoderRunner(reference.graphs["decoder"]).logits(own)
    monkeypatch.setattr(layerwise, "HEAD_BLOCK_BYTES", 20_000)
    found = DecoderRunner(reference.graphs["decoder"]).logits(own)
    for one, other in zip(expected, found, strict=True):
        assert np.abs(one - other).max() <= 1e-6 * np.ptp(one)


def test_one_layer_is_in_memory_at_a_time(reference: FloatReference, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = reference.graphs["decoder"]
    open_session, most = StagedGraph._session, []

    def counted(self: StagedGraph, *args: object) -> object:
        opened = open_session(self, *args)  # type: ignore[arg-type]
        most.append(len(self._sessions))
        return opened

    monkeypatch.setattr(StagedGraph, "_session", counted)
    DecoderRunner(graph).logits(runs(reference.manifest.decoder.hidden_size))
    assert max(most) == 1
    assert not graph._sessions
