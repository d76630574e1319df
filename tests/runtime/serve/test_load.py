"""The server under load: turns, a full line, clients that go away, several bundles in one limit, its end."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import pytest

from palmtop.errors import InputError
from palmtop.runtime.serve.models import TRIM_AFTER_S, Models
from palmtop.runtime.serve.turns import Turns
from palmtop.runtime.serve.wire.api_error import ApiError
from palmtop.runtime.session_options import SessionOptions
from tests.runtime.serve.live_server import TEXT, Running, asked, audio_part, image_part, serving

CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "long", "schema": {"type": "array", "items": {"type": "integer"}, "minItems": 3000}},
}
"""An answer that has no end of its own."""


def test_clients_take_turns_and_keep_the_order_of_their_own_requests() -> None:
    async def run() -> list[str]:
        turns, order = Turns(10), []

        async def ask(client: str, name: str) -> None:
            async with turns.turn(client):
                order.append(name)
                await asyncio.sleep(0)

        names = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]
        await asyncio.gather(*(ask(client, name) for client, name in names))
        assert not turns.is_busy and turns.waiting == 0
        return order

    assert asyncio.run(run()) == ["a1", "a2", "b1", "c1", "a3", "b2"]


def test_a_turn_is_never_lost_however_tasks_are_cancelled() -> None:
    async def run(seed: int) -> None:
        chance, turns, running = random.Random(seed), Turns(100), 0

        async def ask(client: str) -> None:
            nonlocal running
            async with turns.turn(client):
                running += 1
                assert running == 1
                try:
                    for _ in range(chance.randrange(3)):
                        await asyncio.sleep(0)
                finally:
                    running -= 1

        tasks = [asyncio.create_task(ask(chance.choice("abc"))) for _ in range(40)]
        for _ in range(60):
            await asyncio.sleep(0)
            if chance.random() < 0.5:
                chance.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not turns.is_busy and turns.waiting == 0
        assert all(task.cancelled() or task.exception() is None for task in tasks)

    for seed in range(50):
        asyncio.run(run(seed))


def test_a_full_line_is_refused_with_the_time_to_try_again() -> None:
    async def run() -> None:
        turns = Turns(1)
        async with turns.turn("a"):
            waiting = asyncio.create_task(turns._enter("b"))
            await asyncio.sleep(0)
            with pytest.raises(ApiError) as caught:
                async with turns.turn("c"):
                    pass
            assert caught.value.status == 503 and 1 <= int(caught.value.headers["retry-after"]) <= 60
        await waiting

    asyncio.run(run())


def hold_a_turn(running: Running) -> tuple[openai.OpenAI, Any]:
    client = running.client()
    stream = client.chat.completions.create(
        model="int4", messages=TEXT, stream=True, max_tokens=7000, response_format=LONG
    )
    next(iter(stream))
    return client, stream


def test_health_answers_while_the_model_does_and_a_full_line_is_503(int4_bundle: Path) -> None:
    with serving(int4_bundle, queue=0) as running:
        client, stream = hold_a_turn(running)
        assert httpx.get(f"{running.url}/health").status_code == 200
        assert 'palmtop_requests_running{model="int4"} 1' in httpx.get(f"{running.url}/metrics").text
        response = httpx.post(running.url + CHAT, json={"model": "int4", "messages": TEXT})
        assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["code"] == "overloaded"
        stream.close()
        client.close()
        running.wait_until_free()
        response = httpx.post(running.url + CHAT, json={"model": "int4", "messages": TEXT}, timeout=60)
        assert response.json()["choices"][0]["message"]["content"] == "289"


def test_an_answer_that_takes_too_long_is_cut(int4_bundle: Path) -> None:
    with serving(int4_bundle, timeout_s=0.5) as running, running.client() as client:
        started = monotonic()
        completion = client.chat.completions.create(model="int4", messages=TEXT, max_tokens=7000, response_format=LONG)
        assert completion.choices[0].finish_reason == "length"
        assert completion.model_extra is not None
        assert completion.model_extra["palmtop"]["ended_by"] == "timeout"
        assert monotonic() - started < 30


def test_a_client_that_does_not_read_does_not_hold_the_turn(int4_bundle: Path) -> None:
    body = {"model": "int4", "messages": TEXT}
    long = json.dumps({**body, "stream": True, "max_tokens": 7000, "response_format": LONG}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(long)}\r\n"
    )
    with serving(int4_bundle, timeout_s=3, send_buffer=4096) as running, socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", running.port))
        plain.sendall(f"{head}\r\n".encode() + long)
        plain.recv(100)
        response = httpx.post(running.url + CHAT, json=body, timeout=30)
        assert response.json()["choices"][0]["message"]["content"] == "289"


def test_a_server_stops_while_it_answers(int4_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palmtop.runtime.serve.server.GRACE_S", 1)
    with serving(int4_bundle) as running:
        client, stream = hold_a_turn(running)
    with suppress(httpx.HTTPError, openai.APIError):
        list(stream)
    stream.close()
    client.close()


@pytest.fixture
def two_bundles(int4_bundle: Path, tmp_path: Path) -> Iterator[list[Path]]:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        shutil.copytree(int4_bundle, path)
    yield paths


def test_bundles_give_way_to_each_other_within_the_limit(two_bundles: list[Path]) -> None:
    limit = 300_000_000  # the plan of one is 278 MB
    loading = SessionOptions(threads=1, memory_limit=limit)
    with serving(*two_bundles, loading=loading) as running, running.client() as client:
        for name in ("one", "two", "one"):
            completion = client.chat.completions.create(model=name, messages=TEXT)
            assert completion.choices[0].message.content == "289"
            loaded = {m.name for m in running.server.models.models.values() if m.session is not None}
            assert loaded == {name}


def test_a_model_that_does_not_fit_beside_one_in_use_is_503(two_bundles: list[Path]) -> None:
    limit = 300_000_000
    loading = SessionOptions(threads=1, memory_limit=limit)
    with serving(*two_bundles, loading=loading) as running, running.client() as client:
        stream = client.chat.completions.create(
            model="one", messages=TEXT, stream=True, max_tokens=7000, response_format=LONG
        )
        next(iter(stream))
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="two", messages=TEXT)
        assert caught.value.status_code == 503 and caught.value.code == "insufficient_memory"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        stream.close()


def test_two_bundles_of_one_name_are_refused(two_bundles: list[Path], tmp_path: Path) -> None:
    again = tmp_path / "other" / "one"
    shutil.copytree(two_bundles[0], again)
    with pytest.raises(InputError, match="named 'one'"):
        Models([two_bundles[0], again], SessionOptions(), 1)


def test_the_log_has_a_line_for_each_request_and_none_of_its_content(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "a-secret-word"
    with caplog.at_level(logging.INFO, "palmtop.serve.access"):
        body: dict[str, Any] = {"model": "int4", "messages": asked(text=secret), "user": secret}
        response = httpx.post(f"{running.url}{CHAT}?q={secret}", json=body, timeout=60)
        httpx.post(running.url + CHAT, json={**body, "model": secret})
        httpx.post(running.url + CHAT, content=secret, headers={"content-type": "application/json"})
        httpx.get(f"{running.url}/v1/models/{secret}%0d%0a")
        sleep(0.2)
    lines = [record.getMessage() for record in caplog.records if record.name == "palmtop.serve.access"]
    assert [line.split()[3] for line in lines] == ["200", "404", "400", "404"]
    assert "tokens" in lines[0]
    assert secret not in caplog.text
    assert response.headers["x-request-id"] == lines[0].split()[-1]
    assert len({line.split()[-1] for line in lines}) == 4


def test_freed_memory_is_returned_when_the_server_is_idle(int4_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    returned = threading.Event()
    monkeypatch.setattr("palmtop.runtime.serve.models.TRIM_AFTER_S", 0.2)
    monkeypatch.setattr("palmtop.runtime.serve.models.return_freed_memory", returned.set)
    with serving(int4_bundle) as running, running.client() as client:
        client.chat.completions.create(model="int4", messages=TEXT)
        assert returned.wait(30)


MALFORMED = (b"{", b'{"model": "int4"}', b"\xff" * 100, b'{"model": "int4", "messages": [{"role": "user"}]}')


def plain_client() -> httpx.Client:
    """A client that closes idle connections before the server does, after 5 s: a request may not cross that."""
    return httpx.Client(timeout=120, limits=httpx.Limits(keepalive_expiry=1))


def soak(running: Running, requests: int, clients: int) -> None:
    """Requests of all kinds, a fifth of them left in the middle, a tenth malformed: no wrong answer, no turn lost."""
    kinds = [(TEXT, "289"), (asked(image_part()), "303"), (asked(audio_part()), "753")]
    counter = iter(range(requests))
    lock = threading.Lock()

    def work(number: int) -> int:
        chance, done = random.Random(number), 0
        with running.client() as client, plain_client() as plain:
            while True:
                with lock:
                    if next(counter, None) is None:
                        return done
                messages, expected = chance.choice(kinds)
                fate = chance.random()
                if fate < 0.1:
                    content = chance.choice(MALFORMED)
                    headers = {"content-type": "application/json"}
                    assert plain.post(running.url + CHAT, content=content, headers=headers).status_code == 400
                elif fate < 0.3:
                    with suppress(openai.APITimeoutError):
                        stream = client.with_options(timeout=chance.uniform(0.05, 1)).chat.completions.create(
                            model="int4", messages=messages, stream=True
                        )
                        if chance.random() < 0.5:
                            next(iter(stream), None)
                        stream.close()
                else:
                    stream = chance.random() < 0.5
                    answer: Any = client.with_options(timeout=600).chat.completions.create(
                        model="int4", messages=messages, stream=stream
                    )
                    chunks = "".join(c.choices[0].delta.content or "" for c in answer) if stream else None
                    assert (chunks if stream else answer.choices[0].message.content) == expected
                done += 1

    with ThreadPoolExecutor(clients) as pool:
        assert sum(pool.map(work, range(clients))) == requests
    running.wait_until_free()


def test_many_clients_get_right_answers_and_leave_no_turn_behind(running: Running) -> None:
    soak(running, 200, 8)


ASK_HEALTH = """
import http.client, sys, threading, time
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
client, waits = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60), []
while not ended.wait(0.05):
    started = time.monotonic()
    client.request("GET", "/health")
    assert client.getresponse().read() == b'{"status":"ok"}'
    waits.append(time.monotonic() - started)
