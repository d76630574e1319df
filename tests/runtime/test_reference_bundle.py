"""The packaged reference model end to end: real encoders, real routes, the demonstration."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from PIL import Image

import palmtop
from palmtop.__main__ import cli
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference.heldout import held_out_items
from palmtop.runtime.session import Session

OPTIONS = GenerationOptions(max_tokens=8)


@pytest.fixture(scope="module")
def session(int4_bundle: Path) -> Iterator[Session]:
    with palmtop.load(int4_bundle, threads=1, context=2048) as session:
        yield session


def content(task: Any, seed: int = 0) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = next(held_out_items(task, 1, seed)).messages[0]["content"]
    return parts


def say(conversation: Conversation, parts: Any) -> Reply:
    *_, last = conversation.chat(parts, options=OPTIONS)
    assert last.reply is not None
    return last.reply


@pytest.mark.parametrize(
    ("task", "adapters"),
    [("text", {}), ("image", {"vision": 1.0}), ("audio", {"speech": 1.0}), ("image+audio", {"vision": 1.0})],
)
def test_every_mode_is_routed_as_the_reference_does(session: Session, task: str, adapters: dict[str, float]) -> None:
    reply = session.answer([{"role": "user", "content": content(task)}], options=OPTIONS)
    assert (reply.mode, reply.adapters) == (task, adapters)
    assert (reply.usage.media_rows > 0) == (task != "text")


def test_a_dialogue_over_all_modes_equals_asking_it_whole(session: Session) -> None:
    conversation = session.conversation()
    reasons = []
    for task in ("text", "audio", "text", "image", "text"):
        reply = say(conversation, content(task))
        reasons.append(reply.usage.reprefilled)
        whole = session.conversation()
        whole._spoken.answers = list(conversation._spoken.answers)  # the ids that were sampled, not those of their text
        *_, last = whole.respond(conversation.messages[:-1], options=OPTIONS)
        assert last.reply is not None
        assert last.reply.text == reply.text
    assert reasons == [None, "adapters", None, "adapters", None]


def test_the_same_picture_again_is_neither_encoded_nor_read_again(session: Session) -> None:
    conversation = session.conversation()
    picture = np.random.default_rng(0).integers(0, 255, (500, 500, 3), dtype=np.uint8)
    first = say(conversation, [{"type": "image", "image": picture}, {"type": "text", "text": "What is this?"}])
    second = say(conversation, "And now?")
    assert first.usage.media_rows > 150
    assert second.usage.prompt_tokens - second.usage.cached_tokens < 40
    assert second.usage.ttft_s < first.usage.ttft_s / 5


def test_freed_encoders_are_not_kept(session: Session) -> None:
    session.answer([{"role": "user", "content": content("image")}], options=OPTIONS)
    assert not session._encoders._sessions  # type: ignore[attr-defined]


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sample folder made of held-out items; the answers expected are wrong on purpose."""
    entries = []
    for task in ("text", "image", "audio", "image+audio"):
        entry = {"mode": task, "text": "?", "expected": "never this"}
        for part in content(task):
            if part["type"] == "image":
                entry["image"] = f"{task}.png"
                Image.fromarray(part["image"]).save(tmp_path / entry["image"])
            elif part["type"] == "audio":
                entry["audio"] = f"{task}.wav"
                soundfile.write(tmp_path / entry["audio"], *part["audio"])
            else:
                entry["text"] = part["text"]
        entries.append(entry)
    (tmp_path / "samples.json").write_text(json.dumps(entries))
    monkeypatch.setattr("palmtop.demo.samples_path", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_demo_exports_once_and_tells_wrong_answers_by_its_exit_code(samples: Path) -> None:
    runner = CliRunner()
    first = runner.invoke(cli, ["demo", "--json", "--threads", "1"])
    assert "exporting" in first.stderr
    results = json.loads(first.stdout)["answers"]
    assert [r["mode"] for r in results] == ["text", "image", "audio", "image+audio"]
    assert [r["adapters"] for r in results] == [{}, {"vision": 1.0}, {"speech": 1.0}, {"vision": 1.0}]
    fields = {"mode", "question", "answer", "expected", "correct", "adapters", "ttft_s", "tokens_per_s"}
    assert all(set(r) == fields for r in results)
    assert first.exit_code == 1

    entries = json.loads((samples / "samples.json").read_text())
    for entry, result in zip(entries, results, strict=True):
        entry["expected"] = result["answer"]
    (samples / "samples.json").write_text(json.dumps(entries))
    second = runner.invoke(cli, ["demo", "--threads", "1"])
    assert second.exit_code == 0
    assert "exporting" not in second.stderr
    where = Path(runner.invoke(cli, ["demo", "--where"]).stdout.strip())
    assert (where / "bundle.json").is_file()


@pytest.mark.parametrize("place", ["palmtop.demo.SCHEMA", "palmtop.export.bundle.journal.code_sha256"])
def test_demo_replaces_the_bundle_of_another_exporter_or_format_silently(
    samples: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Path(CliRunner().invoke(cli, ["demo", "--where"]).stdout.strip())
    monkeypatch.setattr(place, 7 if place.endswith("SCHEMA") else lambda: "other")
    again = CliRunner().invoke(cli, ["demo", "--where"])
    second = Path(again.stdout.strip())
    assert again.stderr == f"exporting the packaged reference model to {second} (once)\n"
    assert (second != first, second.is_dir(), first.exists()) == (True, True, False)


def test_demo_exports_a_damaged_bundle_again(samples: Path) -> None:
    runner = CliRunner()
    where = Path(runner.invoke(cli, ["demo", "--where"]).stdout.strip())
    (where / "decoder.onnx").write_bytes(b"gone")
    again = runner.invoke(cli, ["demo", "--where"])
    assert "exporting again" in again.stderr
    assert palmtop.load(where, threads=1, context=64).context == 64


def test_demo_tells_where_the_checkpoint_is(reference_checkpoint: Path) -> None:
    assert CliRunner().invoke(cli, ["demo", "--checkpoint"]).stdout.strip() == str(reference_checkpoint)


@pytest.mark.slow
def test_cancelling_pictures_and_sounds_at_200_random_moments(session: Session) -> None:
    """Moments spread over decoding, encoding, reading and answering; the next answer is right each time."""
    random = np.random.default_rng(0)
    options = GenerationOptions(max_tokens=12, temperature=1.0, seed=5)
    parts = content("image+audio")
    conversation = session.conversation()
    question = [{"role": "user", "content": parts}]
    started = time.perf_counter()
    expected = conversation.respond(question, options=options).result()
    takes = time.perf_counter() - started
    reasons = []
    for number, moment in enumerate(random.uniform(0, 1.1 * takes, 200)):
        session._encoders.cache.clear()  # type: ignore[attr-defined]
        conversation._track.close()
        answer = conversation.respond(question, options=options)
        timer = threading.Timer(moment, answer.cancel)
        timer.start()
        reply = answer.result()
        timer.cancel()
        timer.join()
        reasons.append(reply.ended_by)
        assert reply.token_ids == expected.token_ids[: len(reply.token_ids)]
        if number % 10 == 0:
            assert conversation.respond(question, options=options).result().token_ids == expected.token_ids
    assert reasons.count("cancelled") > 100
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("palmtop")]
