"""Conversations that are saved, restored and forked: equal to the bit, and nothing half read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from palmtop.errors import InputError, MemoryPlanError, PalmtopError
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.decoding.genai_decoder import GenaiDecoder
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.loop_decoder import LoopDecoder
from palmtop.runtime.saved import array_file
from palmtop.runtime.saved.array_file import DIGEST_BYTES, MAGIC
from palmtop.runtime.session import Session, SessionOptions
from tests.runtime.test_conversation import finish, picture, with_audio, with_image
from tests.runtime.toy import ORIGINAL_CONTEXT, FakeEncoders, write_toy_bundle

SHORT = GenerationOptions(max_tokens=5)
RANDOM = GenerationOptions(max_tokens=12, temperature=3.0, seed=3)


def opened(bundle: Path, **options: Any) -> Session:
    loading = SessionOptions(threads=1, prefill_chunk=16, **options)
    return Session(open_bundle(bundle), loading, encoders=FakeEncoders())


def next_turn(conversation: Conversation, text: str = "and then?") -> tuple[Reply, list[NDArray[np.float32]]]:
    """The next answer, and the logits of each of its tokens."""
    seen: list[NDArray[np.float32]] = []
    track = conversation._track
    logits = track.logits

    def noting() -> NDArray[np.float32]:
        seen.append(logits().copy())
        return seen[-1]

    track.logits = noting  # type: ignore[method-assign]
    try:
        return finish(conversation.chat(text, options=RANDOM)), seen
    finally:
        track.logits = logits  # type: ignore[method-assign]


def assert_same_turn(one: Conversation, other: Conversation, text: str = "and then?") -> Reply:
    reply, logits = next_turn(one, text)
    again, others = next_turn(other, text)
    assert again.token_ids == reply.token_ids
    assert again.text == reply.text
    assert again.usage.cached_tokens == reply.usage.cached_tokens
    assert again.usage.reprefilled == reply.usage.reprefilled
    assert len(logits) == len(others) > 0
    assert all((a == b).all() for a, b in zip(logits, others, strict=True))
    return again


def talk(conversation: Conversation) -> None:
    """A dialogue with every kind of medium, under three mixes of adapters, and an answer that was stopped."""
    finish(conversation.chat("one", options=SHORT))
    finish(conversation.chat(with_image("what"), options=SHORT))
    pieces = conversation.chat("stop me", options=RANDOM)
    next(pieces)
    pieces.cancel()
    finish(pieces)
    finish(conversation.chat(with_audio("hear"), options=RANDOM))


@pytest.mark.parametrize("engine", ["genai", "onnxruntime"])
@pytest.mark.parametrize(("kv_bits", "draft_rows"), [(32, 1), (8, 1), (4, 1), (32, 4)])
def test_the_next_answer_is_the_uninterrupted_ones(tmp_path: Path, engine: str, kv_bits: int, draft_rows: int) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", kv_bits=kv_bits, draft_rows=draft_rows)
    with opened(bundle, engine=engine) as session:
        conversation = session.conversation(system="be brief")
        talk(conversation)
        conversation.save(tmp_path / "saved")
        with opened(bundle, engine=engine) as later:
            restored = later.restore(tmp_path / "saved")
            assert [m["role"] for m in restored.messages] == [m["role"] for m in conversation.messages]
            reply = assert_same_turn(conversation, restored)
            assert reply.usage.cached_tokens > 0
            assert later._encoders.calls == []  # type: ignore[attr-defined]
            assert_same_turn(conversation, restored, "a longer text " * 4)
            restored.reset()
            assert [m["role"] for m in restored.messages] == ["system"]


def test_a_conversation_beyond_the_longrope_boundary_is_restored(toy_bundle: Path, tmp_path: Path) -> None:
    with opened(toy_bundle) as session, opened(toy_bundle) as later:
        conversation = session.conversation()
        finish(conversation.chat("x" * (ORIGINAL_CONTEXT - 20), options=RANDOM))
        conversation.save(tmp_path / "before")
        before = later.restore(tmp_path / "before")
        reply = assert_same_turn(conversation, before, "over the boundary")
        assert reply.usage.reprefilled == "rope"
        conversation.save(tmp_path / "behind")
        assert assert_same_turn(conversation, later.restore(tmp_path / "behind")).usage.reprefilled is None


@pytest.mark.parametrize("draft_rows", [1, 4])
def test_both_engines_give_the_same_answers(tmp_path: Path, draft_rows: int) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", draft_rows=draft_rows)
    with opened(bundle, engine="genai") as session, opened(bundle) as other:
        one, two = session.conversation(), other.conversation()
        for conversation in (one, two):
            talk(conversation)
        assert isinstance(one._track._decoder, GenaiDecoder)
        assert isinstance(two._track._decoder, LoopDecoder)
        assert_same_turn(one, two)


def test_closing_during_a_step_frees_no_memory_that_the_step_uses(toy_bundle: Path) -> None:
    """onnxruntime runs without Python's lock: another thread may close the session meanwhile."""
    with opened(toy_bundle) as session:
        decoder = session._open_decoder()
        assert isinstance(decoder, LoopDecoder)
        arrays = [weakref.ref(array) for array in decoder._states.values()]
        native = decoder._session

        class Closing:
            def run_with_iobinding(self, binding: Any) -> None:
                decoder.close()
                assert all(array() is not None for array in arrays)
                native.run_with_iobinding(binding)

        decoder._session = Closing()
        decoder.append(np.array([1, 2, 3], np.int32))
        assert all(array() is None for array in arrays)


