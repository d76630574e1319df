"""The decoder graph against transformers, on checkpoints of shapes that nobody would choose."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.export.arch import find
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.convert import export_model
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from tests.reference.port import load_port, random_checkpoint

SMALL_TOWERS = {
    "vision_hidden_size": 16,
    "vision_intermediate_size": 24,
    "vision_layers": 2,
    "vision_heads": 2,
    "audio_hidden_size": 16,
    "audio_intermediate_size": 16,
    "audio_blocks": 1,
    "audio_heads": 2,
    "nemo_conv_channels": 4,
    "bias_max_distance": 10,
}
GATES = {"none": [0.0, 0.0], "vision": [1.0, 0.0], "speech": [0.0, 1.0]}


def text_prompt(ids: NDArray[np.int64], hidden_size: int) -> DecoderPrompt:
    empty = np.zeros((1, hidden_size), np.float32)
    return DecoderPrompt(mode="text", input_ids=ids, media_places=np.zeros(len(ids), np.int64), features=empty)


def reference_logits(port: Any, ids: NDArray[np.int64], adapter: str) -> NDArray[np.float32]:
    """[S, V] of a full forward without cache: the only one of transformers that is right across LongRoPE."""
    if adapter == "none":
        port.disable_adapters()
    else:
        port.enable_adapters()
        port.set_adapter(adapter)
    with torch.no_grad():
        return np.asarray(port(torch.tensor(ids)[None], use_cache=False).logits[0].numpy())


def compare(folder: Path, ids: NDArray[np.int64], split: int, **recipe: Any) -> dict[str, float]:
    """Largest difference by adapter, as a share of the logit range: prompt of ``split``, then token by token."""
    bundle = open_bundle(export_model(folder / "checkpoint", folder / "bundle", Recipe(bits=32, context=64, **recipe)))
    probe = OnnxDecoder(bundle.file("decoder.onnx"), bundle.manifest.decoder, threads=1)
    port = load_port(folder / "checkpoint")
    original = bundle.manifest.decoder.original_context
    worst = {}
    for adapter, gates in GATES.items():
        fed = ids[:-1]  # the last token of a continuation is only predicted
        expected = reference_logits(port, fed, adapter)[split - 1 :]
        prompt = text_prompt(ids[:split], bundle.manifest.decoder.hidden_size)
        is_long = original is not None and len(fed) > original
        found = probe.logits(prompt, np.array(gates, np.float32), ids[split:], is_long=is_long)
        worst[adapter] = float(np.abs(found - expected).max() / np.ptp(expected))
    return worst


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    layers=st.sampled_from([1, 2, 3]),
    heads=st.sampled_from([(2, 1), (3, 1), (4, 2), (3, 3)]),
    head_size=st.sampled_from([16, 24, 32, 64]),
    hidden_size=st.sampled_from([40, 72, 96]),
    intermediate_size=st.sampled_from([36, 80]),
    rotary=st.sampled_from([0.5, 0.75, 1.0]),
    ranks=st.sampled_from([(3, 20), (20, 3), (8, 8)]),
    is_tied=st.booleans(),
    seed=st.integers(0, 3),
)
def test_odd_shapes_match_transformers(
    layers: int,
    heads: tuple[int, int],
    head_size: int,
    hidden_size: int,
    intermediate_size: int,
    rotary: float,
    ranks: tuple[int, int],
    is_tied: bool,
    seed: int,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_checkpoint(
            folder / "checkpoint",
            seed,
            num_hidden_layers=layers,
            num_attention_heads=heads[0],
            num_key_value_heads=heads[1],
            head_dim=head_size,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            partial_rotary_factor=rotary,
            vision_rank=ranks[0],
            speech_rank=ranks[1],
            tie_word_embeddings=is_tied,
            **SMALL_TOWERS,
        )
        ids = np.random.default_rng(seed).integers(0, 250, 24)
        for adapter, difference in compare(folder, ids, 17).items():
            assert difference < 1e-4, adapter


@pytest.mark.parametrize("length", [12, 13, 30])
def test_longrope_boundary_matches_a_full_forward(length: int, tmp_path: Path) -> None:
    """12 tokens are the original context: the 13th makes every position use the long factors."""
    sizes = {"original_max_position_embeddings": 12, "max_position_embeddings": 256}
    random_checkpoint(tmp_path / "checkpoint", 5, num_hidden_layers=2, **sizes, **SMALL_TOWERS)
    ids = np.random.default_rng(1).integers(0, 250, length + 1)
    for adapter, difference in compare(tmp_path, ids, length - 4).items():
        assert difference < 1e-4, adapter


def test_a_sliding_window_matches_transformers(tmp_path: Path) -> None:
    random_checkpoint(tmp_path / "checkpoint", 5, num_hidden_layers=2, sliding_window=8, **SMALL_TOWERS)
    ids = np.random.default_rng(1).integers(0, 250, 30)
    for adapter, difference in compare(tmp_path, ids, 20).items():
        assert difference < 1e-4, adapter


def test_adapters_change_the_answer_and_differ(tmp_path: Path, float_bundle: Path) -> None:
    """The comparison above would be empty if a gate did nothing."""
    bundle = open_bundle(float_bundle)
    probe = OnnxDecoder(bundle.file("decoder.onnx"), bundle.manifest.decoder, threads=1)
    ids = np.random.default_rng(2).integers(0, 250, 20)
    prompt = text_prompt(ids[:-1], bundle.manifest.decoder.hidden_size)
    none, vision, speech = (probe.logits(prompt, np.array(g, np.float32), ids[-1:]) for g in GATES.values())
    assert np.abs(none - vision).max() > 0.1
    assert np.abs(none - speech).max() > 0.1
    assert np.abs(vision - speech).max() > 0.1


@pytest.mark.parametrize("amounts", [{"vision": 1.0}, {"speech": 1.0}, {"vision": 0.5, "speech": -0.25}])
def test_merging_equals_gating(amounts: dict[str, float], reference_checkpoint: Path, tmp_path: Path) -> None:
    text = ",".join(f"{k}={v}" for k, v in amounts.items())
    export_model(reference_checkpoint, tmp_path / "merged", Recipe(bits=32, adapters=f"merge={text}"))
    export_model(reference_checkpoint, tmp_path / "gated", Recipe(bits=32))
    merged, gated = open_bundle(tmp_path / "merged"), open_bundle(tmp_path / "gated")
    assert merged.manifest.adapters == ()
    ids = np.random.default_rng(2).integers(0, 250, 20)
    prompt = text_prompt(ids[:-1], merged.manifest.decoder.hidden_size)
    gates = np.array([amounts.get("vision", 0.0), amounts.get("speech", 0.0)], np.float32)
    a = OnnxDecoder(merged.file("decoder.onnx"), merged.manifest.decoder, threads=1).logits(prompt, gates, ids[-1:])
    b = OnnxDecoder(gated.file("decoder.onnx"), gated.manifest.decoder, threads=1).logits(prompt, gates, ids[-1:])
    np.testing.assert_allclose(a, b, atol=1e-3 * float(np.ptp(b)))


def test_architecture_is_found_by_its_file_name() -> None:
    assert find("phi4mm").__name__.endswith(".phi4mm")  # type: ignore[attr-defined]


def test_gates_off_equal_a_bundle_without_adapters_bit_for_bit(reference_checkpoint: Path, tmp_path: Path) -> None:
    export_model(reference_checkpoint, tmp_path / "with", Recipe())
    export_model(reference_checkpoint, tmp_path / "without", Recipe(adapters="none"))
    ids = np.random.default_rng(2).integers(0, 250, 20)
    rows = []
    for name in ("with", "without"):
        bundle = open_bundle(tmp_path / name)
        probe = OnnxDecoder(bundle.file("decoder.onnx"), bundle.manifest.decoder, threads=1)
        prompt = text_prompt(ids[:10], bundle.manifest.decoder.hidden_size)
        rows.append(probe.logits(prompt, np.zeros(probe.num_gates, np.float32), ids[10:]))
    np.testing.assert_array_equal(rows[0], rows[1])


def test_the_checkpoint_hash_does_not_depend_on_the_sharding(tmp_path: Path) -> None:
    for shards in (1, 3):
        random_checkpoint(tmp_path / str(shards), 5, num_hidden_layers=1, shards=shards, **SMALL_TOWERS)
    assert Checkpoint(tmp_path / "1").sha256() == Checkpoint(tmp_path / "3").sha256()


@pytest.mark.parametrize(
    ("adapters", "modes"),
    [
        ("gated", ("text", "image", "audio", "image+audio")),
        ("none", ("text",)),
        ("merge=vision", ("text", "image", "image+audio")),
        ("merge=speech", ("text", "audio")),
    ],
)
def test_a_bundle_serves_only_what_it_has_adapters_for(
    adapters: str, modes: tuple[str, ...], reference_checkpoint: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(export_model(reference_checkpoint, tmp_path / "bundle", Recipe(adapters=adapters)))
    assert bundle.manifest.modes == modes
