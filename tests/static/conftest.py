"""The reference model's float graphs of fixed shapes, run on onnxruntime's CPU provider."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from palmtop.export.arch import find
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.providers.fixed_shape.graphs import write_float_graphs
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.bundle.targets import StaticSpec
from palmtop.runtime.providers.static_sessions import StaticSessions
from palmtop.runtime.session import Session, SessionOptions

CONTEXT, CHUNK = 512, 32


def open_on_cpu(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def write_graphs(checkpoint: Path, folder: Path, context: int = CONTEXT, chunk: int = CHUNK) -> StaticSpec:
    folder.mkdir()
    opened = Checkpoint(checkpoint)
    model = find(str(opened.config["model_type"])).read_model(opened)
    return write_float_graphs(folder, model, context=context, chunk=chunk)


def static_session(bundle: Path, folder: Path, spec: StaticSpec, **options: object) -> Session:
    """A session on the bundle whose decoder is the graphs in ``folder``."""
    static = StaticSessions(folder, spec, open_on_cpu, open_on_cpu, keep=True)
    loading = SessionOptions(threads=1, keep_encoders=True, **options)  # type: ignore[arg-type]
    return Session(open_bundle(bundle), loading, static=static)


@pytest.fixture(scope="session")
def float_graphs(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StaticSpec]:
    folder = tmp_path_factory.mktemp("static") / "float"
    return folder, write_graphs(reference_checkpoint, folder)
