"""Parts of a layer that no architecture here has yet, in both emitters, against the same function written otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from palmtop.export.arch import Model, read_model
from palmtop.export.bundle.bundle_writer import write_bundle
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.providers.fixed_shape.graphs import write_float_graphs
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.decoder import DecoderInputs
from palmtop.runtime.providers.static_decoder import StaticDecoder
from palmtop.runtime.providers.static_sessions import StaticSessions
from tests.export.families import logits_of
from tests.export.test_llama import write_llama
from tests.static.conftest import open_on_cpu

SCALE, CONTEXT = 0.375, 64
IDS = np.random.default_rng(3).integers(0, 480, 40)
RECIPE = Recipe(bits=32, context=CONTEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    """Of a model whose last linear of each half is that much smaller, biases included."""
    model: LlamaForCausalLM = write_llama(folder / "checkpoint", 3, attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "o_proj" in name or "down_proj" in name:
                tensor.mul_(SCALE)
        found: np.ndarray = model(torch.tensor(IDS)[None], use_cache=False).logits[0].numpy()
    return found


@pytest.fixture(scope="module")
def scaled(expected: np.ndarray, folder: Path) -> Model:
    model = read_model(open_checkpoint(folder / "checkpoint"), RECIPE)
    layers = tuple(replace(layer, residual_scale=SCALE) for layer in model.decoder.layers)
    return replace(model, graphs={"decoder": replace(model.decoder, layers=layers)})


@pytest.fixture(scope="module")
def bundle(scaled: Model, folder: Path) -> Path:
    (folder / "bundle").mkdir()
    write_bundle(folder / "bundle", open_checkpoint(folder / "checkpoint"), scaled, RECIPE)
    return folder / "bundle"


def test_what_is_added_to_the_residual_stream_is_scaled(bundle: Path, expected: np.ndarray) -> None:
    found = logits_of(bundle, IDS, 30)
    assert np.abs(found - expected[29:-1]).max() < 1e-4 * np.ptp(expected)


def test_with_fixed_shapes_too(scaled: Model, bundle: Path, expected: np.ndarray, tmp_path: Path) -> None:
    spec = write_float_graphs(tmp_path, scaled, context=CONTEXT, chunk=16)
    graphs = StaticSessions(tmp_path, spec, open_on_cpu, open_on_cpu)
    decoder = StaticDecoder(graphs, spec, open_bundle(bundle).manifest, DecoderInputs(None, None, None, None))
    decoder.append(IDS.astype(np.int32))
    assert np.abs(decoder.logits() - expected[-1]).max() < 1e-4 * np.ptp(expected)
