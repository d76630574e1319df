"""A mixture that is routed otherwise, or whose experts are not in their places: ``verify`` rejects each bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.export.verify import verify
from palmtop.runtime.bundle.opening import open_bundle
from tests.export.test_mutations import Mutation, edit_graph, nodes, rejected, set_attribute, set_constant
from tests.export.test_phimoe import write

SIZES = {"num_hidden_layers": 1, "num_local_experts": 4, "intermediate_size": 96, "max_position_embeddings": 512}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moe") / "checkpoint"
    write(folder, 3, **SIZES)
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(checkpoint, tmp_path_factory.mktemp("moe") / "bundle", Recipe(bits=8, context=256))


def no_band(bundle: Path) -> None:
    """As with a jitter of 0."""

    def edit(model: ir.Model) -> None:
        for node in nodes(model, "Greater"):
            set_constant(node, 1, np.array(0.0, np.float32))

    edit_graph(bundle, edit)


def swapped_experts(bundle: Path) -> None:
    """The matrices of the first two experts change places on disk."""
    node = next(nodes(ir.load(bundle / "decoder.onnx"), "QMoE"))
    path = bundle / "weights" / "decoder.bin"
    data = bytearray(path.read_bytes())
    for place in (2, 5):
        value = node.inputs[place]
        tensor = None if value is None else value.const_value
        assert isinstance(tensor, ir.ExternalTensor)
        start, step = tensor.offset or 0, (tensor.length or 0) // 4
        first, second = data[start : start + step], data[start + step : start + 2 * step]
        data[start : start + 2 * step] = second + first
    path.write_bytes(data)


def own_routing(bundle: Path) -> None:
    """The operator's softmax instead of the shares."""
    edit_graph(bundle, lambda model: next(nodes(model, "QMoE")).replace_input_with(14, None))


MUTATIONS: dict[str, Mutation] = {
    "renormalised": set_attribute("QMoE", "normalize_routing_weights", lambda _: 1),
    "top-1": set_attribute("QMoE", "k", lambda _: 1),
    "another activation": set_attribute("QMoE", "activation_alpha", lambda _: 1.702),
    "jitter 0": no_band,
    "permuted experts": swapped_experts,
    "the operator's routing": own_routing,
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutated_mixture_is_rejected(name: str, bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    MUTATIONS[name](copy)
    assert rejected(copy, checkpoint)


def test_the_mixture_itself_passes(bundle: Path, checkpoint: Path) -> None:
    """At 8 bits too, whose kernel has float activations only for weights as stored."""
    quality = verify(open_bundle(bundle), Checkpoint(checkpoint), items=1)
    assert [(c.name, c.detail) for c in quality.checks if not c.passed] == []
