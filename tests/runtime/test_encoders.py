from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.processor_config import AudioSpec, DynamicHdSpec, ProcessorSpec, TextSpec
from palmtop.runtime.media.encoder_runner import BATCH_BYTES, Encoders, EncodingStopped
from palmtop.runtime.media.feature_cache import FeatureCache
from palmtop.runtime.processor.content_key import content_key
from palmtop.runtime.processor.images.dynamic_hd import ImageTiles, tile_image
from palmtop.runtime.processor.sounds.audio_windows import audio_windows
from palmtop.runtime.processor.sounds.log_mel import LogMel
from tests.export.towers import (
    TEXT_HIDDEN,
    audio_embedding,
    image_embedding,
    port_config,
    relative_error,
    write_audio,
    write_vision,
)

FLOAT32_NOISE = 1e-5  # of the range; measured 9e-7
PATCH_SIZE = 8  # 7 patches a side: the odd grid is the harder one

IMAGE = DynamicHdSpec(
    token_id=3, crop_size=56, patch_size=PATCH_SIZE, max_tiles=12, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
AUDIO = AudioSpec(
    token_id=4, rate_hz=16000, n_fft=512, win_length=400, hop_length=160, preemphasis=0.97, n_mels=80,
    mel_min_hz=0.0, mel_max_hz=7690.0, compression_rate=8, downsample_rate=1, window_steps=500,
)  # fmt: skip
TEXT = TextSpec(
    bos_id=None, eos_ids=(0,), end_of_turn_id=None, pad_id=0, adds_bos=False,
    image_placeholder="<|image_{n}|>", audio_placeholder="<|audio_{n}|>",
)  # fmt: skip
SPEC = ProcessorSpec(text=TEXT, image=IMAGE, audio=AUDIO)
CONFIG = port_config({"patch_size": PATCH_SIZE})


@pytest.fixture(scope="module")
def towers() -> tuple[Any, Any]:
    return image_embedding(CONFIG), audio_embedding(CONFIG)


@pytest.fixture(scope="module")
def folder(towers: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    write_vision(folder, towers[0], CONFIG)
    write_audio(folder, towers[1], CONFIG)
    return folder


def open_encoders(folder: Path, spec: ProcessorSpec = SPEC, **options: Any) -> Encoders:
    return Encoders(folder / "vision.onnx", folder / "audio.onnx", spec, threads=1, **options)


def picture(height: int, width: int) -> ImageTiles:
    return tile_image(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8), IMAGE)


def sound(frames: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((frames, 80)).astype(np.float32)


def image_reference(embedding: Any, tiles: ImageTiles) -> NDArray[np.float32]:
    """The rows that the port would put into the text model's input."""
    with torch.no_grad():
        embedded = embedding(
            torch.full((1, tiles.rows), CONFIG.vision_config.image_token_id),
            torch.zeros(1, tiles.rows, TEXT_HIDDEN),
            torch.from_numpy(tiles.pixels)[None],
            torch.tensor([[side * IMAGE.crop_size for side in tiles.grid]]),
            torch.from_numpy(np.ascontiguousarray(tiles.patch_mask))[None],
        )
    rows: NDArray[np.float32] = embedded[0].numpy()
    return rows


def audio_reference(embedding: Any, mel: NDArray[np.float32], mode: str = "speech") -> NDArray[np.float32]:
    steps = -(-len(mel) // 8)
    with torch.no_grad():
        embedded = embedding(
            torch.full((1, steps), CONFIG.audio_config.audio_token_id),
            torch.zeros(1, steps, TEXT_HIDDEN),
            torch.from_numpy(mel)[None],
            torch.tensor([steps]),
            None,
            mode,
        )
    rows: NDArray[np.float32] = embedded[0].numpy()
    return rows


@pytest.mark.parametrize(("height", "width"), [(56, 56), (40, 200), (170, 60), (90, 130), (300, 300), (13, 12)])
def test_image_rows_equal_the_reference(folder: Path, towers: tuple[Any, Any], height: int, width: int) -> None:
    tiles = picture(height, width)

    rows = open_encoders(folder).encode_image(tiles)

    assert rows.dtype == np.float32 and rows.shape == (tiles.rows, TEXT_HIDDEN)
    assert relative_error(rows, image_reference(towers[0], tiles)) < FLOAT32_NOISE


def test_batches_of_any_size_give_the_same_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, sizes, batches = picture(170, 170), [], ImageTiles.batches

    def counted(self: ImageTiles, at_once: int) -> Any:
        sizes.append(at_once)
        return batches(self, at_once)

    monkeypatch.setattr(ImageTiles, "batches", counted)
    one = open_encoders(folder).encode_image(tiles)
    some = open_encoders(folder, tile_bytes=BATCH_BYTES // 3).encode_image(tiles)
    every = open_encoders(folder, tile_bytes=1).encode_image(tiles)

    assert relative_error(some, one) < FLOAT32_NOISE
    assert relative_error(every, one) < FLOAT32_NOISE
    assert sizes == [1, 3, BATCH_BYTES]
    assert len(tiles.pixels) > 6


# A frame is 10 ms, a window 4000 frames; 39, 40, 41 s and 5 min are 3898, 3998, 4098 and 29998 frames.
@pytest.mark.parametrize("frames", [1, 799, 3898, 3998, 4000, 4001, 4008, 4098, 7999, 8000, 8001, 29998])
def test_audio_rows_equal_the_reference_across_windows(folder: Path, towers: tuple[Any, Any], frames: int) -> None:
    mel = sound(frames)

    rows = open_encoders(folder).encode_audio(LogMel(mel, AUDIO), vision_projector=False)

    assert relative_error(rows, audio_reference(towers[1], mel)) < FLOAT32_NOISE


def test_a_wrong_window_would_be_noticed(folder: Path, towers: tuple[Any, Any]) -> None:
    mel = sound(4098)
    other = replace(SPEC, audio=replace(AUDIO, window_steps=400))
    assert other.audio is not None

    rows = open_encoders(folder, other).encode_audio(LogMel(mel, other.audio), vision_projector=False)

    assert relative_error(rows, audio_reference(towers[1], mel)) > 100 * FLOAT32_NOISE


def test_the_vision_projector_is_used_when_asked_for(folder: Path, towers: tuple[Any, Any]) -> None:
    encoders, mel = open_encoders(folder), sound(100)

    for beside_images, mode in ((False, "speech"), (True, "vision"), (False, "speech")):
        rows = encoders.encode_audio(LogMel(mel, AUDIO), vision_projector=beside_images)
        assert relative_error(rows, audio_reference(towers[1], mel, mode)) < FLOAT32_NOISE


@given(frames=st.integers(1, 5000), rate=st.sampled_from([2, 4, 8]), window=st.integers(1, 300))
def test_windows_cover_every_step_once(frames: int, rate: int, window: int) -> None:
    windows = audio_windows(frames, replace(AUDIO, compression_rate=rate, window_steps=window))

    steps = [-(-(w.stop - w.start) // rate) - w.left_context for w in windows]
    assert sum(steps) == -(-frames // rate)
    assert windows[0].start == 0 and windows[-1].stop == frames
    assert all(n == window for n in steps[:-1]) and 0 < steps[-1] <= window
    assert all(b.start == a.stop - rate and b.left_context == 1 for a, b in pairwise(windows))
    assert [w.fill_to for w in windows] == ([window] * len(windows) if len(windows) > 1 else [0])


def test_encoding_stops_between_batches(folder: Path) -> None:
    encoders, asked = open_encoders(folder), []

    def should_stop() -> bool:
        asked.append(True)
        return len(asked) == 2

    with pytest.raises(EncodingStopped):
        encoders.encode_audio(LogMel(sound(12001), AUDIO), vision_projector=False, should_stop=should_stop)
    assert len(asked) == 2 and not encoders._sessions
    with pytest.raises(EncodingStopped):
        encoders.encode_image(picture(170, 170), should_stop=lambda: True)


def test_equal_input_is_encoded_once(folder: Path, tmp_path: Path) -> None:
    vision = tmp_path / "vision.onnx"
    write_vision(tmp_path, image_embedding(CONFIG), CONFIG)
    encoders = Encoders(vision, None, SPEC)
    first = encoders.encode_image(picture(56, 56))
    vision.unlink()

    assert encoders.encode_image(picture(56, 56)) is first
    with pytest.raises(BundleError, match=r"vision\.onnx: onnxruntime cannot load it"):
        encoders.encode_image(picture(56, 57))
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_sessions_stay_open_only_when_kept(folder: Path) -> None:
    closing, keeping = open_encoders(folder), open_encoders(folder, keep=True)
    for encoders in (closing, keeping):
        encoders.encode_image(picture(56, 56))
        encoders.encode_audio(LogMel(sound(50), AUDIO), vision_projector=False)

    assert not closing._sessions and set(keeping._sessions) == {"image", "audio"}
    keeping.close()
    assert not keeping._sessions and not keeping.cache.size_bytes


def test_the_cache_drops_what_was_used_least_recently() -> None:
    cache = FeatureCache(max_bytes=100)
    a, b, c = (np.full(10, n, np.float32) for n in range(3))
    cache.put("a", a), cache.put("b", b)
    assert cache.get("a") is a
    cache.put("c", c)

    assert cache.get("b") is None and cache.get("a") is a and cache.get("c") is c
    assert cache.size_bytes == 80
    assert cache.put("huge", np.zeros(100, np.float32)).shape == (100,)  # handed out, not stored
    assert cache.get("huge") is None and cache.get("a") is a


def test_content_keys_tell_shapes_types_and_kinds_apart() -> None:
    zeros = np.zeros(4, np.float32)
    keys = [
        content_key("image", zeros),
        content_key("audio", zeros),
        content_key("image", zeros.reshape(2, 2)),
        content_key("image", zeros.view(np.int32)),
        content_key("image", zeros, zeros),
        content_key("image", -zeros),
    ]
    assert len(set(keys)) == len(keys)
    assert content_key("image", np.zeros((4, 4), np.float32)[:, 0]) == keys[0]  # layout in memory does not matter


def test_inputs_that_do_not_fit_are_refused(folder: Path) -> None:
    encoders, tiles = open_encoders(folder), picture(56, 56)
    nan = np.full_like(tiles.pixels, np.nan)
    with pytest.raises(InputError, match=r"expected \(3, 3, 56, 56\)"):
        encoders.encode_image(replace(tiles, grid=(1, 2)))
    with pytest.raises(InputError, match="not finite"):
        encoders.encode_image(replace(tiles, pixels=nan))
    with pytest.raises(InputError, match=r"\[0, 80\], expected \[T, 80\]"):
        encoders.encode_audio(LogMel(sound(0), AUDIO), vision_projector=False)
    with pytest.raises(InputError, match=r"\[5, 40\], expected \[T, 80\]"):
        encoders.encode_audio(LogMel(np.zeros((5, 40), np.float32), AUDIO), vision_projector=False)
    with pytest.raises(InputError, match="not finite"):
        encoders.encode_audio(LogMel(sound(5) * np.float32(np.inf), AUDIO), vision_projector=False)


def test_a_bundle_without_an_encoder_refuses_its_inputs() -> None:
    encoders = Encoders(None, None, replace(SPEC, audio=None))
    with pytest.raises(InputError, match="no vision encoder"):
        encoders.encode_image(picture(56, 56))
    with pytest.raises(InputError, match="no audio encoder"):
        encoders.encode_audio(LogMel(sound(5), AUDIO), vision_projector=False)


def test_hostile_graphs_are_bundle_errors(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vision.onnx").write_bytes(b"\x08\x07garbage" * 50)
    with pytest.raises(BundleError, match="onnxruntime cannot load it"):
        Encoders(tmp_path / "vision.onnx", None, SPEC).encode_image(picture(56, 56))
    with pytest.raises(BundleError, match="could not run an encoder, expected tile_features, separators"):
        Encoders(folder / "audio.onnx", None, SPEC).encode_image(picture(56, 56))
    other_rate = replace(SPEC, audio=replace(AUDIO, compression_rate=4))
    assert other_rate.audio is not None
    with pytest.raises(BundleError, match=r"audio\.onnx: gives 13 feature rows, expected 25"):
        open_encoders(folder, other_rate).encode_audio(LogMel(sound(100), other_rate.audio), vision_projector=False)
    with pytest.raises(BundleError, match="window_steps is 500, expected a multiple of downsample_rate 3"):
        open_encoders(folder, replace(SPEC, audio=replace(AUDIO, downsample_rate=3)))


def test_importing_the_module_does_not_load_onnxruntime() -> None:
    code = "import sys, palmtop.runtime.media.encoder_runner; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
