"""The vision graph of MiniCPM-V against torch, for views of any shape, in batches and one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from palmtop.errors import CheckpointError, UnsupportedModelError
from palmtop.export.checkpoint.lazy_tensor import StateDict, from_array
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import mark_of
from palmtop.export.graph.building.source import BuildContext
from palmtop.export.graph.encoders.resampler import Resampler
from palmtop.export.graph.encoders.sliced_siglip import SlicedSiglip
from palmtop.export.graph.encoders.vision_config import VisionConfig
from palmtop.export.graph.linear import GraphPrecision, Precision
from palmtop.quantize.scheme import Scheme
from palmtop.runtime.processor.images.patch_positions import nearest_positions
from tests.export.minicpmv_reference import MiniCpmV, make, positions
from tests.export.towers import relative_error, session, snr_db, write_graph

LIMIT = 1e-4
SIDE = 7  # trained positions along a side
VIEWS = [(14, 14), (56, 56), (28, 112), (126, 28), (98, 98), (70, 350), (14, 700)]
"""Heights and widths: a single patch, the usual one, wide, high, the trained grid, more positions than trained."""


def source(model: MiniCpmV, **changes: Any) -> SlicedSiglip:
    tower = VisionConfig(
        **{key: value for key, value in model.vision.items() if key != "model_type"},
        feature_layer=-1,
        layer_norm_eps=1e-6,
        output_size=model.config.hidden_size,
    )
    sizes = {"queries": model.queries, "input_size": tower.hidden_size, "output_size": tower.output_size}
    return SlicedSiglip(tower, Resampler(**{**sizes, **changes}))


def weights_of(model: MiniCpmV, asked: list[str] | None = None) -> StateDict:
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}

    def find(name: str) -> Any:
        if asked is not None:
            asked.append(name)
        return from_array(name, arrays[name])

    return StateDict(find)


def graph(folder: Path, model: MiniCpmV, scheme: Scheme | None = None, asked: list[str] | None = None) -> Path:
    precision = Precision(scheme=scheme)
    context = BuildContext(weights=weights_of(model, asked), precision=GraphPrecision(precision, precision, precision))

    def build(g: GraphBuilder) -> None:
        source(model).build(g, context)

    return write_graph(folder / "vision.onnx", build)


def run(opened: ort.InferenceSession, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    down, across = (nearest_positions(n // 14, SIDE) for n in pixels.shape[2:])
    ids = (down[:, None] * SIDE + across).reshape(-1)
    (found,) = opened.run(["image_features"], {"pixel_values": pixels, "position_ids": ids})
    return np.asarray(found)


def picture(size: tuple[int, int], count: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(sum(size)).uniform(-1, 1, (count, 3, *size)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> MiniCpmV:
    return make(5, hidden_size=256)


@pytest.fixture(scope="module")
def opened(model: MiniCpmV, tmp_path_factory: pytest.TempPathFactory) -> ort.InferenceSession:
    return session(graph(tmp_path_factory.mktemp("vision"), model))


@pytest.mark.parametrize("size", VIEWS)
def test_views_of_any_shape(size: tuple[int, int], model: MiniCpmV, opened: ort.InferenceSession) -> None:
    pixels = picture(size)
    found = run(opened, pixels)
    assert found.shape == (1, model.queries, 256)
    assert relative_error(found[0], model.rows([pixels[0]]).numpy()) < LIMIT


def test_a_batch_is_its_views_one_by_one(opened: ort.InferenceSession) -> None:
    pixels = picture((42, 70), 5)
    together = run(opened, pixels)
    apart = np.concatenate([run(opened, pixels[i : i + 1]) for i in range(5)])
    assert relative_error(together, apart) < 1e-5


def test_many_places_keep_their_precision(model: MiniCpmV, opened: ort.InferenceSession) -> None:
    """Angles of the thousandth patch, in float32."""
    pixels = picture((14, 14 * 1020))
    assert relative_error(run(opened, pixels)[0], model.rows([pixels[0]]).numpy()) < LIMIT


def test_positions_are_of_the_column_first(model: MiniCpmV, opened: ort.InferenceSession) -> None:
    """A resampler with the table transposed would be far from the graph."""
    pixels = picture((28, 126))
    found = run(opened, pixels)[0]
    with torch.no_grad():
        hidden, (rows, columns) = model.vpm(torch.tensor(pixels))
        x = model.resampler.ln_kv(model.resampler.kv_proj(hidden))
        table = positions(columns, rows, 256).reshape(columns, rows, 256).transpose(1, 0, 2).reshape(-1, 256)
        queries = model.resampler.ln_q(model.resampler.query)[None]
        mixed, _ = model.resampler.attn(queries, x + torch.tensor(table, dtype=x.dtype), x)
        turned = (model.resampler.ln_post(mixed) @ model.resampler.proj)[0].numpy()
    assert relative_error(found, turned) > 100 * LIMIT


def test_every_tensor_counts_and_is_listed(model: MiniCpmV, tmp_path: Path) -> None:
    asked: list[str] = []
    graph(tmp_path, model, asked=asked)
    outside = {name for name in model.state_dict() if not name.startswith("llm.")}
    assert set(asked) == source(model).names == outside
    pixels = picture((28, 42))
    before = model.rows([pixels[0]])
    for name, tensor in model.state_dict().items():
        if name in outside:
            kept = tensor.clone()
            with torch.no_grad():
                tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
            changed = (model.rows([pixels[0]]) - before).abs().max()
            tensor.copy_(kept)
            # A bias of the keys shifts all scores alike, which softmax does not see.
            assert changed > 1e-3 or name.endswith("k_proj.bias"), name


@pytest.mark.parametrize(("scheme", "least"), [(Scheme(bits=8, group=32, symmetric=False), 35.0)])
def test_quantised_linears(scheme: Scheme, least: float, model: MiniCpmV, tmp_path: Path) -> None:
    path = graph(tmp_path, model, scheme)
    pixels = picture((56, 56))
    assert snr_db(run(session(path), pixels)[0], model.rows([pixels[0]]).numpy()) > least


def test_linears_are_marked(model: MiniCpmV, tmp_path: Path) -> None:
    import onnx

    nodes = onnx.load(graph(tmp_path, model), load_external_data=False).graph.node
    marks = [mark_of(node.name, {p.key: p.value for p in node.metadata_props}) for node in nodes]
    found = {mark.name: (mark.rows, mark.columns) for mark in marks if mark is not None}
    assert len(found) == 4 * 3 + 5
    assert found["resampler.kv_proj"] == (256, 32)
    assert found["resampler.attn.k_proj"] == found["resampler.proj"] == (256, 256)
    assert found["vpm.encoder.layers.0.self_attn.qkv_proj"] == (96, 32)


def test_a_width_that_is_no_multiple_of_a_head_is_refused(model: MiniCpmV) -> None:
    with pytest.raises(UnsupportedModelError, match="hidden_size is 200, expected a multiple of 128"):
        source(model, output_size=200)


def test_a_tensor_of_another_shape_is_refused(model: MiniCpmV, tmp_path: Path) -> None:
    def build(g: GraphBuilder) -> None:
        source(model, queries=9).build(g, BuildContext(weights=weights_of(model)))

    with pytest.raises(CheckpointError, match=r"tensor 'resampler.query' is \[4, 256\], expected \[9, 256\]"):
        write_graph(tmp_path / "vision.onnx", build)


def test_graphs_of_fixed_shapes_are_refused(model: MiniCpmV) -> None:
    with pytest.raises(UnsupportedModelError, match="views of many shapes"):
        source(model).build_static(GraphBuilder("vision", None), weights_of(model), 64)  # type: ignore[arg-type]