def test_a_fork_goes_its_own_way(toy_session: Session, encoders: FakeEncoders) -> None:
    conversation = toy_session.conversation()
    talk(conversation)
    calls = list(encoders.calls)
    fork, third = conversation.fork(), conversation.fork()
    held, said = conversation._track.ids.tolist(), list(conversation.messages)
    finish(fork.chat("another way", options=RANDOM))
    assert (conversation._track.ids.tolist(), conversation.messages) == (held, said)
    assert_same_turn(conversation, third)
    assert encoders.calls == calls


def test_a_session_restores_and_forks_without_loading_its_weights_again(
    toy_bundle: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(toy_bundle) as session:
        monkeypatch.setattr(Session, "_load", None)
        restored = session.restore(saved)
        finish(restored.chat("more", options=SHORT))
        finish(restored.fork().chat("more", options=SHORT))


def test_open_conversations_of_genai_keep_their_caches_when_the_first_is_forked(toy_bundle: Path) -> None:
    with opened(toy_bundle, engine="genai") as session:
        conversation, other = session.conversation(), session.conversation()
        first = finish(other.chat("hello", options=SHORT))
        finish(conversation.chat("one", options=SHORT))
        assert isinstance(other._track._decoder, GenaiDecoder)
        conversation.fork()
        assert isinstance(other._track._decoder, LoopDecoder)
        second = finish(other.chat("more", options=SHORT))
        assert second.usage.cached_tokens == first.usage.prompt_tokens + len(first.token_ids) - 1


def test_what_never_answered_is_saved_too(toy_session: Session, tmp_path: Path) -> None:
    conversation = toy_session.conversation(system="be brief")
    conversation.save(tmp_path / "saved")
    assert_same_turn(toy_session.restore(tmp_path / "saved"), conversation.fork())


def test_sizes_of_media_are_kept_for_a_bounded_number_and_found_again(
    toy_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the conversation of a server would grow with every picture that any request has sent."""
    monkeypatch.setattr("palmtop.runtime.media.conversation_media.MAX_KNOWN", 1)
    conversation = toy_session.conversation()
    for seed in range(4):
        finish(conversation.respond([{"role": "user", "content": with_image("what", seed)}], options=SHORT))
        assert len(conversation._media.segments) == 1
    for seed in range(2):
        finish(conversation.chat(with_image("what", seed), options=SHORT))
    conversation.save(tmp_path / "saved")
    assert_same_turn(conversation, toy_session.restore(tmp_path / "saved"))


def test_tools_and_their_calls_are_saved(toy_session: Session, tmp_path: Path) -> None:
    conversation = toy_session.conversation()
    finish(conversation.chat("one", options=SHORT))
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.5, None]}}}
    conversation.messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    conversation.save(tmp_path / "saved")
    assert toy_session.restore(tmp_path / "saved").messages == conversation.messages


def test_the_file_holds_its_media_and_no_path(toy_session: Session, tmp_path: Path) -> None:
    photo = tmp_path / "private-name.png"
    Image.fromarray(picture()).save(photo)
    conversation = toy_session.conversation()
    content = [{"type": "image", "image": str(photo)}, {"type": "text", "text": "what?"}]
    finish(conversation.chat(content, options=SHORT))
    conversation.save(tmp_path / "saved")
    pixels = photo.read_bytes()
    photo.unlink()
    data = (tmp_path / "saved").read_bytes()
    assert pixels in data
    assert b"private-name" not in data
    assert os.fsencode(str(tmp_path)) not in data
    restored = toy_session.restore(tmp_path / "saved")
    restored.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == data
    reply = finish(restored.chat("again", options=SHORT))
    assert reply.usage.cached_tokens > reply.usage.media_rows > 0
    switched = finish(restored.chat("without", options=SHORT, adapters={}))  # reads all again, from the file's picture
    assert switched.usage.reprefilled == "adapters"


def test_a_picture_that_is_gone_refuses_the_saving(toy_session: Session, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(picture()).save(photo)
    conversation = toy_session.conversation()
    finish(conversation.chat([{"type": "image", "image": photo}], options=SHORT))
    photo.unlink()
    with pytest.raises(InputError, match=r"photo\.png: cannot be read"):
        conversation.save(tmp_path / "saved")
    assert sorted(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["genai", "onnxruntime"])
def test_while_a_conversation_answers_it_is_not_saved_or_forked(toy_bundle: Path, tmp_path: Path, engine: str) -> None:
    """Nor is another one of genai's forked, for which every decoder would be replaced."""
    with opened(toy_bundle, engine=engine) as session:
        conversation, other = session.conversation(), session.conversation()
        finish(other.chat("one", options=SHORT))
        other.save(tmp_path / "other")
        pieces = conversation.chat("one", options=RANDOM)
        next(pieces)
        of_others = (other.fork, lambda: session.restore(tmp_path / "other"))
        refused = (lambda: conversation.save(tmp_path / "x"), conversation.fork, *of_others)
        for attempt in refused if engine == "genai" else refused[:2]:
            with pytest.raises(InputError, match="an answer is being given"):
                attempt()
        if engine == "onnxruntime":
            for attempt in of_others:
                finish(attempt().chat("two", options=SHORT))
        pieces.close()
        conversation.save(tmp_path / "x")
        assert_same_turn(other, session.restore(tmp_path / "other"))


def test_another_cache_has_to_fit_into_memory(toy_bundle: Path, tmp_path: Path) -> None:
    with opened(toy_bundle) as session:
        finish((conversation := session.conversation()).chat("one", options=SHORT))
        conversation.save(tmp_path / "saved")
        limit = session.plan.total + session.plan.conversation // 2
    with opened(toy_bundle, memory_limit=limit) as session:
        restored = session.restore(tmp_path / "saved")
        with pytest.raises(MemoryPlanError, match="another conversation"):
            restored.fork()
        finish(restored.chat("two", options=SHORT))


def test_a_shorter_context_refuses_a_longer_conversation(toy_bundle: Path, tmp_path: Path) -> None:
    with opened(toy_bundle) as session:
        finish((conversation := session.conversation()).chat("x" * 100, options=SHORT))
        conversation.save(tmp_path / "saved")
    with opened(toy_bundle, context=80) as session, pytest.raises(InputError, match="this session's context is 80"):
        session.restore(tmp_path / "saved")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bundle": "0" * 64}, "was saved with another bundle"),
        ({"bundle": "0" * 64, "adapters": {"vision": "1", "speech": "2"}}, "was saved with another adapter 'speech'"),
        ({"runtime": "onnxruntime 1.2.3"}, r"was computed by onnxruntime 1\.2\.3, expected onnxruntime"),
        ({"provider": "openvino"}, "was computed by openvino, expected cpu"),
    ],
)
def test_what_belongs_to_another_bundle_or_runtime_is_refused(
    toy_session: Session, saved: Path, change: dict[str, Any], sentence: str
) -> None:
    def other(values: dict[str, Any]) -> None:
        values["bound_to"] |= change

    rewrite(saved, other)
    with pytest.raises(InputError, match=sentence):
        toy_session.restore(saved)


