from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.errors import UnsupportedModelError
from palmtop.export.graph.linear import Precision
from palmtop.quantize.scheme import Scheme
from tests.export.towers import (
    audio_config,
    audio_embedding,
    port_config,
    relative_error,
    session,
    snr_db,
    write_audio,
)

FLOAT32_NOISE = 1e-5  # of the range; measured 8e-7


def noise(frames: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((frames, 80)).astype(np.float32)


def run(
    graph: ort.InferenceSession,
    mel: NDArray[np.float32],
    *,
    left: int = 0,
    window: int = 0,
    projector: int = 0,
) -> NDArray[np.float32]:
    numbers = {"left_context": left, "window": window, "projector": projector}
    feeds = {"log_mel": mel[None]} | {name: np.array([value], np.int64) for name, value in numbers.items()}
    found: NDArray[np.float32] = graph.run(["audio_features"], feeds)[0]
    return found


def reference(embedding: Any, mel: NDArray[np.float32], projector: int = 0, rate: int = 1) -> NDArray[np.float32]:
    """The port's encoder and projector at batch 1: [rows, H]."""
    pair = "vision_speech" if projector else "speech"
    with torch.no_grad():
        steps = embedding.encoder(torch.from_numpy(mel)[None], None)
        # Upstream's stacking (modeling_phi4mm.py, get_audio_features), which the port lacks.
        steps = torch.nn.functional.pad(steps, (0, 0, 0, -steps.shape[1] % rate))
        rows = steps.reshape(1, -1, rate * steps.shape[-1])
        up, down = getattr(embedding, f"up_proj_for_{pair}"), getattr(embedding, f"down_proj_for_{pair}")
        features: NDArray[np.float32] = down(torch.nn.functional.gelu(up(rows)))[0].numpy()
    return features


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_features_equal_the_reference(tmp_path: Path, data: st.DataObject) -> None:
    heads = data.draw(st.sampled_from([1, 2, 3]), label="heads")
    symmetric = data.draw(st.booleans(), label="symmetric")
    act = st.sampled_from(["swish", "relu", "gelu", "sigmoid", "tanh", "gelu_pytorch_tanh", "quick_gelu", "hardswish"])
    config = port_config(
        None,
        {
            "hidden_size": 12 * heads,
            "ext_pw_out_channel": 12 * heads,
            "depthwise_separable_out_channel": 12 * heads,
            "num_attention_heads": heads,
            "kernel_size": data.draw(st.integers(1, 6), label="kernel"),
            "depthwise_multiplier": data.draw(st.integers(1, 2), label="multiplier"),
            "nemo_conv_channels": data.draw(st.sampled_from([8, 130]), label="channels"),
            "time_reduction": data.draw(st.sampled_from([2, 4, 8, 16]), label="reduction"),
            "bias_max_distance": 600 if symmetric else data.draw(st.sampled_from([3, 40, 600]), label="distance"),
            "bias_symmetric": symmetric,
            **{
                key: data.draw(act, label=key)
                for key in ("activation", "conv_activation", "conv_glu_type", "nemo_activation")
            },
        },
    )
    embedding = audio_embedding(config, seed=data.draw(st.integers(0, 9), label="seed"))
    graph = session(write_audio(tmp_path, embedding, config))
    for frames in data.draw(st.lists(st.integers(1, 300), min_size=2, max_size=3), label="frames"):
        mel = noise(frames)
        assert relative_error(run(graph, mel), reference(embedding, mel)) < FLOAT32_NOISE


def test_each_projector_equals_its_reference_and_they_differ(tmp_path: Path) -> None:
    config = port_config()
    embedding = audio_embedding(config)
    graph, mel = session(write_audio(tmp_path, embedding, config)), noise(100)

    alone, beside_images = (run(graph, mel, projector=p) for p in (0, 1))

    assert relative_error(alone, reference(embedding, mel, 0)) < FLOAT32_NOISE
    assert relative_error(beside_images, reference(embedding, mel, 1)) < FLOAT32_NOISE
    assert relative_error(alone, beside_images) > 0.01


@pytest.mark.parametrize("rate", [2, 3])
def test_steps_are_stacked_as_upstream_stacks_them(tmp_path: Path, rate: int) -> None:
    config = port_config(None, {"downsample_rate": rate})
    embedding = audio_embedding(config)
    graph = session(write_audio(tmp_path, embedding, config))
    for frames, steps in ((96, 12), (97, 13), (104, 13), (112, 14)):
        found = run(graph, noise(frames))
        assert len(found) == -(-steps // rate)
        assert relative_error(found, reference(embedding, noise(frames), rate=rate)) < FLOAT32_NOISE


def test_left_context_gives_a_window_the_steps_of_the_whole_sound(tmp_path: Path) -> None:
    config = port_config()
    embedding = audio_embedding(config)
    graph, mel, encoder = session(write_audio(tmp_path, embedding, config)), noise(160), embedding.encoder
    with torch.no_grad():
        hidden = encoder.embed(encoder.encoder_embedding(torch.from_numpy(mel)[None]), None)[0][:, 10:]
        for layer in encoder.encoders:
            hidden = layer(hidden, encoder.relative_attention_bias_layer(hidden))
        rows = embedding.down_proj_for_speech(torch.nn.functional.gelu(embedding.up_proj_for_speech(hidden)))[0].numpy()

    assert relative_error(run(graph, mel[72:], left=1), rows) < FLOAT32_NOISE
    assert relative_error(run(graph, mel[80:]), rows) > 0.001  # without context the first step differs


def test_small_activations_show_the_epsilon_of_the_layer_norms(tmp_path: Path) -> None:
    config = port_config()
    embedding = audio_embedding(config)
    with torch.no_grad():
        for parameter in embedding.encoder.embed.out.parameters():
            parameter.mul_(0.003)
    mel = noise(60)

    found = run(session(write_audio(tmp_path, embedding, config)), mel)

    assert relative_error(found, reference(embedding, mel)) < FLOAT32_NOISE


def test_filled_up_steps_take_part_in_attention_and_are_not_returned(tmp_path: Path) -> None:
    config = port_config()
    embedding = audio_embedding(config)
    graph, mel = session(write_audio(tmp_path, embedding, config)), noise(80)

    plain, same, filled = run(graph, mel), run(graph, mel, window=10), run(graph, mel, window=16)

    np.testing.assert_array_equal(plain, same)
    assert filled.shape == plain.shape
    assert relative_error(filled, plain) > 0.001


@pytest.mark.parametrize(("bits", "least_db", "most_db"), [(8, 32, 60), (4, 8, 30)])
def test_quantised_features_stay_close(tmp_path: Path, bits: int, least_db: float, most_db: float) -> None:
    config = port_config(None, {"hidden_size": 64, "ext_pw_out_channel": 64, "depthwise_separable_out_channel": 64})
    embedding = audio_embedding(config)
    mel = noise(400)
    precision = Precision(scheme=Scheme(bits=bits, group=32))

    found = run(session(write_audio(tmp_path, embedding, config, precision)), mel)

    assert least_db < snr_db(found, reference(embedding, mel)) < most_db


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_size": 16}, "chunk_size is 16, expected -1"),
        ({"time_reduction": 6}, "time_reduction is 6, expected a power of two"),
        ({"num_attention_heads": 5}, "not a multiple of its 5 heads"),
        ({"ext_pw_out_channel": 64}, "ext_pw_out_channel is 64, expected hidden_size 32"),
        ({"conv_glu_type": "snake"}, "conv_glu_type is 'snake', expected one of gelu"),
        ({"downsample_rate": 0}, "downsample_rate is 0, expected at least 1"),
    ],
)
def test_what_the_graph_cannot_express_is_refused(changes: dict[str, Any], message: str) -> None:
    good = audio_config(port_config())
    values = {name: getattr(good, name) for name in type(good).__dataclass_fields__}
    with pytest.raises(UnsupportedModelError, match=message):
        type(good)(**values | changes)
