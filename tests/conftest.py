"""Fixtures that everything shares: the packaged checkpoint and bundles made of it, once a session."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from palmtop.runtime.reference import checkpoint_path


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Ctrl-C acts in the tests and their children, even if a shell that put them into the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def reference_checkpoint() -> Path:
    """The packaged, trained reference model in upstream's layout."""
    return checkpoint_path()


@pytest.fixture(scope="session")
def float_bundle(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model as a float32 bundle, for parity."""
    from palmtop.export.convert import export_model
    from palmtop.export.recipe import Recipe

    return export_model(reference_checkpoint, tmp_path_factory.mktemp("bundles") / "float", Recipe(bits=32))


@pytest.fixture(scope="session")
def int4_bundle(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model as users get it."""
    from palmtop.export.convert import export_model

    return export_model(reference_checkpoint, tmp_path_factory.mktemp("bundles") / "int4")