def test_another_bundle_refuses_it(saved: Path, tmp_path: Path) -> None:
    with (
        opened(write_toy_bundle(tmp_path / "other", seed=1)) as session,
        pytest.raises(InputError, match="was saved with another bundle"),
    ):
        session.restore(saved)


def test_what_is_no_saved_conversation_is_refused(toy_session: Session, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello" * 100)
    (tmp_path / "start").write_bytes(MAGIC)
    (tmp_path / "newer").write_bytes(MAGIC + (9).to_bytes(4, "little") + bytes(100))
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "empty", "text", "start", "newer", "pipe", ".", "a\0b"):
        with pytest.raises(InputError, match=r"expected a conversation that palmtop saved|save it again"):
            toy_session.restore(tmp_path / name)
    with pytest.raises(InputError, match="cannot be written"):
        toy_session.conversation().save(tmp_path / "no" / "folder")
    with pytest.raises(InputError, match="is a folder"):
        toy_session.conversation().save(tmp_path)


@pytest.fixture
def saved(toy_bundle: Path, tmp_path: Path) -> Path:
    with opened(toy_bundle) as session:
        conversation = session.conversation(system="be brief")
        talk(conversation)
        conversation.save(tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the values of a file's header, and make it whole again."""
    data = path.read_bytes()
    start = len(MAGIC) + 8 + DIGEST_BYTES
    length = int.from_bytes(data[len(MAGIC) + 4 : len(MAGIC) + 8], "little")
    header = json.loads(data[start : start + length])
    change(header["values"])
    path.write_bytes(whole(json.dumps(header).encode(), data[start + length : -DIGEST_BYTES]))


def whole(header: bytes, arrays: bytes) -> bytes:
    def digest(of: bytes) -> bytes:
        return hashlib.blake2b(of, digest_size=DIGEST_BYTES).digest()

    numbers = array_file.VERSION.to_bytes(4, "little") + len(header).to_bytes(4, "little")
    return MAGIC + numbers + digest(header) + header + arrays + digest(arrays)


def mutants(data: bytes, count: int) -> Iterator[bytes]:
    """Cut, lengthened, shifted and flipped copies; half of them with hashes that fit, as an attacker would write."""
    rng = np.random.default_rng(5)
    start = len(MAGIC) + 8 + DIGEST_BYTES
    length = int.from_bytes(data[len(MAGIC) + 4 : len(MAGIC) + 8], "little")
    for number in range(count):
        header, arrays = bytearray(data[start : start + length]), bytearray(data[start + length : -DIGEST_BYTES])
        kind = number % 8
        if kind == 0:
            yield data[: int(rng.integers(len(data)))]
            continue
        if kind == 1:
            yield data + bytes(int(rng.integers(1, 64)))
            continue
        target = header if kind in (2, 3, 4) else arrays
        place = int(rng.integers(len(target)))
        if kind in (2, 5):
            target[place] ^= 1 << int(rng.integers(8))
        elif kind in (3, 6):
            target[place : place + 4] = bytes(rng.integers(0, 256, 4, dtype=np.uint8))
        elif kind == 4:  # a digit, mostly of a length or a shape
            digits = [i for i, c in enumerate(target) if chr(c).isdigit()]
            target[digits[int(rng.integers(len(digits)))]] = ord(str(int(rng.integers(10))))
        else:
            del target[place : place + int(rng.integers(1, 9))]
        if number % 16 < 8:
            yield whole(bytes(header), bytes(arrays))
        else:
            yield data[:start] + bytes(header) + bytes(arrays) + data[-DIGEST_BYTES:]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # samples of a sound, far out of their range
def test_mutated_files_are_refused_or_harmless(toy_bundle: Path, saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    refused = 0
    with opened(toy_bundle) as session:
        for mutant in mutants(data, 1000):
            (tmp_path / "mutant").write_bytes(mutant)
            try:
                restored = session.restore(tmp_path / "mutant")
                finish(restored.chat("and?", options=SHORT))
            except PalmtopError as error:
                refused += 1
                assert "\n" not in str(error)
        assert refused > 700
        assert finish(session.restore(saved).chat("and?", options=SHORT)).usage.cached_tokens > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(messages=[{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}]),
        lambda v: v.update(messages=[{"role": "user", "content": [{"type": "image", "image": "saved:99"}]}]),
        lambda v: v.update(
            messages=[{"role": "user", "content": [{"type": "audio", "audio": {"url": "/etc/passwd"}}]}]
        ),
        lambda v: v.update(first=[{"role": "system", "content": [{"type": "image", "path": "/etc/passwd"}]}]),
        lambda v: v.update(messages="x"),
        lambda v: v.update(sequence=None),
        lambda v: v["sequence"].update(length=10**9),
        lambda v: v["sequence"].update(alone=-1),
        lambda v: v["sequence"].update(gates=[1e400, 0]),
        lambda v: v["sequence"].update(gates=[1]),
        lambda v: v["sequence"].update(media=[[0, 1 << 19, "image:x"]]),
        lambda v: v["sequence"].update(row_keys=["x"]),
        lambda v: v.update(sources=[10**30, "bytes"]),
        lambda v: v.update(segments={"image:x": [0]}),
        lambda v: v.update(tools=[{"no": "name"}]),
        lambda v: v.update(answers=[]),
        lambda v: v.pop("answers"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(
    toy_session: Session, saved: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    rewrite(saved, change)
    with pytest.raises(PalmtopError):
        toy_session.restore(saved)


SAVE_FOR_EVER = """
import os, signal, sys
from pathlib import Path
from palmtop.runtime.saved import array_file
import numpy as np

target, moment = Path(sys.argv[1]), int(sys.argv[2])
calls = 0

def dying(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

array_file.BLOCK_BYTES = 1 << 10
array_file._blocks = lambda array, of=array_file._blocks: map(dying(lambda block: block), of(array))
array_file._flush_folder = dying(array_file._flush_folder)
array_file.os.fsync = dying(os.fsync)
Path.replace = dying(Path.replace)
array = np.full(16 << 10, 2, np.uint8)
spec = array_file.ArraySpec.of("a", array)
array_file.write_array_file(target, {"number": 2}, [spec], [array])
os.kill(os.getpid(), signal.SIGKILL)  # behind the return
"""


def test_a_process_killed_at_any_moment_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    seen = set()
    script = tmp_path / "save.py"
    script.write_text(SAVE_FOR_EVER)
    for moment in range(1, 22):
        target = tmp_path / f"{moment}" / "saved"
        target.parent.mkdir()
        array = np.full(100, 1, np.uint8)
        array_file.write_array_file(target, {"number": 1}, [array_file.ArraySpec.of("a", array)], [array])
        died = subprocess.run([sys.executable, str(script), str(target), str(moment)], check=False, cwd="/")
        assert died.returncode == -signal.SIGKILL
        with array_file.open_array_file(target) as file:
            number = file.values["number"]
            assert (file.read() == number).all()
            file.finish()
        seen.add(number)
        shutil.rmtree(target.parent)
    assert seen == {1, 2}
