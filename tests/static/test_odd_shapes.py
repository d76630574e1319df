"""Static graphs of text models of odd shapes, sliding windows among them, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.bundle.targets import RopeSpec, StaticSpec
from palmtop.runtime.decoding.decoder import DecoderInputs
from palmtop.runtime.providers.static_decoder import StaticDecoder, attention_bias
from palmtop.runtime.providers.static_sessions import StaticSessions
from tests.export.test_phi3 import longrope, write_phi3
from tests.static.conftest import open_on_cpu, write_graphs

CONTEXT, CHUNK, LENGTH = 48, 7, 40


@pytest.mark.parametrize(
    ("sizes", "is_long"),
    [
        ({"head_dim": 12, "num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True}, False),
        ({"head_dim": 16, "partial_rotary_factor": 0.5, "sliding_window": 9}, False),
        ({"num_key_value_heads": 4, "rope_parameters": longrope(7)}, False),
        ({"rope_parameters": longrope(7), "original_max_position_embeddings": 20}, True),
    ],
)
def test_every_position_predicts_as_transformers(sizes: dict[str, Any], is_long: bool, tmp_path: Path) -> None:
    model = write_phi3(tmp_path / "checkpoint", 0, **sizes)
    bundle = open_bundle(export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(bits=32, context=CONTEXT)))
    spec = write_graphs(tmp_path / "checkpoint", tmp_path / "graphs", CONTEXT, CHUNK)
    graphs = StaticSessions(tmp_path / "graphs", spec, open_on_cpu, open_on_cpu)
    inputs = DecoderInputs(None, None, None, np.array([is_long]))
    decoder = StaticDecoder(graphs, spec, bundle.manifest, inputs)
    ids = np.random.default_rng(5).integers(0, 490, LENGTH).astype(np.int32)
    with torch.no_grad():
        expected = model(torch.tensor(ids.astype(np.int64))[None], use_cache=False).logits[0].numpy()
    done = 0
    for step in (3, 1, 1, 16, 7, 1, 11):  # decode runs, whole chunks, padded chunks
        decoder.append(ids[done : done + step])
        done += step
        assert np.abs(decoder.logits() - expected[done - 1]).max() <= 1e-4 * np.ptp(expected), done
    assert done == LENGTH


def test_the_bias_shows_the_past_and_the_window_alone() -> None:
    rope = RopeSpec(theta=1e4, rotary_size=2, attention_factor=1.0, short_factor=(), long_factor=())
    spec = StaticSpec(context=6, chunk=4, masked=-9.0, window=3, rope=rope, embedding="e", routes=())
    seen = attention_bias(spec, count=3, used=2, rows=4)[0, 0] == 0
    # columns: six positions of the cache, three of them filled, then the four rows of this run
    assert seen[:2].astype(int).tolist() == [[0, 1, 1, 0, 0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 1, 1, 0, 0]]
    assert seen.any(axis=1).all()  # a padded row without anything to see would be NaN where masked is -inf
