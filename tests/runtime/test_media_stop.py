"""Reading a large picture or a long sound ends between two bounded pieces of the work, wherever it is."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from palmtop.runtime.bundle.processor_config import DynamicHdSpec
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.processor.images.dynamic_hd import load_image, tile_image
from palmtop.runtime.processor.images.image_file import BLEND_ROWS
from palmtop.runtime.processor.images.resize import BAND_OUTPUTS, BLOCK_ROWS, resize_cubic, resize_triangle
from palmtop.runtime.processor.sounds.log_mel import BLOCK_FRAMES, log_mel
from palmtop.runtime.processor.sounds.sound_file import BLOCK_SAMPLES, load_audio
from palmtop.runtime.session import Session
from tests.runtime.phi_specs import PHI_AUDIO
from tests.runtime.test_conversation import finish, user
from tests.runtime.toy import FakeEncoders

RATE = 44_100
IMAGE = DynamicHdSpec(token_id=1, crop_size=56, patch_size=14, max_tiles=36, mean=(0.5,) * 3, std=(0.5,) * 3)


class Enough(Exception):  # noqa: N818 - nothing went wrong
    """The work was asked to end."""


class Counter:
    """Called between two pieces; ends the work at one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.calls = 0
        self._last = last

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self._last:
            raise Enough


@cache
def photo() -> bytes:
    """Half transparent, 300 x 2,000."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 3, 4), np.uint8)
    return bytes(cv2.imencode(".png", cv2.resize(pixels, (300, 2000), interpolation=cv2.INTER_NEAREST))[1])


@cache
def speech(seconds: int) -> bytes:
    samples = np.random.default_rng(0).standard_normal(seconds * RATE).astype(np.float32) * np.float32(0.1)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV")
    return buffer.getvalue()


def see(between: Callable[[], None]) -> NDArray[np.float32]:
    return tile_image(load_image(photo(), between), IMAGE, between).pixels


def hear(between: Callable[[], None]) -> NDArray[np.float32]:
    return log_mel(load_audio(speech(60), PHI_AUDIO.rate_hz, between), PHI_AUDIO, between)


def test_the_work_comes_in_as_many_pieces_as_it_is_large() -> None:
    """Each kind of work by itself, so that none can stand in for another."""

    def pieces(work: Callable[[Callable[[], None]], object]) -> int:
        counter = Counter()
        work(counter)
        return counter.calls

    samples = np.zeros(60 * RATE, np.float32)
    blocks = -(-len(samples) // BLOCK_SAMPLES)
    assert pieces(lambda between: load_audio((samples, RATE), PHI_AUDIO.rate_hz, between)) == blocks
    assert pieces(lambda between: load_audio(speech(60), RATE, between)) == blocks
    frames = len(log_mel(samples, PHI_AUDIO))
    assert pieces(lambda between: log_mel(samples, PHI_AUDIO, between)) == -(-frames // BLOCK_FRAMES)

    clear = np.zeros((2000, 30, 4), np.uint8)
    assert pieces(lambda between: load_image(clear, between)) == -(-2000 // BLEND_ROWS)
    opaque = np.zeros((2000, 300, 3), np.uint8)
    assert pieces(lambda between: resize_triangle(opaque, 100, 2000, between)) == -(-2000 // BLOCK_ROWS)
    assert pieces(lambda between: resize_triangle(opaque, 300, 1000, between)) == 3 * -(-1000 // BAND_OUTPUTS)
    single = np.zeros((1, 50, 50), np.float32)
    assert pieces(lambda between: resize_cubic(single, 60, 1000, between)) == -(-1000 // BLOCK_ROWS)


@pytest.mark.parametrize("work", [see, hear])
def test_it_ends_at_every_piece(work: Callable[[Callable[[], None]], object]) -> None:
    whole = Counter()
    work(whole)
    for last in {1, 3, whole.calls // 2, whole.calls}:
        between = Counter(last)
        with pytest.raises(Enough):
            work(between)
        assert between.calls == last


def test_pieces_make_the_same_sound_as_the_whole() -> None:
    """librosa resamples in one go."""
    import librosa

    for rate in (8_000, 22_050, 44_100):
        samples = np.random.default_rng(rate).standard_normal(7 * rate + 13).astype(np.float32)
        whole = librosa.resample(samples, orig_sr=rate, target_sr=16_000, res_type="soxr_hq")
        assert (load_audio((samples, rate), 16_000) == whole).all()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "photo.png").write_bytes(photo())
    (tmp_path / "speech.wav").write_bytes(speech(60))
    return {"image": tmp_path / "photo.png", "audio": tmp_path / "speech.wav"}


@pytest.mark.parametrize("kind", ["image", "audio"])
@pytest.mark.parametrize("pieces", [1, 2, 5, 9])
def test_a_cancelled_turn_stops_among_the_pieces_and_the_conversation_goes_on(
    toy_session: Session, encoders: FakeEncoders, files: dict[str, Path], kind: str, pieces: int
) -> None:
    conversation = toy_session.conversation()
    before = finish(conversation.chat("hi", options=GenerationOptions(max_tokens=4)))
    answer = conversation.chat([{"type": kind, kind: str(files[kind])}, {"type": "text", "text": "what?"}])
    asked = 0

    def wanted() -> bool:
        nonlocal asked
        asked += 1
        if asked == pieces:
            answer.cancel()
        return answer._steps.interruption.reason is not None

    work = conversation._media.measure
    conversation._media.measure = lambda item, *, cancelled: work(item, cancelled=wanted)  # type: ignore[method-assign]
    reply = answer.result()
    assert (asked, reply.ended_by, reply.text) == (pieces, "cancelled", "")
    assert reply.mode == kind
    assert encoders.calls == []
    assert not conversation._media._tiles and not conversation._media._sounds
    conversation.rewind()
    again = finish(conversation.retry(options=GenerationOptions(max_tokens=4)))
    assert again.token_ids == before.token_ids


def test_a_time_limit_ends_the_reading_of_media(toy_session: Session, files: dict[str, Path]) -> None:
    content = [{"type": "audio", "audio": str(files["audio"])}, {"type": "text", "text": "what?"}]
    options = GenerationOptions(timeout_s=1e-6)
    reply = toy_session.answer([{"role": "user", "content": content}], options=options)
    assert (reply.ended_by, reply.usage.prompt_tokens) == ("timeout", 0)
    assert toy_session.answer(user("hi"), options=GenerationOptions(max_tokens=2)).ended_by == "max_tokens"
