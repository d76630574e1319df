"""``X-Session-Id``: conversations of the server that outlive its caches and its process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from palmtop.runtime.serve import models
from palmtop.runtime.serve.session_store import SUFFIX, SessionStore
from tests.runtime.serve.live_server import TEXT, Running, image_part, serving

CHAT = "/v1/chat/completions"
LIMIT = 1 << 30


def ask(running: Running, messages: list[dict[str, Any]], session: str | None) -> dict[str, Any]:
    headers = {} if session is None else {"X-Session-Id": session}
    body = {"model": "int4", "messages": messages}
    response = httpx.post(running.url + CHAT, json=body, headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def continued(messages: list[dict[str, Any]], answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [*messages, {"role": "assistant", "content": text_of(answer)}, {"role": "user", "content": "one two"}]


@pytest.fixture
def pictures() -> list[dict[str, Any]]:
    return [{"role": "user", "content": [image_part(), {"type": "text", "text": "Read the number."}]}]


def test_a_session_goes_on_in_the_next_process(
    int4_bundle: Path, tmp_path: Path, pictures: list[dict[str, Any]]
) -> None:
    with serving(int4_bundle, store=SessionStore(tmp_path, LIMIT)) as running:
        first = ask(running, pictures, "mine")
        same_process = ask(running, continued(pictures, first), "mine")
    assert len(files(tmp_path)) == 1
    with serving(int4_bundle, store=SessionStore(tmp_path, LIMIT)) as running:
        restored = ask(running, continued(pictures, first), "mine")
        assert text_of(restored) == text_of(same_process)
        assert cached(restored) >= first["usage"]["prompt_tokens"]
        stranger = ask(running, pictures, "other")
        assert text_of(stranger) == text_of(first)


def test_a_session_whose_cache_gave_way_is_restored(int4_bundle: Path, tmp_path: Path) -> None:
    with serving(int4_bundle, conversations=1, store=SessionStore(tmp_path, LIMIT)) as running:
        first = ask(running, TEXT, "a")
        for name in "bcd":
            ask(running, [{"role": "user", "content": f"three {name} and something else"}], name)
        again = ask(running, continued(TEXT, first), "a")
        assert cached(again) >= first["usage"]["prompt_tokens"]
    assert len(files(tmp_path)) == 4


def test_an_idle_server_saves_before_it_is_stopped(
    int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "SAVE_AFTER_S", 0.1)
    with serving(int4_bundle, store=SessionStore(tmp_path, LIMIT)) as running:
        ask(running, TEXT, None)
        time.sleep(0.5)
        assert files(tmp_path) == []
        ask(running, TEXT, "mine")
        for _ in range(200):
            if files(tmp_path):
                break
            time.sleep(0.05)
        assert len(files(tmp_path)) == 1


def test_a_damaged_or_foreign_file_is_read_again(
    int4_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(int4_bundle, store=SessionStore(tmp_path, LIMIT)) as running:
        first = ask(running, TEXT, "mine")
    (file,) = files(tmp_path)
    data = file.read_bytes()
    for broken in (b"", b"hello", data[:-100], data[:-1] + bytes([data[-1] ^ 1])):
        file.write_bytes(broken)
        with serving(int4_bundle, store=SessionStore(tmp_path, LIMIT)) as running:
            answer = ask(running, TEXT, "mine")
            assert (text_of(answer), cached(answer)) == (text_of(first), 0)
    assert "was not restored" in caplog.text and "mine" not in caplog.text
    assert file.read_bytes() == data


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "é", "x" * 129])
def test_a_name_of_other_characters_is_400(running: Running, name: str) -> None:
    headers = {"X-Session-Id": name.encode("utf-8")}
    response = httpx.post(running.url + CHAT, json={"model": "int4", "messages": TEXT}, headers=headers)
    assert response.status_code == 400
    assert "X-Session-Id" in response.json()["error"]["message"]


def test_the_least_recently_used_files_are_deleted_beyond_the_limit(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, 250)
    paths = [store.path("model", str(number)) for number in range(4)]
    assert len(set(paths)) == 4 and store.path("other", "0") not in paths
    for number, path in enumerate(paths):
        path.write_bytes(bytes(100))
        os.utime(path, (number, number))
    (tmp_path / "another file").write_bytes(bytes(1000))
    store.touch(paths[0])
    store.trim()
    assert files(tmp_path) == sorted([paths[0], paths[3]])
    (tmp_path / ".palmtop-saving-x").write_bytes(b"half")
    SessionStore(tmp_path, 50)
    assert [path.name for path in tmp_path.iterdir()] == ["another file"]


@pytest.fixture(scope="module")
def running(int4_bundle: Path) -> Iterator[Running]:
    with serving(int4_bundle) as server:
        yield server