p50, p99 = (sorted(waits)[int(len(waits) * share)] for share in (0.5, 0.99))
print(f"{len(waits)} times, median {p50:.4f} s, p99 {p99:.4f} s")
"""


@pytest.mark.slow
def test_two_thousand_requests_leave_no_memory_behind(int4_bundle: Path) -> None:
    command = [sys.executable, "-m", "palmtop", "serve", int4_bundle, "--port", "0", "--threads", "1", "--queue", "64"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r":(\d+)/$", process.stdout.readline())
            assert found is not None
            running = Running(None, int(found[1]), None)
            soak(running, 1000, 32)  # what every kind of request needs once; caches reach their bound
            resident = [resident_bytes(process.pid)]
            # a process of its own: among the threads of the clients it would measure their waiting, too
            health = [sys.executable, "-c", ASK_HEALTH, found[1]]
            with subprocess.Popen(health, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
                for _ in range(4):
                    soak(running, 500, 32)
                    resident.append(resident_bytes(process.pid))
                waits, _ = asking.communicate("")
            slope = np.polyfit(np.arange(0, 2001, 500), resident, 1)[0]
            print(f"resident every 500 requests: {resident}, {slope:.0f} bytes a request; /health: {waits.strip()}")
            assert resident[-1] <= 1.02 * resident[0]
            assert slope * 2000 <= 0.02 * resident[0]
        finally:
            process.terminate()


def resident_bytes(pid: int) -> int:
    """The resident memory of a server that has been idle long enough to return what was freed."""
    sleep(TRIM_AFTER_S + 2)
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return 1024 * int(found[1])
