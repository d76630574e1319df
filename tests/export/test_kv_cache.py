"""KV caches of 8 and 4 bits: where their scales come from, what they do to the logits, who notices wrong ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.errors import CheckpointError, InputError
from palmtop.export.arch import find, read_model
from palmtop.export.bundle.manifest_builder import list_files, write_manifest
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.cli import _measured, export_command
from palmtop.export.convert import export_model
from palmtop.export.graph.kv_cache import FLOAT_CACHE, LayerScales
from palmtop.export.kv import cache_for, scale_bytes
from palmtop.export.kv.calibrate import CacheObserver, calibrated_cache
from palmtop.export.kv.ranges import ChannelRanges, key_reach
from palmtop.export.kv.stored_cache import FIRST_SCALE, stored_cache, with_float_cache
from palmtop.export.measure.divergence import agreement
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.export.measure.samples import Sample, SampleReader, packaged_questions
from palmtop.export.mixed_precision.budget import Request
from palmtop.export.mixed_precision.calibrate import StatisticsFolder, calibrate
from palmtop.export.recipe import Recipe
from palmtop.export.verify import verify
from palmtop.export.verify.kv_loss import CHUNK, cache_loss, judge_cache
from palmtop.export.verify.long_text import long_text
from palmtop.export.verify.page.report import render
from palmtop.runtime.bundle.opening import Bundle, open_bundle
from tests.export.test_phi3 import write_phi3
from tests.reference.port import random_checkpoint

LONG = 512  # tokens of the bundle's context, and of the long text


@pytest.fixture(scope="module")
def checkpoint(reference_checkpoint: Path) -> Checkpoint:
    return Checkpoint(reference_checkpoint)


@pytest.fixture(scope="module")
def float_model(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> FloatReference:
    recipe = Recipe(context=8192)
    folder = tmp_path_factory.mktemp("kv") / "float"
    model = read_model(checkpoint, recipe)
    return FloatReference(folder, checkpoint, model, recipe, threads=1)


@pytest.fixture(scope="module")
def samples(float_model: FloatReference) -> list[Sample]:
    reader = SampleReader(float_model.folder, float_model.manifest)
    return [reader.read(q) for q in packaged_questions(["text", "image", "audio"], 1, is_general=False)]


@pytest.fixture(scope="module", params=[8, 4])
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory, request: Any) -> Bundle:
    folder = tmp_path_factory.mktemp("kv") / "bundle"
    recipe = Recipe(kv=request.param, context=LONG, bits=32)
    return open_bundle(export_model(checkpoint.path, folder, recipe))


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(bundle.path, tmp_path / "bundle"))


def test_the_envelope_is_the_pairs_length_and_the_others_own_size() -> None:
    """Four rotating channels (0 with 2, 1 with 3), two that do not; two tokens."""
    key = np.array([[3, 0, 4, -1, -7, 0.5], [0, 0.6, 0, 0.8, 2, -9]], np.float32)[None, None]
    value = np.array([[1, -2, 3, -4, 5, -6], [-7, 1, 1, 1, 1, 1]], np.float32)[None, None]
    envelope = ChannelRanges(rotary_size=4)
    envelope.add(key[:, :, :1], value[:, :, :1])
    envelope.add(key[:, :, 1:], value[:, :, 1:])
    scales = envelope.scales(8)
    assert np.allclose(scales.key * 127, [[5, 1, 5, 1, 7, 9]])
    assert np.allclose(scales.value * 127, [[7, 2, 3, 4, 5, 6]])
    assert np.allclose(envelope.scales(4).key * 8, [[5, 1, 5, 1, 7, 9]])


def test_silent_channels_get_some_room_and_an_empty_cache_any() -> None:
    envelope = ChannelRanges(rotary_size=2)
    envelope.add(np.zeros((1, 1, 3, 4), np.float32), np.array([1.0, 0, 0, 0.5], np.float32).reshape(1, 1, 1, 4))
    scales = envelope.scales(8)
    assert np.allclose(scales.value * 127, [[1, 1e-3, 1e-3, 0.5]])
    assert (scales.key > 0).all()
    with pytest.raises(ValueError, match="no keys"):
        ChannelRanges(rotary_size=2).scales(8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(-1e4, 1e4), st.sampled_from([2, 4, 6]))
def test_no_rotation_leaves_the_envelope(seed: int, position: float, rotary_size: int) -> None:
    key = np.random.default_rng(seed).standard_normal((1, 2, 5, 6)).astype(np.float32)
    half = rotary_size // 2
    angles = position / 100.0 ** (np.arange(half) / half)
    turned = key.copy()
    first, second = key[..., :half], key[..., half:rotary_size]
    turned[..., :half] = first * np.cos(angles) - second * np.sin(angles)
    turned[..., half:rotary_size] = second * np.cos(angles) + first * np.sin(angles)
    assert (np.abs(turned).max((0, 2)) <= key_reach(key, rotary_size) * (1 + 1e-5)).all()
    assert np.allclose(key_reach(turned, rotary_size), key_reach(key, rotary_size), rtol=1e-4)


def test_calibrated_envelopes_are_those_of_the_unrotated_keys_times_the_attention_factor(
    float_model: FloatReference, samples: list[Sample]
) -> None:
    """By hand from what enters attention, before any rotation; LongRoPE's factor makes keys longer, angles do not."""
    text = [sample for sample in samples if sample.mode == "text"][:1]
    found = envelopes(float_model, text, rotary_size=48)
    decoder = find("phi4mm").read_model(Checkpoint(_source(float_model))).decoder
    factor = decoder.rope.attention_factor
    assert factor > 1.1
    for layer, (key, value) in enumerate(_unrotated(float_model, text[0])):
        lengths = np.hypot(key[:, :, :24], key[:, :, 24:48]).max(1) * factor
        expected = np.concatenate([lengths, lengths, np.abs(key[:, :, 48:]).max(1)], -1)
        own = found[layer]
        assert own.key is not None
        assert own.value is not None
        if layer == 0:  # further up, the run with long factors sees other keys
            assert np.allclose(own.key, expected, rtol=1e-4)
            assert np.allclose(own.value, np.abs(value).max(1), rtol=1e-4)
        assert (own.key >= expected * (1 - 1e-4)).all()
        assert (own.value >= np.abs(value).max(1) * (1 - 1e-4)).all()


