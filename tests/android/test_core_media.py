"""Pictures and sounds become on the phone what they become in Python: pixel values, masks, log-mel frames, windows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image

from palmtop.errors import InputError
from palmtop.runtime.bundle.processor_config import AudioSpec, ImageSpec
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.sampling import Sampler
from palmtop.runtime.processor.images.dynamic_hd import _patch_mask, _plan, feature_order, tile_image
from palmtop.runtime.processor.images.image_file import load_image
from palmtop.runtime.processor.sounds.audio_windows import audio_windows
from palmtop.runtime.processor.sounds.log_mel import feature_rows, log_mel, sound_log_mel
from palmtop.runtime.processor.sounds.sound_file import load_audio
from tests.android.jvm import Core, CoreError
from tests.runtime.phi_specs import PHI_AUDIO
from tests.runtime.processor.conftest import REAL, TINY, UNEVEN
from tests.runtime.toy import write_toy_bundle

LOG_MEL_TOLERANCE = 2e-5
"""The mel sums are in another order, in double precision; everything else is equal."""
PHI = replace(PHI_AUDIO, token_id=257)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy")
    data: dict[str, Any] = json.loads((path / "bundle.json").read_text())
    return data


def with_spec(toy: dict[str, Any], **specs: ImageSpec | AudioSpec) -> dict[str, Any]:
    specs = {kind: replace(spec, token_id=257) for kind, spec in specs.items()}
    data = {**toy, "processor": {**toy["processor"], **{kind: asdict(spec) for kind, spec in specs.items()}}}
    return data


def ask_tiles(core: Core, toy: dict[str, Any], image: NDArray[np.uint8], spec: ImageSpec, **size: int) -> Any:
    """(answer, pixel values, mask)."""
    files = {"path": str(core.file(image)), "pixels": str(core.file()), "mask": str(core.file())}
    shape = {"width": image.shape[1], "height": image.shape[0], "channels": image.shape[2]}
    answer = core.ask("tiles", manifest=with_spec(toy, image=spec), **files, **(shape | size))
    side, patches = spec.crop_size, spec.patches
    pixels = np.fromfile(files["pixels"], np.float32).reshape(-1, 3, side, side)
    return answer, pixels, np.fromfile(files["mask"], np.bool_).reshape(-1, patches, patches)


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (height // 7 + 1, width // 5 + 1, 3), np.uint8)
    smooth = rough.repeat(7, 0).repeat(5, 1)[:height, :width].astype(np.int16)
    return np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)


SIZES = [(1, 56), (56, 56), (57, 30), (100, 300), (300, 100), (640, 480), (33, 17), (223, 225), (1000, 90)]


@pytest.mark.parametrize("spec", [TINY, UNEVEN], ids=["tiny", "uneven"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_tiles_equal_those_of_python(core: Core, toy: dict[str, Any], spec: ImageSpec, width: int, height: int) -> None:
    image = noise(width, height)
    try:
        expected = tile_image(image, spec)
    except InputError as error:
        with pytest.raises(CoreError) as caught:
            ask_tiles(core, toy, image, spec)
        assert (caught.value.kind, caught.value.message) == ("INPUT", str(error))
        return
    answer, pixels, mask = ask_tiles(core, toy, image, spec)
    assert (tuple(answer["grid"]), tuple(answer["useful"])) == (expected.grid, expected.useful)
    assert answer["rows"] == expected.rows
    assert answer["order"] == feature_order(expected.grid, expected.useful, spec.pooled).tolist()
    assert (mask == expected.patch_mask).all()
    if max(width / (spec.crop_size * expected.grid[1]), height / (spec.crop_size * expected.grid[0])) <= 4:
        assert (pixels == expected.pixels).all()
    else:  # beyond 4x smaller, Python's float sums may round to the next grey level; whole numbers do not
        assert np.abs(pixels - expected.pixels).max() <= 1.01 / 255 / min(spec.std)


def test_a_real_photo_has_equal_tiles(core: Core, toy: dict[str, Any]) -> None:
    photo = np.array(load_sample_image("china.jpg"), np.uint8)
    answer, pixels, mask = ask_tiles(core, toy, photo, REAL)
    expected = tile_image(photo, REAL)
    assert answer["rows"] == expected.rows
    assert (pixels == expected.pixels).all()
    assert (mask == expected.patch_mask).all()


def test_transparent_pixels_are_laid_over_white(core: Core, toy: dict[str, Any]) -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (60, 70, 4), np.uint8)
    _, pixels, _ = ask_tiles(core, toy, rgba, TINY)
    assert (pixels == tile_image(load_image(rgba), TINY).pixels).all()


def test_pictures_of_every_shape_have_the_layout_of_python(core: Core, toy: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    sizes = (10 ** rng.uniform(1.2, 4.2, (120, 2))).astype(int).tolist()
    for width, height in [(448, 448), (449, 100), (4000, 3000), (3000, 4000), (1344, 1344), (2689, 2688), *sizes]:
        asked = {"manifest": with_spec(toy, image=REAL), "width": width, "height": height}
        try:
            layout = _plan(width, height, REAL)
        except InputError as error:
            with pytest.raises(CoreError) as caught:
                core.ask("layout", **asked)
            assert caught.value.message == str(error)
            continue
        mask = _patch_mask(layout, REAL)
        hidden = int((~mask[:, :, 0]).sum()) + 1000 * int((~mask[:, 0]).sum())
        kept = mask[1:, ::2, ::2].reshape(*layout.grid, REAL.pooled, REAL.pooled)
        useful = [int(kept[:, 0, :, 0].sum()), int(kept[0, :, 0].sum())]
        assert core.ask("layout", **asked) == [*layout.grid, *useful, hidden], (width, height)


def test_a_40_megapixel_photo_is_tiled_from_a_reduced_one(core: Core, toy: dict[str, Any]) -> None:
    """The policy bounds what is decoded; tiles are those of the full size, in a heap of 256 MB."""
    width, height = 7728, 5152
    factor = core.ask("sample_size", width=width, height=height)
    assert (width // factor) * (height // factor) <= 12_000_000
    assert core.ask("sample_size", width=4000, height=3000) == 1
    reduced = noise(width // factor, height // factor)
    size = {"width": width, "height": height, "pixel_width": width // factor, "pixel_height": height // factor}
    answer, pixels, _ = ask_tiles(core, toy, reduced, REAL, **size)
    assert tuple(answer["grid"]) == _plan(width, height, REAL).grid
    # A picture and the same picture reduced beforehand look alike once both are as small as the grid.
    same = tile_image(reduced, REAL)
    assert np.abs(pixels[0] - same.pixels[0]).mean() < 0.05


def ask_log_mel(
    core: Core, toy: dict[str, Any], spec: AudioSpec, **source: Any
) -> tuple[NDArray[np.float32], list[int]]:
    out = core.file()
    counts = core.ask("log_mel", manifest=with_spec(toy, audio=spec), out=str(out), **source)
    return np.fromfile(out, np.float32).reshape(-1, spec.n_mels), counts


def sound(seconds: float, rate: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    sweep = 0.3 * np.sin(2 * np.pi * (80 * time + 900 * time**2))
    return (sweep + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


OTHER = replace(PHI, n_fft=400, win_length=320, hop_length=100, n_mels=40, mel_min_hz=60.0, preemphasis=0.0)


@pytest.mark.parametrize("spec", [PHI, OTHER, replace(PHI, downsample_rate=2)], ids=["phi", "400 points", "stacked"])
@pytest.mark.parametrize("seconds", [0.026, 0.5, 7.3])
def test_log_mel_equals_that_of_python(core: Core, toy: dict[str, Any], spec: AudioSpec, seconds: float) -> None:
    samples = sound(seconds, spec.rate_hz)
    expected = log_mel(samples, spec)
    found, counts = ask_log_mel(core, toy, spec, floats=str(core.file(samples)), rate=spec.rate_hz)
    assert counts == [len(expected), feature_rows(len(expected), spec)]
    assert np.abs(found - expected).max() <= LOG_MEL_TOLERANCE


def test_any_part_of_a_sound_gives_the_same_frames(core: Core, toy: dict[str, Any]) -> None:
    path = str(core.file(sound(9, 22050)))
    whole, _ = ask_log_mel(core, toy, PHI, floats=path, rate=22050)
    part, _ = ask_log_mel(core, toy, PHI, floats=path, rate=22050, first=413, last=777)
    assert (part == whole[413:777]).all()


@pytest.mark.parametrize("frames", [1, 8, 3999, 4000, 4001, 8000, 12345, 180000])
def test_windows_are_those_of_python(core: Core, toy: dict[str, Any], frames: int) -> None:
    for spec in (PHI, replace(PHI, compression_rate=4, window_steps=6)):
        expected = [[w.start, w.stop, w.left_context, w.fill_to] for w in audio_windows(frames, spec)]
        assert core.ask("windows", manifest=with_spec(toy, audio=spec), frames=frames) == expected


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 16001])
def test_resampled_sounds_are_like_librosas(core: Core, rate: int) -> None:
    samples = sound(1.5, rate)
    expected = load_audio((samples, rate), 16000)
    out = core.file()
    length = core.ask("resample", floats=str(core.file(samples)), rate=rate, to=16000, out=str(out))
    found = np.fromfile(out, np.float32)
    assert length == len(expected)
    inside = slice(800, -800)  # soxr's filter is another near the ends
    assert np.abs(found[inside] - expected[inside]).max() < 1.5e-3  # full scale is 1; noise near Nyquist differs
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    core.ask("resample", floats=str(core.file(tone)), rate=rate, to=16000, out=str(out))
    ideal = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(np.fromfile(out, np.float32)[400:-400] - ideal[400:-400]).max() < 1e-6


def test_what_lies_above_nyquist_is_not_folded_down(core: Core) -> None:
    tone = np.sin(2 * np.pi * 9000 * np.arange(44100) / 44100).astype(np.float32)
    out = core.file()
    core.ask("resample", floats=str(core.file(tone)), rate=44100, to=16000, out=str(out))
    assert np.abs(np.fromfile(out, np.float32)[400:-400]).max() < 3e-6  # -110 dB


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_wav_files_are_read_as_soundfile_reads_them(
    core: Core, toy: dict[str, Any], subtype: str, channels: int, tmp_path: Path
) -> None:
    samples = np.stack([sound(0.4, 16000, seed) for seed in range(channels)], axis=1)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16000, subtype=subtype)
    found, _ = ask_log_mel(core, toy, PHI, wav=str(path))
    assert np.abs(found - log_mel(load_audio(path, 16000), PHI)).max() <= LOG_MEL_TOLERANCE


def test_sounds_that_cannot_be_used_are_refused_in_the_same_words(
    core: Core, toy: dict[str, Any], tmp_path: Path
) -> None:
    short, broken = sound(0.015, 16000), sound(1, 16000)
    broken[5000] = np.nan
    for samples, rate in ((short, 16000), (broken, 16000), (sound(1, 900), 900), (sound(0.5, 16000), 800_000)):
        with pytest.raises(InputError) as expected:
            log_mel(load_audio((samples, rate), 16000), PHI)
        with pytest.raises(CoreError) as caught:
            ask_log_mel(core, toy, PHI, floats=str(core.file(samples)), rate=rate)
        assert (caught.value.kind, caught.value.message) == ("INPUT", str(expected.value))
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(3, 16000), 16000)
    content = path.read_bytes()
    for damaged in (b"", content[:20], b"RIFF" + bytes(60), content[:36] + b"xxxx"):
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            load_audio(path, 16000)
        with pytest.raises(CoreError) as caught:
            ask_log_mel(core, toy, PHI, wav=str(path))
        assert caught.value.kind == "INPUT"
        assert str(path) in caught.value.message


@pytest.mark.parametrize("number", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_file_without_a_length_gives_what_is_there(
    core: Core, toy: dict[str, Any], tmp_path: Path, number: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(3, 16000), 16000)
    content = path.read_bytes()
    path.write_bytes(
        content[:4] + number.to_bytes(4, "little") + content[8:40] + number.to_bytes(4, "little") + content[44:]
    )
    found, _ = ask_log_mel(core, toy, PHI, wav=str(path))
    assert len(found) == 298
    assert np.abs(found - log_mel(load_audio(path, 16000), PHI)).max() <= LOG_MEL_TOLERANCE


def test_a_wav_file_that_was_cut_is_refused_in_the_same_words(core: Core, toy: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(3, 16000), 16000)
    path.write_bytes(path.read_bytes()[:50_001])
    with pytest.raises(InputError) as expected:
        load_audio(path, 16000)
    with pytest.raises(CoreError) as caught:
        ask_log_mel(core, toy, PHI, wav=str(path))
    assert (caught.value.kind, caught.value.message) == ("INPUT", str(expected.value))
    assert "it ends after 1.56 s, expected 3.00 s" in caught.value.message


@pytest.mark.parametrize("spec", [PHI, replace(PHI, win_length=401)], ids=["halved", "odd"])
def test_sounds_of_8_khz_have_the_features_of_python(core: Core, toy: dict[str, Any], spec: AudioSpec) -> None:
    samples = sound(1.3, 8000)
    expected = sound_log_mel((samples, 8000), spec)
    found, counts = ask_log_mel(core, toy, spec, floats=str(core.file(samples)), rate=8000)
    assert counts == [len(expected), feature_rows(len(expected), spec)]
    if spec is PHI:
        assert (found[:, 63:] == 0).all()
        assert np.abs(found - expected).max() <= LOG_MEL_TOLERANCE
    narrow = sound(1.3, 12000)
    found, _ = ask_log_mel(core, toy, spec, floats=str(core.file(narrow)), rate=12000)
    assert ((found[:, 63:] == 0).all()) == (spec is PHI)


LOGITS = [0.3, 2.0, 1.9, -1.0, 0.0, 2.5, -3.0, 1.0]
CHOICES: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 3},
    {"temperature": 1.5, "top_p": 0.6},
    {"temperature": 1.5, "min_p": 0.4},
    {"temperature": 1.0, "top_k": 5, "top_p": 0.8, "repetition_penalty": 1.4},
]


@pytest.mark.parametrize("options", CHOICES)
def test_sampling_has_the_distribution_of_python(core: Core, options: dict[str, Any]) -> None:
    count = 40_000
    asked = {"logits": LOGITS, "never": [5], "seen": [1], "count": count, "seed": 7}
    penalty = options.get("repetition_penalty", 1.0)
    ids = core.ask("draws", **asked, **options) if penalty == 1 else None
    if ids is None:  # every draw is remembered, so each needs a sampler of its own
        ids = [core.ask("draws", **(asked | {"count": 1, "seed": seed}), **options)[0] for seed in range(3000)]
    shares = np.bincount(ids, minlength=8) / len(ids)
    logits = np.array(LOGITS, np.float32)
    mine = [
        Sampler(GenerationOptions(seed=seed, **options), never=(5,), seen=(1,)).draw(logits) for seed in range(4000)
    ]
    assert np.abs(shares - np.bincount(mine, minlength=8) / 4000).max() < 0.04
    assert shares[5] == 0
    assert core.ask("draws", **(asked | {"count": 20}), **options) == core.ask(
        "draws", **(asked | {"count": 20}), **options
    )


def test_greedy_sampling_takes_the_first_of_the_best(core: Core) -> None:
    asked = {"never": [5], "seen": [1], "count": 1}
    assert core.ask("draws", logits=LOGITS, **asked) == [1]
    assert core.ask("draws", logits=LOGITS, repetition_penalty=1.2, **asked) == [2]
    assert core.ask("draws", logits=[1.0, 1.0], never=[], seen=[], count=1) == [0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.5),
        ("min_p", 1.5),
        ("seed", -1),
        ("repetition_penalty", 0.0),
    ],
)
def test_impossible_options_are_refused_in_the_same_words(core: Core, name: str, value: float) -> None:
    with pytest.raises(InputError) as expected:
        GenerationOptions(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(CoreError) as caught:
        core.ask("draws", logits=LOGITS, never=[], seen=[], count=1, **{name: value})
    assert (caught.value.kind, caught.value.message) == ("INPUT", str(expected.value))
