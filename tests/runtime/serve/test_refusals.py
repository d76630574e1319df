"""What the server refuses: foreign pages and names, wrong keys, bodies too long, broken or of another shape."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from palmtop.errors import InputError
from palmtop.runtime.serve.server import bind
from palmtop.runtime.serve.wire.api_error import ApiError
from palmtop.runtime.serve.wire.messages import PIECE, decode_base64
from tests.runtime.serve.live_server import TEXT, Running, image_part, serving

KEY = "a-key-of-some-length"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def locked(int4_bundle: Path) -> Iterator[Running]:
    with serving(int4_bundle, key=KEY) as running:
        yield running


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"] and error["message"]
    return error


def test_a_wrong_key_is_refused_as_openai_does(locked: Running) -> None:
    with locked.client() as right:
        assert right.chat.completions.create(model="int4", messages=TEXT).choices[0].message.content == "289"
    with locked.client(api_key="another") as wrong, pytest.raises(openai.AuthenticationError) as caught:
        wrong.models.list()
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", CHAT, "/v1/responses", "/v1/audio/transcriptions", "/no"])
@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer \xe9"])
def test_nothing_is_told_without_the_key(locked: Running, path: str, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    assert (
        httpx.request("POST" if path.count("/") > 2 else "GET", locked.url + path, headers=headers).status_code == 401
    )


def test_health_and_the_page_need_no_key(locked: Running) -> None:
    assert httpx.get(f"{locked.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{locked.url}/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "a@b", "[::1", "192.168.1.5"]
)
def test_a_name_that_is_not_this_server_is_refused(running: Running, host: str) -> None:
    response = httpx.get(f"{running.url}/v1/models", headers={"host": host})
    assert response.status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:8080"])
def test_the_names_of_this_machine_are_answered(running: Running, host: str) -> None:
    assert httpx.get(f"{running.url}/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/audio/transcriptions"])
def test_a_page_of_another_origin_is_refused(running: Running, headers: dict[str, str], path: str) -> None:
    method = "GET" if path.endswith("models") else "POST"
    response = httpx.request(method, running.url + path, headers=headers)
    assert response.status_code == 403 and "origin" in error_of(response)["message"]
    assert "access-control-allow-origin" not in response.headers


def test_the_own_page_is_answered_and_may_be_visited_from_a_link(running: Running) -> None:
    own = {"origin": running.url, "sec-fetch-site": "same-origin"}
    body = {"model": "int4", "messages": TEXT}
    assert httpx.post(running.url + CHAT, json=body, headers=own, timeout=60).status_code == 200
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert httpx.get(running.url, headers=visit).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_a_form_could_send_is_refused(running: Running, kind: str) -> None:
    response = httpx.post(running.url + CHAT, content=json.dumps({"model": "int4"}), headers={"content-type": kind})
    assert response.status_code == 415
    error_of(response)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b'{"model": NaN}',
        b'{"model": "int4", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "int4", "\\udc00": 1}',
        b'{"seed": 1' + b"0" * 10_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
def test_a_body_that_is_no_json_object_is_refused(running: Running, body: bytes, path: str) -> None:
    response = httpx.post(running.url + path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


SOUND = "messages[0].content[0].input_audio"
FORM = "response_format"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x", "tools": "[]"}]}, "messages[0].tools"),
    ({"messages": user("x")}, "messages[0].content[0]"),
    ({"messages": user({"type": "video"})}, "messages[0].content[0].type"),
    ({"messages": user({"type": "text"})}, "messages[0].content[0].text"),
    ({"messages": user({"type": "image", "image": "/etc/passwd"})}, "messages[0].content[0].type"),
    ({"messages": user({"type": "image_url", "image_url": "x"})}, "messages[0].content[0].image_url"),
    ({"messages": user({"type": "input_audio", "input_audio": {"data": "!"}})}, f"{SOUND}.data"),
    ({"messages": user({"type": "input_audio", "input_audio": {"data": ""}})}, f"{SOUND}.data"),
    ({"messages": [{"role": "tool", "content": "5", "tool_call_id": "no"}]}, "messages[0].tool_call_id"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"seed": 2**64}, "seed"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"stop": 5}, "stop"),
    ({"n": 2}, "n"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({FORM: {"type": "json_schema", "json_schema": {"name": "a", "schema": 5}}}, f"{FORM}.json_schema.schema"),
    ({"tools": [{"type": "web"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"adapters": {"vision": "1"}}, "adapters.vision"),
    ({"colour": "blue"}, "colour"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param"), WRONG, ids=[json.dumps(c)[:60] for c, _ in WRONG])
def test_a_field_of_another_shape_is_refused_by_name(running: Running, change: dict[str, Any], param: str) -> None:
    body = {"model": "int4", "messages": TEXT, **change}
    response = httpx.post(running.url + CHAT, json=body, timeout=60)
    assert response.status_code == 400
    assert error_of(response)["param"] == param


@pytest.mark.parametrize("adapters", [{"nothing": 1}, {"vision": 1e300}])
def test_adapters_that_cannot_be_switched_are_refused(running: Running, adapters: dict[str, float]) -> None:
    body = {"model": "int4", "messages": TEXT, "adapters": adapters}
    response = httpx.post(running.url + CHAT, json=body, timeout=60)
    assert response.status_code == 400 and "adapter" in error_of(response)["message"]


@pytest.mark.parametrize(
    "url",
    ["/etc/hostname", "file:///etc/hostname", "http://127.0.0.1:1/a.png", "https://example.com/a.png", "data:,x", ""],
)
def test_no_path_and_no_address_of_a_request_is_opened(running: Running, url: str) -> None:
    body = {"model": "int4", "messages": user({"type": "image_url", "image_url": {"url": url}})}
    response = httpx.post(running.url + CHAT, json=body)
    assert response.status_code == 400 and "expected a data: address" in error_of(response)["message"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "0.0.0.0", "[::ffff:127.0.0.1]"]
)
def test_addresses_of_the_servers_own_network_are_not_asked(int4_bundle: Path, host: str) -> None:
    from palmtop.runtime.serve.wire.api_error import ApiError
    from palmtop.runtime.serve.wire.remote_media import fetch_image

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        with pytest.raises(ApiError, match=r"not public|cannot be read"):
            fetch_image(f"http://{host}:{listening.getsockname()[1]}/a.png", "url")
        with pytest.raises(TimeoutError):
            listening.accept()


def test_a_body_that_is_too_long_is_refused_before_it_is_read(running: Running) -> None:
    body = {"model": "int4", "messages": user(image_part(b"x" * (5 << 20)))}
    response = httpx.post(running.url + CHAT, json=body)
    assert response.status_code == 413 and error_of(response)["code"] == "body_too_large"
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    connection.putrequest("POST", CHAT)
    connection.putheader("content-length", str(1 << 40))
    connection.endheaders()
    assert connection.getresponse().status == 413  # although none of it came
    connection.close()


def test_a_body_that_states_no_length_is_counted(running: Running) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(10):
            yield b" " * (1 << 20)

    response = httpx.post(running.url + CHAT, content=parts(), headers={"content-type": "application/json"})
    assert response.status_code == 413


def test_a_client_that_leaves_before_its_body_ended_holds_nothing(running: Running) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", running.port)) as plain:
            plain.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{".encode())
    running.wait_until_free()
    assert httpx.get(f"{running.url}/health").status_code == 200


def test_an_unknown_path_and_method_are_answered_in_openais_shape(running: Running) -> None:
    assert error_of(httpx.get(f"{running.url}/v1/embeddings"))["code"] == "not_found"
    response = httpx.get(running.url + CHAT)
    assert response.status_code == 405 and response.headers["allow"] == "POST"
    error_of(response)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"response_format": "pdf"}, "response_format"),
        ({"temperature": "warm"}, "temperature"),
        ({"stream": "true"}, "stream"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"colour": "blue"}, "colour"),
        ({"file": None}, "file"),
    ],
)
def test_a_field_of_a_transcription_is_refused_by_name(
    running: Running, fields: dict[str, str | None], param: str
) -> None:
    given = {"model": "int4", **fields}
    files = {} if "file" in given else {"file": ("a.wav", b"RIFF")}
    data = {key: value for key, value in given.items() if value is not None}
    files = files or {"other": ("", "")}  # still a form
    response = httpx.post(f"{running.url}/v1/audio/transcriptions", data=data, files=files)
    assert response.status_code == 400
    assert error_of(response)["param"] in (param, "other")


def test_a_recording_that_is_no_sound_and_a_form_that_is_none_are_refused(running: Running) -> None:
    url = f"{running.url}/v1/audio/transcriptions"
    files = {"file": ("a.wav", b"no sound")}
    assert httpx.post(url, data={"model": "int4"}, files=files).status_code == 400
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = httpx.post(url, content=b"--x\r\nbroken", headers=headers)
    assert response.status_code == 400
    error_of(response)


def test_a_port_that_is_taken_is_one_sentence(running: Running) -> None:
    with pytest.raises(InputError, match="cannot listen"):
        bind("127.0.0.1", running.port)


def test_every_answer_forbids_guessing_framing_and_keeping(running: Running) -> None:
    for path in ("/", "/health", "/v1/models", "/no"):
        headers = httpx.get(running.url + path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.mark.parametrize("size", [PIECE // 4 * 3 - 1, PIECE // 4 * 3, PIECE // 4 * 3 + 1, 2 * PIECE, 7])
def test_base64_is_decoded_in_pieces(size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    text = base64.b64encode(data).decode()
    assert decode_base64(text, "here") == data
    for wrong in (text[:4] + "=" + text[5:], text[: PIECE - 1] + "=" + text, text + "=", "=" + text, text[:-1] + "%"):
        with pytest.raises(ApiError, match="here: "):
            decode_base64(wrong, "here")


def test_base64_with_line_breaks_is_refused(running: Running) -> None:
    url = "data:image/png;base64," + base64.encodebytes(b"x" * 100).decode()
    body = {"model": "int4", "messages": user({"type": "image_url", "image_url": {"url": url}})}
    assert httpx.post(running.url + CHAT, json=body).status_code == 400
