"""A running server over the packaged model, on a free port of this machine."""

from __future__ import annotations

import base64
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

import httpx2 as httpx
import openai

from palmtop.runtime.reference import samples_path
from palmtop.runtime.serve.app import ServeOptions
from palmtop.runtime.serve.guard import Guard
from palmtop.runtime.serve.server import Server, bind
from palmtop.runtime.serve.session_store import SessionStore
from palmtop.runtime.session_options import SessionOptions

IMAGE = (samples_path() / "image.png").read_bytes()
AUDIO = (samples_path() / "audio.wav").read_bytes()


@dataclass(frozen=True, slots=True)
class Running:
    """A server and where it is."""

    server: Server | None
    port: int
    key: str | None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> openai.OpenAI:
        options = {"max_retries": 0, "timeout": 60, "api_key": self.key or "unused", **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **options)

    def wait_until_free(self) -> None:
        """Every turn is given back."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        for _ in range(500):
            text = httpx.get(f"{self.url}/metrics", headers=headers).text
            if all(line.endswith(" 0") for line in text.splitlines() if re.match(r"palmtop_requests_(run|wait)", line)):
                return
            sleep(0.02)
        raise AssertionError("a turn was not given back within 10 s")


@contextmanager
def serving(
    *bundles: Path,
    key: str | None = None,
    queue: int = 64,
    conversations: int = 4,
    loading: SessionOptions | None = None,
    send_buffer: int | None = None,
    store: SessionStore | None = None,
    **options: Any,
) -> Iterator[Running]:
    """Serve bundles until the block is left; ``send_buffer`` bytes wait for a slow client, and no more."""
    guard = Guard(host="127.0.0.1", key=key)
    options = {"guard": guard, "timeout_s": 60.0, "max_body": 4 << 20, **options}
    loading = loading or SessionOptions(threads=1)
    server = Server(bundles, loading, ServeOptions(**options), queue, conversations, store)
    with bind("127.0.0.1", 0) as listening:
        if send_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        thread = threading.Thread(target=server.run, args=[listening])
        thread.start()
        while not server.is_ready:
            sleep(0.01)
        try:
            yield Running(server, listening.getsockname()[1], key)
        finally:
            server.stop()
            thread.join(60)
            assert not thread.is_alive()


def image_part(data: bytes = IMAGE) -> Any:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}


def audio_part(data: bytes = AUDIO) -> Any:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def asked(*parts: Any, text: str = "What is it?") -> list[Any]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


TEXT = asked(text="digits: two eight nine. What is it?")  # 289; the picture shows 303, the sound says 753