def envelopes(model: FloatReference, samples: list[Sample], rotary_size: int) -> list[ChannelRanges]:
    observer = CacheObserver(model.manifest.decoder, rotary_size, samples)
    observer.walk(model, lambda at: None)
    return observer.found


def _source(model: FloatReference) -> Path:
    from palmtop.runtime.reference import checkpoint_path

    assert model.manifest.model
    return checkpoint_path()


def _unrotated(model: FloatReference, sample: Sample) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """[KV, T, D] keys and values of every layer as the fused projection gives them."""
    graph, live, found = model.graphs["decoder"], model.decoder_inputs(sample, []), []
    for number, stage in enumerate(graph.stages):
        entering = [str(n.input[0]) for n in stage.nodes if n.op_type == "GroupQueryAttention"]
        live |= graph.run(number, live, exposed=entering)
        for name in entering:
            heads = live[name][0].reshape(len(sample.input_ids), -1, 64).transpose(1, 0, 2)
            found.append((heads[3:4], heads[4:5]))
    return found


def test_every_mode_is_calibrated_on_through_its_adapter(float_model: FloatReference, samples: list[Sample]) -> None:
    """Each mode alone is within the envelope of all, and none of them is all of it."""
    whole = envelopes(float_model, samples, rotary_size=48)
    for mode in ("text", "image", "audio"):
        alone = envelopes(float_model, [s for s in samples if s.mode == mode], rotary_size=48)
        largest = [bool((w.key >= a.key * (1 - 1e-5)).all()) for w, a in zip(whole, alone, strict=True)]  # type: ignore[operator]
        assert all(largest)
        assert not all(np.allclose(w.key, a.key) for w, a in zip(whole, alone, strict=True))  # type: ignore[arg-type]
    gates = {s.mode: float_model.decoder_inputs(s, [np.zeros((1, 192), np.float32)])["adapter_gates"] for s in samples}
    assert {mode: g.tolist() for mode, g in gates.items()} == {"text": [0, 0], "image": [1, 0], "audio": [0, 1]}


