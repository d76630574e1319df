"""Encoder graphs of fixed shapes give what the bundle's own give, whatever part of a tile or window is there."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from palmtop.errors import BundleError, InputError
from palmtop.export.arch import Model, find
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.source import BuildContext
from palmtop.export.graph.encoders.conformer import Conformer
from palmtop.export.graph.encoders.siglip import Siglip, rows_of
from palmtop.runtime.bundle.processor_config import ProcessorSpec
from palmtop.runtime.media.encoder_runner import Encoders
from palmtop.runtime.processor.images import static_image_feeds
from palmtop.runtime.processor.images.dynamic_hd import tile_image
from palmtop.runtime.processor.sounds import static_sound_feeds, static_steps
from palmtop.runtime.processor.sounds.log_mel import LogMel
from palmtop.runtime.providers.static_encoders import StaticEncoders

TOLERANCE = 2e-6  # of the features' range: float32 in another order
WINDOW, SHORT = 24, 8


@pytest.fixture(scope="module")
def model(reference_checkpoint: Path) -> Model:
    return find("phi4mm").read_model(Checkpoint(reference_checkpoint))


@pytest.fixture(scope="module")
def spec(model: Model) -> ProcessorSpec:
    """Windows so short that a second of sound has several."""
    assert model.processor.audio is not None
    return replace(model.processor, audio=replace(model.processor.audio, window_steps=WINDOW))


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    rows = model.encoders["vision"].static_lengths("vision", model.processor)["vision"]
    for name, part, length in (("vision", "vision", rows), ("short", "audio", SHORT), ("window", "audio", WINDOW)):
        with ExternalData(folder, f"{name}.bin") as sink:
            g = GraphBuilder(name, sink)
            model.encoders[part].build_static(g, model.weights, length)
            ir.save(g.model(), folder / f"{name}.onnx")
    return folder


def static_encoders(folder: Path, spec: ProcessorSpec, opened: list[str]) -> StaticEncoders:
    def open_graph(path: Path) -> Any:
        opened.append(path.stem)
        return ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    audio = {WINDOW: folder / "window.onnx", SHORT: folder / "short.onnx"}
    return StaticEncoders(folder / "vision.onnx", audio, spec, open_graph, Encoders(None, None, spec), keep=True)


def test_tiles_with_and_without_padding(float_bundle: Path, folder: Path, spec: ProcessorSpec) -> None:
    rng = np.random.default_rng(3)
    own = Encoders(float_bundle / "vision.onnx", None, spec)
    opened: list[str] = []
    static = static_encoders(folder, spec, opened)
    assert spec.image is not None
    for height, width in ((56, 56), (40, 130), (200, 61)):
        tiles = tile_image(rng.integers(0, 255, (height, width, 3)).astype(np.uint8), spec.image)
        expected, found = own.encode_image(tiles), static.encode_image(tiles)
        assert np.abs(found - expected).max() <= TOLERANCE * np.ptp(expected)
    assert not tiles.patch_mask.all()  # the last one is padded
    assert opened == ["vision"]


@pytest.mark.parametrize("frames", [1, 9, 64, 65, 192, 193, 201, 400])
def test_sounds_of_every_length(float_bundle: Path, folder: Path, spec: ProcessorSpec, frames: int) -> None:
    mel = np.random.default_rng(frames).standard_normal((frames, 80)).astype(np.float32) * 4
    assert spec.audio is not None
    sound = LogMel(mel, spec.audio)
    own = Encoders(None, float_bundle / "audio.onnx", spec, keep=True)
    opened: list[str] = []
    static = static_encoders(folder, spec, opened)
    for beside_images in (False, True):
        expected, found = own.encode_audio(sound, beside_images), static.encode_audio(sound, beside_images)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= TOLERANCE * np.ptp(expected)
    assert opened == (["short"] if frames <= 8 * SHORT else ["window"])


def test_steps_stacked_into_rows(model: Model, spec: ProcessorSpec, tmp_path: Path) -> None:
    """Upstream's ``downsample_rate``: zeros fill the last row, in both graphs."""
    audio = model.graphs["audio"]
    assert isinstance(audio, Conformer) and spec.audio is not None
    stacked = Conformer(replace(audio.config, downsample_rate=2))
    wide = replace(spec, audio=replace(spec.audio, downsample_rate=2))
    find_weight = model.weights.find

    def doubled(name: str) -> Any:
        weight = find_weight(name)
        if "up_proj_for" in name and name.endswith(".weight"):
            return replace_shape(weight)
        return weight

    def replace_shape(weight: Any) -> Any:
        array = np.concatenate([weight.array(), -weight.array()], axis=1)
        return type(weight)(weight.name, array.shape, lambda a, b: array[a:b])

    weights = StateDict(doubled)
    with ExternalData(tmp_path, "own.bin") as sink:
        g = GraphBuilder("own", sink)
        stacked.build(g, BuildContext(weights=weights))
        ir.save(g.model(), tmp_path / "own.onnx")
    with ExternalData(tmp_path, "static.bin") as sink:
        g = GraphBuilder("static", sink)
        stacked.build_static(g, weights, WINDOW)
        ir.save(g.model(), tmp_path / "static.onnx")
    mel = np.random.default_rng(0).standard_normal((8 * 5 + 3, 80)).astype(np.float32) * 4
    assert wide.audio is not None
    sound = LogMel(mel, wide.audio)
    expected = Encoders(None, tmp_path / "own.onnx", wide).encode_audio(sound, False)
    opener = lambda path: ort.InferenceSession(path, providers=["CPUExecutionProvider"])  # noqa: E731
    static = StaticEncoders(None, {WINDOW: tmp_path / "static.onnx"}, wide, opener, Encoders(None, None, wide))
    found = static.encode_audio(sound, False)
    assert np.abs(found - expected).max() <= TOLERANCE * np.ptp(expected)


