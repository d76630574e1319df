"""An encoder that would run for ever ends when it is told to."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h

from palmtop.runtime.media.encoder_runner import Encoders, EncodingStopped
from palmtop.runtime.processor.sounds.log_mel import LogMel
from tests.runtime.test_encoders import AUDIO, SPEC, sound


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """audio.onnx with a loop of 2**62 steps."""
    info = h.make_tensor_value_info
    body = h.make_graph(
        [h.make_node("Add", ["x", "x"], ["twice"]), h.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [info("i", T.INT64, []), info("go", T.BOOL, []), info("x", T.FLOAT, [1, 4])],
        [info("go_on", T.BOOL, []), info("twice", T.FLOAT, [1, 4])],
    )
    steps = h.make_tensor("steps", T.INT64, [], [1 << 62])
    yes = h.make_tensor("yes", T.BOOL, [], [True])
    start = h.make_tensor("start", T.FLOAT, [1, 4], [1.0] * 4)
    graph = h.make_graph(
        [h.make_node("Loop", ["steps", "yes", "start"], ["audio_features"], body=body)],
        "endless",
        [info("log_mel", T.FLOAT, [1, "T", 80])]
        + [info(name, T.INT64, [1]) for name in ("left_context", "window", "projector")],
        [info("audio_features", T.FLOAT, [1, 4])],
        [steps, yes, start],
    )
    path = tmp_path_factory.mktemp("endless") / "audio.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=10), str(path))
    return path


def test_a_wish_to_stop_ends_a_run(endless: Path) -> None:
    encoders = Encoders(None, endless, SPEC, threads=1)
    wanted = threading.Event()
    threading.Timer(0.3, wanted.set).start()
    with pytest.raises(EncodingStopped):
        encoders.encode_audio(LogMel(sound(100), AUDIO), False, should_stop=wanted.is_set)
    assert not [thread for thread in threading.enumerate() if thread.name == "palmtop-encoder"]


def test_ctrl_c_ends_a_run(endless: Path) -> None:
    encoders = Encoders(None, endless, SPEC, threads=1)
    threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        encoders.encode_audio(LogMel(sound(100), AUDIO), False)
    assert not [thread for thread in threading.enumerate() if thread.name == "palmtop-encoder"]


def test_who_waits_for_an_encoder_may_leave(endless: Path) -> None:
    encoders = Encoders(None, endless, SPEC, threads=1)
    stop_first = threading.Event()

    def first() -> None:
        with pytest.raises(EncodingStopped):
            encoders.encode_audio(LogMel(sound(100), AUDIO), False, should_stop=stop_first.is_set)

    thread = threading.Thread(target=first)
    thread.start()
    time.sleep(0.1)
    with pytest.raises(EncodingStopped):
        encoders.encode_audio(LogMel(np.ones((100, 80), np.float32), AUDIO), False, should_stop=lambda: True)
    stop_first.set()
    thread.join(30)
    assert not thread.is_alive()