def test_small_batches_find_the_same(
    float_model: FloatReference, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = envelopes(float_model, samples, rotary_size=48)
    monkeypatch.setattr("palmtop.export.kv.calibrate.BATCH_BYTES", 1)
    for one, other in zip(whole, envelopes(float_model, samples, rotary_size=48), strict=True):
        assert np.allclose(one.key, other.key, rtol=1e-5)  # type: ignore[arg-type]
        assert np.allclose(one.value, other.value, rtol=1e-5)  # type: ignore[arg-type]


def test_long_samples_are_cut(
    float_model: FloatReference, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = samples[0]
    short = replace(text, input_ids=text.input_ids[:9], places=text.places[:9])
    monkeypatch.setattr("palmtop.export.kv.calibrate.LONGEST_SAMPLE", 9)
    for one, other in zip(*(envelopes(float_model, [s], rotary_size=48) for s in (text, short)), strict=True):
        assert np.allclose(one.key, other.key)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [9, 2048])
def test_a_walk_with_the_statistics_finds_the_same(
    float_model: FloatReference, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Its runs are the statistics' own, but for samples that they lack, that are cut, or that have long factors."""
    monkeypatch.setattr("palmtop.export.kv.calibrate.LONGEST_SAMPLE", limit)
    observer = CacheObserver(float_model.manifest.decoder, 48, samples)
    calibrate(float_model, samples[:2], StatisticsFolder(tmp_path), cache=observer)
    for one, other in zip(envelopes(float_model, samples, rotary_size=48), observer.found, strict=True):
        assert np.allclose(one.key, other.key, rtol=1e-5)  # type: ignore[arg-type]
        assert np.allclose(one.value, other.value, rtol=1e-5)  # type: ignore[arg-type]
    (tmp_path / "alone").mkdir()
    calibrate(float_model, samples[:2], StatisticsFolder(tmp_path / "alone"))
    for path in sorted((tmp_path / "alone").iterdir()):
        with np.load(path) as alone, np.load(tmp_path / path.name) as together:
            assert alone["count"] == together["count"]
            assert np.allclose(alone["moments"], together["moments"], rtol=1e-5)


def test_keys_that_are_no_numbers_are_refused(float_model: FloatReference, samples: list[Sample]) -> None:
    class Broken(FloatReference):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            made = float_model.step(*args, **kwargs)
            return {name: np.full_like(a, np.nan) if name.startswith("present.") else a for name, a in made.items()}

    broken = object.__new__(Broken)
    broken.manifest, broken.graphs = float_model.manifest, float_model.graphs
    with pytest.raises(CheckpointError, match="layer 0: keys or values are not finite"):
        envelopes(broken, samples[:1], rotary_size=48)


def test_every_adapter_mode_has_scales_of_its_own_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Text switches no gate on; a merged adapter is in the weights."""
    (tmp_path / "mine.jsonl").write_text('{"text": "abc abc"}\n')
    model = find("phi4mm").read_model(checkpoint)
    gated, none, merged = (
        calibrated_cache(checkpoint, model, Recipe(kv=8, context=LONG, adapters=a), tmp_path / "mine.jsonl").layers
        for a in ("gated", "none", "merge=vision")
    )
    assert [layer.key.shape for layer in merged] == [(1, 64)] * 4
    assert all((layer.key > 0).all() and (layer.value > 0).all() for layer in merged)
    assert np.array_equal(gated[3].key, none[3].key)
    assert not np.allclose(merged[3].key, none[3].key)


def test_the_users_samples_are_calibrated_on(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"text": "abc abc"}\n')
    arguments = [str(checkpoint.path), "-o", str(tmp_path / "b"), "--kv", "8", "--no-verify", "--context", "512"]
    done = CliRunner().invoke(export_command, [*arguments, "--calibrate", str(tmp_path / "mine.jsonl")])
    assert done.exit_code == 0, done.output
    opened = open_bundle(tmp_path / "b")
    own = stored_cache(opened.file("decoder.onnx"), opened.manifest.decoder)
    packaged = calibrated_cache(checkpoint, find("phi4mm").read_model(checkpoint), Recipe(kv=8, context=512), None)
    for mine, theirs in zip(own.layers, packaged.layers, strict=True):
        assert mine.value.max() < theirs.value.max()  # two words reach less far
    assert "plan.json" not in opened.manifest.files


def test_samples_without_a_use_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"text": "abc"}\n')
    arguments = [str(checkpoint.path), "-o", str(tmp_path / "b"), "--calibrate", str(tmp_path / "mine.jsonl")]
    result = CliRunner().invoke(export_command, arguments)
    assert isinstance(result.exception, InputError)
    assert "expected one of gptq, gptq-in-order, or --kv 8 or 4" in str(result.exception)


@pytest.mark.parametrize("kv", [2, 16, 8.0, "8", None])
def test_other_widths_are_refused(kv: Any) -> None:
    with pytest.raises(InputError, match="kv is"):
        Recipe(kv=kv)


def test_the_bundle_says_what_its_cache_is(bundle: Bundle) -> None:
    decoder = bundle.manifest.decoder
    data = json.loads((bundle.path / "bundle.json").read_text())
    assert [state["dtype"] for state in data["decoder"]["states"]] == [f"int{decoder.kv_bits}"] * 2
    width = {8: 64, 4: 32}[decoder.kv_bits]
    config = json.loads((bundle.path / "genai_config.json").read_text())
    assert config["model"]["decoder"]["head_size"] == decoder.state("value").stored_shape(1)[3] == width
    inputs = {v.name: v for v in ir.load(bundle.file("decoder.onnx")).graph.inputs}
    cache = inputs["past_key_values.3.value"]
    assert (cache.dtype, cache.shape[3]) == ({8: ir.DataType.INT8, 4: ir.DataType.UINT8}[decoder.kv_bits], width)  # type: ignore[index]


def test_logits_stay_close_and_the_float_twin_is_the_float_bundle(bundle: Bundle, float_bundle: Path) -> None:
    spec, path = bundle.manifest.decoder, bundle.file("decoder.onnx")
    ids = np.random.default_rng(0).integers(3, 400, 60)
    empty = np.zeros((1, spec.hidden_size), np.float32)
    prompt = DecoderPrompt(mode="text", input_ids=ids[:50], media_places=np.zeros(50, np.int64), features=empty)
    gates = np.array([1, 0], np.float32)
    exact = OnnxDecoder(float_bundle / "decoder.onnx", open_bundle(float_bundle).manifest.decoder, threads=1)
    wanted = exact.logits(prompt, gates, ids[50:])
    twin = OnnxDecoder(path, spec, threads=1, graph=with_float_cache(path, spec))
    assert np.array_equal(twin.logits(prompt, gates, ids[50:]), wanted)
    off = np.abs(OnnxDecoder(path, spec, threads=1).logits(prompt, gates, ids[50:]) - wanted).max() / np.ptp(wanted)
    assert 1e-6 < off < {8: 0.03, 4: 0.3}[spec.kv_bits]


def test_a_streamed_text_has_the_logits_of_a_whole_one(bundle: Bundle) -> None:
    spec = bundle.manifest.decoder
    probe = OnnxDecoder(bundle.file("decoder.onnx"), spec, threads=1)
    ids = np.random.default_rng(1).integers(3, 400, 150)
    rows = list(probe.stream(ids, np.zeros(2, np.float32), CHUNK))
    assert len(rows) == 3
    for row, count in zip(rows, (64, 128, 150), strict=True):
        empty = np.zeros((1, spec.hidden_size), np.float32)
        whole = DecoderPrompt(
            mode="text", input_ids=ids[:count], media_places=np.zeros(count, np.int64), features=empty
        )
        expected = probe.logits(whole, np.zeros(2, np.float32), ids[:1])[0]
        assert np.abs(row - expected).max() < 1e-4 * np.ptp(expected)


def test_rotation_outside_the_kernel_and_padded_heads_work_too(tmp_path: Path) -> None:
    """Heads of 24, padded to nothing the kernel rotates: keys come rotated, and are calibrated as they are stored."""
    random_checkpoint(
        tmp_path / "checkpoint",
        3,
        num_hidden_layers=2,
        head_dim=20,
        partial_rotary_factor=0.5,
        vision_hidden_size=16,
        vision_intermediate_size=24,
        vision_layers=2,
        vision_heads=2,
        audio_hidden_size=16,
        audio_intermediate_size=16,
        audio_blocks=1,
        audio_heads=2,
        nemo_conv_channels=4,
        bias_max_distance=10,
    )
    (tmp_path / "mine.jsonl").write_text('{"text": "' + "some words that it has never seen, " * 3 + '"}\n')
    found = {}
    for kv in (32, 8):
        request = None if kv == 32 else Request(samples=tmp_path / "mine.jsonl")
        recipe = Recipe(kv=kv, bits=32, context=64)
        bundle = open_bundle(export_model(tmp_path / "checkpoint", tmp_path / f"b{kv}", recipe, request=request))
        probe = OnnxDecoder(bundle.file("decoder.onnx"), bundle.manifest.decoder, threads=1)
        ids = np.array([5, 9, 200, 31, 77, 8])
        empty = np.zeros((1, bundle.manifest.decoder.hidden_size), np.float32)
        prompt = DecoderPrompt(mode="text", input_ids=ids[:4], media_places=np.zeros(4, np.int64), features=empty)
        found[kv] = probe.logits(prompt, np.zeros(2, np.float32), ids[4:])
    assert 0 < np.abs(found[8] - found[32]).max() < 0.15 * np.ptp(found[32])


def test_the_loss_is_measured_by_mode_and_by_length(bundle: Bundle) -> None:
    told: list[str] = []
    loss = cache_loss(bundle, 1, told.append)
    assert set(loss.modes) == {"text", "image", "audio", "image+audio"}
    assert list(loss.by_length) == [64, 128, 256, 512]
    assert sum(a.positions for a in loss.by_length.values()) == LONG // CHUNK
    bits = bundle.manifest.decoder.kv_bits
    for each in loss.modes.values():
        assert 0 < each.mean_kl < {8: 0.01, 4: 1.0}[bits]
    assert all(check.passed for check in judge_cache(loss))
    assert loss.seconds > 0
    assert min(loss.snr_db.values()) > {8: 30, 4: 12}[bits]
    assert told[-1].startswith(f"KV cache of {bits} bits: layer 6 of 6")
    data = json.loads(json.dumps(loss.to_dict()))
    assert data["by_length"][-1]["tokens"] == LONG


def test_the_walk_gives_the_logits_of_whole_sessions(bundle: Bundle) -> None:
    """Both decoders as sessions of the whole graph, in one cache that is written in place."""
    spec, path = bundle.manifest.decoder, bundle.file("decoder.onnx")
    ids, gates = long_text(bundle, LONG), np.zeros(2, np.float32)
    sessions = OnnxDecoder(path, spec, graph=with_float_cache(path, spec)), OnnxDecoder(path, spec)
    rows = [np.stack(list(session.stream(ids, gates, CHUNK))) for session in sessions]
    expected = agreement(rows[0][4:], rows[1][4:])
    found = cache_loss(bundle, 1, lambda _: None).by_length[LONG]
    assert found.positions == expected.positions == 4
    assert found.mean_kl == pytest.approx(expected.mean_kl, rel=0.02)
    assert found.max_abs == pytest.approx(expected.max_abs, rel=0.02)


MEASURE = """
import sys
from pathlib import Path
from palmtop.export.verify.kv_loss import cache_loss
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.memory.machine import peak_rss_bytes
bundle = open_bundle(Path(sys.argv[1]), hashes=False)
loss = cache_loss(bundle, 1, lambda _: None)
print(peak_rss_bytes(), len(loss.by_length))
"""


def test_the_loss_takes_the_memory_of_a_few_layers(tmp_path: Path) -> None:
    """A decoder of 430 MB in 12 layers: 223 MB at most, 170 MB of them the process; whole decoders took 537 MB."""
    write_phi3(
        tmp_path / "c",
        1,
        num_hidden_layers=12,
        hidden_size=512,
        intermediate_size=4608,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    bundle = export_model(tmp_path / "c", tmp_path / "b", Recipe(kv=8, bits=32, context=LONG), verify=False)
    weights = (bundle / "weights" / "decoder.bin").stat().st_size
    assert weights > 380e6
    found = subprocess.run([sys.executable, "-c", MEASURE, bundle], capture_output=True, text=True, check=True).stdout
    peak, lengths = map(int, found.split())
    assert lengths == 4  # the long text was read
    assert peak < 330e6


def change_scales(bundle: Bundle, change: Callable[[LayerScales], LayerScales]) -> None:
    """Other scales in the graph, whose hashes become right again."""
    path, spec = bundle.file("decoder.onnx"), bundle.manifest.decoder
    layers = map(change, stored_cache(path, spec).layers)
    model = ir.load(path)
    for node, scales in zip((n for n in model.graph if n.op_type == "GroupQueryAttention"), layers, strict=True):
        for place, array in enumerate((scales.key, scales.value)):
            value = node.inputs[FIRST_SCALE + place]
            assert value is not None
            value.const_value = ir.tensor(array, name=value.name)
    ir.save(model, path)
    write_manifest(bundle.path, replace(bundle.manifest, files=list_files(bundle.path)))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: LayerScales(s.value, s.key),
        lambda s: LayerScales(np.roll(s.key, 13, -1), s.value * 0.3),
        lambda s: LayerScales(s.key * 0.2, s.value),
    ],
    ids=["swapped", "moved and narrow", "narrow keys"],
)
def test_wrong_scales_are_noticed(copy: Bundle, change: Callable[[LayerScales], LayerScales]) -> None:
    change_scales(copy, change)
    loss = cache_loss(open_bundle(copy.path), 1, lambda _: None)
    assert "scales" in " ".join(check.name for check in judge_cache(loss) if not check.passed)


def test_verify_measures_it_and_off_is_base_with_the_same_scales(bundle: Bundle, checkpoint: Checkpoint) -> None:
    quality = verify(bundle, checkpoint, items=1)
    assert [c.name for c in quality.checks if not c.passed] == []
    names = [c.name for c in quality.checks]
    assert f"image: KV cache of {bundle.manifest.decoder.kv_bits} bits" in names
    assert quality.kv_cache["bits"] == bundle.manifest.decoder.kv_bits
    assert quality.kv_cache["by_length"]
    page = render(quality.to_dict(), "a bundle")
    assert f"stored in {bundle.manifest.decoder.kv_bits} bits" in page
    assert "text, up to 512 tokens" in page
    assert f"KV cache of {bundle.manifest.decoder.kv_bits} bits against float32 (text KL" in _measured(
        quality.to_dict()
    )


def test_a_manifest_that_claims_another_cache_fails_its_proof(
    copy: Bundle, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe says one thing, the graph and its sizes another."""
    monkeypatch.setattr("palmtop.export.verify._too_large", lambda *_: "left out: it costs time")
    recipe = {**copy.manifest.recipe, "kv": {8: 4, 4: 8}[copy.manifest.decoder.kv_bits]}
    lying = Bundle(copy.path, replace(copy.manifest, recipe=recipe))
    quality = verify(lying, checkpoint, items=1)
    assert "manifest: decoder" in [c.name for c in quality.checks if not c.passed]


def test_scales_take_no_more_room_than_a_plan_leaves_them(
    bundle: Bundle, float_bundle: Path, checkpoint: Checkpoint
) -> None:
    model = find("phi4mm").read_model(checkpoint)
    own, plain = (
        sum(f.size_bytes for name, f in m.files.items() if name.startswith(("decoder.", "weights/decoder.")))
        for m in (bundle.manifest, open_bundle(float_bundle).manifest)
    )
    assert 0 < own - plain <= scale_bytes(model, bundle.manifest.decoder.kv_bits)
    assert scale_bytes(model, 32) == 0
    assert Request(size_bytes=1000).leaving(300).size_bytes == 700
    assert Request(loss=0.1).leaving(300) == Request(loss=0.1)


def test_a_float_cache_needs_no_samples(checkpoint: Checkpoint) -> None:
    model = find("phi4mm").read_model(checkpoint)
    assert cache_for(checkpoint, model, Recipe(kv=32), None, None) is FLOAT_CACHE
