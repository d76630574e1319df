"""The trained mixture of the text tasks (``tests/reference/train_mixture.py``) against transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from transformers import PhimoeForCausalLM

from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import DecoderSpec
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.memory.plan import active_bytes, active_parameters
from palmtop.runtime.reference.text_tasks import draw_task
from tests.export.families import difference, logits_of
from tests.reference.learning import Prompts
from tests.reference.vocabulary import build_tokenizer

MIXTURE = Path(__file__).parents[1] / "reference" / "mixture"
TOKENS, LENGTH = 10_000, 250
pytestmark = pytest.mark.skipif(not MIXTURE.is_dir(), reason="made by python -m tests.reference.train_mixture")
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> PhimoeForCausalLM:
    found = PhimoeForCausalLM.from_pretrained(MIXTURE, dtype=torch.float32, experts_implementation="eager")
    return found.eval()


@pytest.fixture(scope="module")
def float_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(MIXTURE, tmp_path_factory.mktemp("mixture") / "float", Recipe(bits=32, context=512))


@pytest.fixture(scope="module")
def int4_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(MIXTURE, tmp_path_factory.mktemp("mixture") / "int4", Recipe(context=512), verify=True)


def held_out(count: int) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of tasks that were not trained on."""
    prompts = Prompts(build_tokenizer())
    tasks = [draw_task(np.random.default_rng(10**6 + n), held_out=True) for n in range(count)]
    return [(prompts.text(task), prompts.answer(answer)) for _, task, answer in tasks]


def shares_of(bundle: Path, ids: NDArray[np.int64]) -> Array:
    """Shares of every layer, [L, S, E], of a whole sequence."""
    opened = open_bundle(bundle)
    graph = onnx.load(opened.file("decoder.onnx"), load_external_data=False)
    names = [node.output[0] for node in graph.graph.node if node.name.endswith("router/shares")]
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    exposed = opened.path / "exposed.onnx"
    onnx.save(graph, exposed)
    session = ort.InferenceSession(exposed, providers=["CPUExecutionProvider"])
    exposed.unlink()
    fed = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64), **empty(opened.manifest.decoder)}
    wanted = {i.name for i in session.get_inputs()}
    return np.stack(session.run(names, {name: array for name, array in fed.items() if name in wanted}))


def empty(spec: DecoderSpec) -> dict[str, Any]:
    caches = {name: np.zeros(state.stored_shape(0), np.float32) for state in spec.states for name in state.inputs()}
    return {**caches, "rope_long": np.array([False])}


def expected_shares(model: Any, ids: NDArray[np.int64]) -> Array:
    found: list[torch.Tensor] = []
    hooks = [
        layer.mlp.router.register_forward_hook(
            lambda _m, _i, out: found.append(torch.zeros(out[0].shape).scatter_(1, out[2], out[1]))
        )
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(torch.tensor(ids)[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return np.stack([each.numpy() for each in found])


def sequences() -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(9)
    for _ in range(TOKENS // LENGTH):
        yield rng.integers(0, 480, LENGTH)


def test_every_decision_of_ten_thousand_tokens_is_the_models(float_bundle: Path, model: PhimoeForCausalLM) -> None:
    for ids in sequences():
        expected, found = expected_shares(model, ids), shares_of(float_bundle, ids)
        assert np.array_equal(found > 0, expected > 0)
        assert np.abs(found - expected).max() < 1e-3  # shares inside the band are steep


def right(bundle: Path, tasks: list[tuple[list[int], list[int]]]) -> float:
    """Share of answers that are right, token for token, when the tokens before are given."""
    hits = 0
    for prompt, answer in tasks:
        logits = logits_of(bundle, np.array(prompt + answer), len(prompt))
        hits += bool((logits.argmax(-1) == answer).all())
    return hits / len(tasks)


def test_the_bundles_answer_as_the_model(float_bundle: Path, int4_bundle: Path, model: PhimoeForCausalLM) -> None:
    assert difference(float_bundle, model) < 1e-4
    tasks = held_out(40)
    with torch.no_grad():
        reference = [
            bool((model(torch.tensor([p + a[:-1]])).logits[0, len(p) - 1 :].argmax(-1) == torch.tensor(a)).all())
            for p, a in tasks
        ]
    assert right(float_bundle, tasks) == np.mean(reference)
    assert right(int4_bundle, tasks) >= np.mean(reference) - 0.1


def test_the_bundle_states_what_a_token_reads(int4_bundle: Path) -> None:
    manifest = open_bundle(int4_bundle).manifest
    part = next(p for p in manifest.parts if p.name.startswith("experts"))
    assert part.name == "experts, 2 of 16 a token" and part.active_share == 0.125
    total, stored = (sum(getattr(p, name) for p in manifest.parts) for name in ("parameters", "size_bytes"))
    assert active_parameters(manifest) == total - part.parameters * 14 // 16
    assert active_bytes(manifest) == stored - part.size_bytes * 14 // 16
