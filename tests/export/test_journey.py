"""Every file of ``export/arch``: a tiny checkpoint becomes a bundle that says what the model says, token for token.

A new file is found by itself and needs its entry (``families.Family``). Each multiplier, bias and norm that an
architecture has counts: a graph without it fails the same comparison.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from palmtop.errors import CheckpointError
from palmtop.export.adapters.install import add_adapter
from palmtop.export.arch import Model, names, read_model
from palmtop.export.bundle.bundle_writer import write_bundle
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.convert import export_model
from palmtop.export.graph.decoder import Decoder
from palmtop.export.graph.norm import RmsNorm
from palmtop.export.providers.fixed_shape.graphs import write_float_graphs
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.decoder import DecoderInputs
from palmtop.runtime.providers.static_decoder import StaticDecoder
from palmtop.runtime.providers.static_sessions import StaticSessions
from tests.export.families import Family, answers_alike, difference, expected_logits, logits_of
from tests.static.conftest import open_on_cpu

ROOT = Path(__file__).parents[2]
CONTEXT, TOLERANCE = 128, 1e-4
RECIPE = Recipe(bits=32, context=CONTEXT)


def family_of(name: str) -> Family:
    module = f"tests.export.test_{name}"
    assert importlib.util.find_spec(module), f"export/arch/{name}.py has no entry: expected FAMILY in {module}"
    found = importlib.import_module(module).FAMILY
    assert isinstance(found, Family)
    return found


CASES = [(name, shape) for name in names() for shape in family_of(name).shapes]
DENSE = ("llama", "qwen2", "qwen3", "granite", "granitemoehybrid", "minicpm")
TEXT = [name for name in names() if not name.startswith(("phi4", "minicpmv"))]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_logits_and_answers_are_the_models(name: str, shape: str, tmp_path: Path) -> None:
    family = family_of(name)
    model = family.write(tmp_path / "checkpoint", 3, **family.shapes[shape])
    bundle = export_model(tmp_path / "checkpoint", tmp_path / "bundle", RECIPE)
    assert difference(bundle, model) < TOLERANCE
    assert answers_alike(bundle, model)


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_family_is_one_short_file_tried_in_ten_shapes(name: str) -> None:
    assert len((ROOT / "export" / "arch" / f"{name}.py").read_text("utf-8").splitlines()) <= 150
    assert len(family_of(name).shapes) >= 10


@pytest.mark.parametrize("name", DENSE)
def test_a_setting_that_nothing_reads_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    family_of(name).write(tmp_path, 1, num_hidden_layers=1)
    path = tmp_path / "config.json"
    own = json.loads(path.read_text())
    read_model(open_checkpoint(tmp_path), Recipe(context=64))
    for key, value in (("attn_logit_softcapping", 30.0), ("use_parallel_residual", True), ("a_new_scale", 1.5)):
        path.write_text(json.dumps({**own, key: value}))
        with pytest.raises(CheckpointError, match=key):
            read_model(open_checkpoint(tmp_path), Recipe(context=64))


class NoNorm(RmsNorm):
    """Passes its input on."""

    def emit(self, g: Any, prefix: str, weights: Any, x: Any, skip: Any = None) -> tuple[Any, Any]:
        x = x if skip is None else g.op("Add", x, skip)
        return g.op("Identity", x), x


def mutants(decoder: Decoder) -> Iterator[tuple[str, Decoder]]:
    """The decoder without one thing that it has, in all layers, by the thing's name."""
    parts = {"layer": decoder.layers[0], "mixer": decoder.layers[0].mixer, "ffn": decoder.layers[0].ffn}
    for part, there in parts.items():
        for field in fields(there):
            default = field.default
            if field.name in ("mixer", "ffn", "norms") or not isinstance(default, (float, bool, type(None))):
                continue
            if getattr(there, field.name) == default:
                continue
            changes = {field.name: default}
            own = {part: replace(there, **changes)} if part != "layer" else changes
            yield f"{part}.{field.name}", replace(decoder, layers=[replace(each, **own) for each in decoder.layers])
    for field in fields(decoder):
        if isinstance(field.default, (float, bool)) and getattr(decoder, field.name) != field.default:
            yield field.name, replace(decoder, **{field.name: field.default})
    for place in (0, 1):
        norms = [
            [NoNorm(n.name, n.size, n.eps) if i == place else n for i, n in enumerate(each.norms)]
            for each in decoder.layers
        ]
        layers = [replace(each, norms=tuple(own)) for each, own in zip(decoder.layers, norms, strict=True)]
        yield f"norms[{place}]", replace(decoder, layers=layers)
    yield "norm", replace(decoder, norm=NoNorm(decoder.norm.name, decoder.norm.size, decoder.norm.eps))
    if decoder.rope.short_factor is not None and decoder.rope.long_factor is None:
        yield "rope.factors", replace(decoder, rope=replace(decoder.rope, short_factor=None))
    if decoder.rope.attention_factor != 1.0:
        yield "rope.attention_factor", replace(decoder, rope=replace(decoder.rope, attention_factor=1.0))


