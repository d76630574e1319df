"""The toy bundle, written once, and sessions on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.session import Session, SessionOptions
from tests.runtime.toy import FakeEncoders, write_toy_bundle


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture
def encoders() -> FakeEncoders:
    return FakeEncoders()


@pytest.fixture
def toy_session(toy_bundle: Path, encoders: FakeEncoders) -> Iterator[Session]:
    options = SessionOptions(threads=1, prefill_chunk=16)
    with Session(open_bundle(toy_bundle), options, encoders=encoders) as session:
        yield session
