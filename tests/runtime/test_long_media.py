"""Long recordings in windows, pictures of 36 tiles, several pictures and sounds in one prompt."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from numpy.typing import NDArray

import palmtop
from palmtop.__main__ import cli
from palmtop.errors import InputError
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.processor.sounds.recording import quiet_place, read_windows
from palmtop.runtime.reference.heldout import held_out_items
from palmtop.runtime.session import Session
from palmtop.runtime.transcribe import transcribe
from tests.runtime.toy import FakeEncoders

RATE = 16000
OPTIONS = GenerationOptions(max_tokens=16)


@pytest.fixture(scope="module")
def session(int4_bundle: Path) -> Iterator[Session]:
    with palmtop.load(int4_bundle, threads=1, context=2048) as session:
        yield session


def clips(count: int) -> list[tuple[NDArray[np.float32], str, str]]:
    """Held-out sounds, what is asked about them, and the right answers."""
    found = []
    for item in held_out_items("audio", count, 0):
        parts: list[dict[str, Any]] = item.messages[0]["content"]
        sound = next(part["audio"] for part in parts if part["type"] == "audio")
        text = next(part["text"] for part in parts if part["type"] == "text")
        assert sound[1] == RATE
        found.append((np.asarray(sound[0], np.float32), text, item.expected))
    return found


def recording(folder: Path, parts: list[NDArray[np.float32]], pause_s: float = 0.8, kind: str = "wav") -> Path:
    silence = np.zeros(int(pause_s * RATE), np.float32)
    path = folder / f"talk.{kind}"
    soundfile.write(path, np.concatenate([x for part in parts for x in (part, silence)]), RATE)
    return path


def test_windows_are_cut_where_it_is_quiet_and_cover_everything(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    parts = [(random.standard_normal(int(s * RATE)) * 0.2).astype(np.float32) for s in (1.3, 1.1, 0.9, 1.4, 1.2)]
    path = recording(tmp_path, parts)
    windows = list(read_windows(path, 2.3))
    whole, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(np.concatenate([w.samples for w in windows]), whole)
    assert [w.start_s for w in windows[1:]] == [w.end_s for w in windows[:-1]]
    assert max(w.end_s - w.start_s for w in windows) <= 2.3
    for window in windows[:-1]:
        assert not window.samples[-100:].any()


def test_the_quietest_moment_is_found() -> None:
    samples = np.ones(1000, np.float32)
    samples[850:900] = 0
    assert quiet_place(samples, 250) == 875


def test_speech_in_windows_gives_what_each_clip_gives_alone(session: Session, tmp_path: Path) -> None:
    found = clips(12)
    prompt = found[0][1]
    same = [(sound, expected) for sound, text, expected in found if text == prompt]
    assert len(same) >= 3
    longest = max(len(sound) for sound, _ in same) / RATE
    path = recording(tmp_path, [sound for sound, _ in same], pause_s=longest)
    # a pause of a clip's length behind each: every window ends in one
    segments = list(transcribe(session, path, prompt=prompt, window_s=1.9 * longest, options=OPTIONS))
    text = " ".join(segment.text for segment in segments)
    right = sum(expected.strip() in text for _, expected in same)
    assert right >= len(same) - 1
    assert segments[0].start_s == 0
    assert segments[-1].end_s == pytest.approx(segments[-1].total_s, abs=0.1)
    assert all(segment.reply.adapters == {"speech": 1.0} for segment in segments)


def test_memory_does_not_grow_with_the_recording(toy_session: Session, encoders: FakeEncoders, tmp_path: Path) -> None:
    def peak(seconds: int) -> int:
        path = tmp_path / f"{seconds}.flac"
        soundfile.write(path, (np.random.default_rng(0).standard_normal(seconds * RATE) * 0.05), RATE)
        tracemalloc.start()
        segments = 0
        for segment in transcribe(toy_session, path, window_s=4, prompt="?", options=GenerationOptions(max_tokens=1)):
            segments += 1
            assert segment.total_s == seconds
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert segments >= seconds / 4
        return highest

    peak(8)
    assert peak(80) < 1.3 * peak(16)
    assert encoders.calls.count("audio:speech") >= 26


@pytest.mark.slow
def test_half_an_hour_of_speech(session: Session, tmp_path: Path) -> None:
    from palmtop.runtime.memory.machine import rss_bytes

    sounds = [sound for sound, _, _ in clips(40)]
    path = tmp_path / "talk.flac"
    seconds = 0.0
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while seconds < 1800:
            for sound in sounds:
                file.write(np.concatenate([sound, np.zeros(RATE // 2, np.float32)]))
                seconds += len(sound) / RATE + 0.5
    resident = []
    for segment in transcribe(session, path, prompt=clips(1)[0][1], options=GenerationOptions(max_tokens=64)):
        resident.append(rss_bytes() or 0)
        assert segment.end_s - segment.start_s <= 30
    assert segment.end_s >= 1799
    assert resident[-1] < 1.05 * resident[5]


@pytest.mark.parametrize("content", [b"", b"RIFFrubbish", b"\0" * 100])
def test_a_file_that_is_no_sound_is_refused(toy_session: Session, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "talk.wav").write_bytes(content)
    with pytest.raises(InputError, match=r"talk\.wav: "):
        list(transcribe(toy_session, tmp_path / "talk.wav"))


def test_other_mistakes_with_recordings_are_refused(toy_session: Session, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        list(transcribe(toy_session, tmp_path / "talk.wav"))
    noise = (np.random.default_rng(0).standard_normal(4 * RATE) * 0.1).astype(np.float32)
    path = recording(tmp_path, [noise], kind="flac")
    path.write_bytes(path.read_bytes()[:-60000])
    with pytest.raises(InputError, match=r"truncated|cannot be decoded"):
        list(transcribe(toy_session, path, options=GenerationOptions(max_tokens=1)))
    for window_s in (0, "30", float("nan"), True):
        with pytest.raises(InputError, match="option window_s"):
            list(transcribe(toy_session, path, window_s=window_s))  # type: ignore[arg-type]


def test_the_command_line_prints_times_subtitles_and_json(int4_bundle: Path, tmp_path: Path) -> None:
    path = recording(tmp_path, [sound for sound, _, _ in clips(2)])
    arguments = ["transcribe", str(int4_bundle), str(path), "--threads", "1", "--context", "1024", "--window", "2"]
    arguments += ["--max-tokens", "2"]
    lines = CliRunner().invoke(cli, arguments).stdout.splitlines()
    assert lines[0].startswith("[00:00:00.000 - 00:00:0")
    subtitles = CliRunner().invoke(cli, [*arguments, "--srt"]).stdout
    assert subtitles.startswith("1\n00:00:00,000 --> 00:00:0")
    found = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert [set(part) for part in found["segments"]] == [{"start_s", "end_s", "text", "finish_reason"}] * len(lines)
    assert found["duration_s"] == found["segments"][-1]["end_s"]


def test_a_picture_of_36_tiles_is_encoded(session: Session) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is this?"}]
    reply = session.answer([{"role": "user", "content": content}], options=OPTIONS)
    item = session._processor.prompt([{"role": "user", "content": content}]).media[0].item
    tiles = session._processor.tiles(item)
    assert len(tiles.pixels) == 37
    assert reply.usage.media_rows == tiles.rows > 150


def test_several_pictures_and_sounds_in_one_prompt_each_stand_in_their_place(session: Session) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (60, 60 + 50 * i, 3), dtype=np.uint8) for i in range(3)]
    sounds = [((random.standard_normal(8000 * (i + 1)) * 0.1).astype(np.float32), RATE) for i in range(2)]

    def ask(order: list[int], heard: list[int]) -> Any:
        content: list[dict[str, Any]] = [{"type": "image", "image": pictures[i]} for i in order]
        content += [{"type": "audio", "audio": sounds[i]} for i in heard]
        content.append({"type": "text", "text": "What?"})
        conversation = session.conversation()
        question = conversation._reader.read([{"role": "user", "content": content}], None, OPTIONS)
        reply = conversation.respond([{"role": "user", "content": content}], options=OPTIONS).result()
        rows = [span.rows for span in question.passage.media]
        logits = conversation._track.logits().copy()
        conversation.close()
        return reply, rows, logits

    one, rows, logits = ask([0, 1, 2], [0, 1])
    again, _, same = ask([0, 1, 2], [0, 1])
    other, swapped, changed = ask([2, 1, 0], [1, 0])
    assert (one.mode, one.adapters, one.usage.media_rows) == ("image+audio", {"vision": 1.0}, sum(rows))
    assert swapped == [rows[2], rows[1], rows[0], rows[4], rows[3]]
    assert again.token_ids == one.token_ids
    np.testing.assert_array_equal(logits, same)
    assert other.usage.prompt_tokens == one.usage.prompt_tokens
    assert np.abs(logits - changed).max() > 1e-3
