"""A server over the packaged model, once a session, and OpenAI's client for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.runtime.serve.live_server import Running, serving


@pytest.fixture(scope="session")
def running(int4_bundle: Path) -> Iterator[Running]:
    with serving(int4_bundle) as running:
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with running.client() as client:
        yield client