@pytest.mark.parametrize("name", names())
def test_nothing_that_an_architecture_has_can_be_left_out(name: str, tmp_path: Path) -> None:
    family, tried = family_of(name), set[str]()
    for number, (shape, changes) in enumerate(family.shapes.items()):
        folder = tmp_path / str(number)
        model = family.write(folder / "checkpoint", 3, **changes)
        checkpoint = open_checkpoint(folder / "checkpoint")
        own = read_model(checkpoint, RECIPE)
        for what, decoder in mutants(own.decoder):
            if what in tried or (
                what == "mixer.scale" and np.isclose(own.decoder.attention.score_scale, decoder.attention.score_scale)
            ):
                continue
            tried.add(what)
            bundle = folder / what
            bundle.mkdir()
            write_bundle(bundle, checkpoint, replace(own, graphs={**own.graphs, "decoder": decoder}), RECIPE)
            assert difference(bundle, model) > 10 * TOLERANCE, f"{shape}: {what}"
    assert {"norm", "norms[0]", "norms[1]"} <= tried
    wanted = {
        "llama": {"mixer.has_bias", "mixer.has_output_bias", "ffn.has_bias", "rope.factors"},
        "qwen2": {"mixer.has_bias", "mixer.window"},
        "qwen3": {"mixer.norm_eps"},
        "granite": {"embedding_scale", "logit_scale", "layer.residual_scale", "mixer.scale"},
        "granitemoehybrid": {"embedding_scale", "logit_scale", "layer.residual_scale", "mixer.scale", "mixer.has_bias"},
        "minicpm": {"embedding_scale", "logit_scale", "layer.residual_scale", "rope.factors"},
        "phimoe": {"mixer.has_bias", "mixer.has_output_bias", "mixer.window", "has_head_bias", "rope.attention_factor"},
    }
    assert wanted.get(name, set()) <= tried


@pytest.mark.parametrize("name", TEXT)
def test_a_quantised_bundle_proves_itself(name: str, tmp_path: Path) -> None:
    family = family_of(name)
    family.write(tmp_path / "checkpoint", 3, max_position_embeddings=512)
    bundle = open_bundle(export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=256), verify=True))
    assert bundle.file("quality.json").is_file()


@pytest.mark.parametrize("name", TEXT)
def test_fixed_shapes_give_the_same_logits(name: str, tmp_path: Path) -> None:
    family = family_of(name)
    expected, bundle, model = _built(family, tmp_path)
    spec = write_float_graphs(tmp_path, model, context=CONTEXT, chunk=16)
    graphs = StaticSessions(tmp_path, spec, open_on_cpu, open_on_cpu)
    decoder = StaticDecoder(graphs, spec, open_bundle(bundle).manifest, DecoderInputs(None, None, None, None))
    decoder.append(np.random.default_rng(3).integers(0, 480, 40).astype(np.int32))
    assert np.abs(decoder.logits() - expected[-1]).max() < TOLERANCE * np.ptp(expected)


def _built(family: Family, folder: Path) -> tuple[np.ndarray, Path, Model]:
    shape = next(iter(family.shapes.values()))
    model = family.write(folder / "checkpoint", 3, **shape)
    expected = expected_logits(model, np.random.default_rng(3).integers(0, 480, 40))
    bundle = export_model(folder / "checkpoint", folder / "bundle", RECIPE)
    return expected, bundle, read_model(open_checkpoint(folder / "checkpoint"), RECIPE)


@pytest.mark.parametrize("name", [name for name in TEXT if name != "phi3"])
def test_a_lora_of_separate_projections_can_be_added(name: str, tmp_path: Path) -> None:
    """PEFT's own model is the reference; a projection without an adapter is among the fused ones."""
    family = family_of(name)
    model: Any = family.write(tmp_path / "checkpoint", 3, **next(iter(family.shapes.values())))
    bundle = export_model(tmp_path / "checkpoint", tmp_path / "bundle", RECIPE)
    mlp = ("input_linear", "output_linear") if name == "granitemoehybrid" else ("up_proj", "down_proj")
    targets = ["q_proj", "v_proj", "o_proj", *mlp]
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=targets, init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "mine")
    add_adapter(bundle, tmp_path / "mine")
    ids = np.random.default_rng(3).integers(0, 480, 40)
    with torch.no_grad():
        expected = tuned(input_ids=torch.tensor(ids[:-1])[None], use_cache=False).logits[0, 29:].numpy()
    assert np.abs(logits_of(bundle, ids, 30, (1.0,)) - expected).max() < TOLERANCE * np.ptp(expected)