def test_a_number_of_rows_that_the_compiler_breaks_is_not_used(model: Model) -> None:
    vision = model.graphs["vision"]
    assert isinstance(vision, Siglip)
    assert (vision.config.patches**2, rows_of(vision.config)) == (16, 24)
    assert rows_of(replace(vision.config, image_size=448)) == 1024


def test_equal_inputs_are_encoded_once(folder: Path, spec: ProcessorSpec) -> None:
    opened: list[str] = []
    static = static_encoders(folder, spec, opened)
    assert spec.audio is not None
    sound = LogMel(np.zeros((40, 80), np.float32), spec.audio)
    assert static.encode_audio(sound, False) is static.encode_audio(sound, False)
    assert opened == ["short"]
    static.close()
    static.encode_audio(sound, False)
    assert opened == ["short", "short"]


def test_what_has_no_graph_goes_to_the_rest(spec: ProcessorSpec) -> None:
    static = StaticEncoders(None, {}, spec, lambda path: None, Encoders(None, None, spec))
    assert spec.audio is not None
    with pytest.raises(InputError, match="no audio encoder"):
        static.encode_audio(LogMel(np.zeros((9, 80), np.float32), spec.audio), False)


def test_a_graph_that_fails_is_named(folder: Path, spec: ProcessorSpec) -> None:
    class Broken:
        def run(self, *_: object) -> None:
            raise RuntimeError("no such output")

    static = StaticEncoders(
        None, {WINDOW: folder / "window.onnx"}, spec, lambda _: Broken(), Encoders(None, None, spec)
    )
    assert spec.audio is not None
    with pytest.raises(BundleError, match=r"window\.onnx: could not be run \(no such output\)"):
        static.encode_audio(LogMel(np.zeros((9, 80), np.float32), spec.audio), False)


def test_a_new_kind_brings_its_own_inputs_of_fixed_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    images, sounds = ModuleType("images"), ModuleType("sounds")
    images.static_feeds = lambda view, shapes: seen.append((view, shapes)) or {"slice": view["slice"]}  # type: ignore[attr-defined]
    sounds.static_steps = lambda window, spec: len(window["waves"])  # type: ignore[attr-defined]
    sounds.static_feeds = lambda window, spec, steps: ({"waves": window["waves"]}, steps)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "palmtop.runtime.processor.images.slices_of_my_own", images)
    monkeypatch.setitem(sys.modules, "palmtop.runtime.processor.sounds.waves_of_my_own", sounds)
    kind: Any = SimpleNamespace(kind="slices_of_my_own")
    view = {"slice": np.ones(3, np.float32)}
    assert static_image_feeds(view, kind, {"slice": [3]}) == {"slice": view["slice"]}
    assert seen == [(view, {"slice": [3]})]
    sound: Any = SimpleNamespace(kind="waves_of_my_own")
    window = {"waves": np.ones(5, np.float32)}
    assert static_steps(window, sound) == 5
    assert static_sound_feeds(window, sound, 8) == ({"waves": window["waves"]}, 8)
