from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.errors import CheckpointError, UnsupportedModelError
from palmtop.export.graph.encoders.vision_config import VisionConfig
from palmtop.export.graph.linear import FLOAT, Precision
from palmtop.quantize.scheme import Scheme
from palmtop.runtime.processor.images.patch_positions import position_table
from tests.export.towers import (
    arrays_of,
    build_vision,
    image_embedding,
    port_config,
    relative_error,
    session,
    snr_db,
    vision_config,
    weights_from,
    write_graph,
    write_vision,
)

FLOAT32_NOISE = 1e-5  # of the range; measured 5e-7, wrong graphs are off by 1e-2 and more


def rectangles(patches: int, *valid: tuple[int, int]) -> NDArray[np.bool_]:
    """[N, P, P] masks with rows x columns of valid patches at the top left."""
    masks = np.zeros((len(valid), patches, patches), bool)
    for mask, (rows, columns) in zip(masks, valid, strict=True):
        mask[:rows, :columns] = True
    return masks


def reference(embedding: Any, pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The port's features of every tile, projected: [N, p, p, H]."""
    with torch.no_grad():
        rows = embedding.get_img_features(torch.from_numpy(pixels), torch.from_numpy(mask))
        side = int(rows.shape[1] ** 0.5)
        features: NDArray[np.float32] = project(embedding, rows).reshape(len(pixels), side, side, -1).numpy()
    return features


def project(embedding: Any, rows: torch.Tensor) -> torch.Tensor:
    return embedding.img_projection_down(torch.nn.functional.gelu(embedding.img_projection_up(rows)))


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_features_equal_the_reference(tmp_path: Path, data: st.DataObject) -> None:
    patches = data.draw(st.integers(2, 9), label="patches")
    patch_size = data.draw(st.integers(3, 6), label="patch_size")
    heads = data.draw(st.sampled_from([1, 2, 3]), label="heads")
    layers = data.draw(st.integers(2, 4), label="layers")
    size = {"image_size": patches * patch_size, "crop_size": patches * patch_size, "patch_size": patch_size}
    config = port_config(
        {
            **size,
            "hidden_size": 12 * heads,
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "layer_norm_eps": data.draw(st.sampled_from([1e-6, 0.1]), label="eps"),
            "feature_layer": data.draw(st.sampled_from([-1, -2, 1, -layers]), label="feature_layer"),
        }
    )
    side = st.integers(1, patches)
    valid = data.draw(st.lists(st.tuples(side, side), min_size=1, max_size=3), label="valid")
    embedding = image_embedding(config, seed=data.draw(st.integers(0, 9), label="seed"))
    pixels, mask = noise(len(valid), 3, size["image_size"], size["image_size"]), rectangles(patches, *valid)

    found = session(write_vision(tmp_path, embedding, config)).run(None, {"pixel_values": pixels, "patch_mask": mask})

    assert relative_error(found[0], reference(embedding, pixels, mask)) < FLOAT32_NOISE


@pytest.mark.parametrize("patch_size", [14, 8])  # 4 and 7 patches: even and odd
def test_full_and_partly_masked_tiles_in_one_batch_equal_the_reference(tmp_path: Path, patch_size: int) -> None:
    config = port_config({"patch_size": patch_size})
    embedding = image_embedding(config)
    run = session(write_vision(tmp_path, embedding, config)).run
    patches = 56 // patch_size
    pixels = noise(3, 3, 56, 56)
    full = rectangles(patches, *3 * [(patches, patches)])
    mixed = rectangles(patches, (patches, patches), (1, patches - 1), (patches, 1))

    outputs = [run(None, {"pixel_values": pixels, "patch_mask": mask})[0] for mask in (full, mixed)]

    for found, mask in zip(outputs, (full, mixed), strict=True):
        assert relative_error(found, reference(embedding, pixels, mask)) < FLOAT32_NOISE
    assert relative_error(outputs[0][1:], outputs[1][1:]) > 0.01  # the mask matters


def test_separators_are_projected_as_the_reference_projects_them(tmp_path: Path) -> None:
    config = port_config()
    embedding = image_embedding(config)
    feeds = {"pixel_values": noise(1, 3, 56, 56), "patch_mask": np.ones((1, 4, 4), bool)}

    separators = session(write_vision(tmp_path, embedding, config)).run(["separators"], feeds)[0]

    ends = torch.stack([embedding.sub_img_feature_extensor.flatten(), embedding.global_img_feature_extensor.flatten()])
    with torch.no_grad():
        assert relative_error(separators, project(embedding, ends).numpy()) < FLOAT32_NOISE


def test_a_masked_patch_does_not_reach_the_others(tmp_path: Path) -> None:
    config = port_config({"image_size": 56, "patch_size": 14})
    run = session(write_vision(tmp_path, image_embedding(config), config)).run
    mask = rectangles(4, (4, 2))
    pixels = noise(1, 3, 56, 56)
    changed = pixels.copy()
    changed[..., 28:] += 1.0  # columns 2 and 3 of the patches

    before, after = (run(None, {"pixel_values": p, "patch_mask": mask})[0] for p in (pixels, changed))

    np.testing.assert_array_equal(before[:, :, 0], after[:, :, 0])
    assert np.abs(before[:, :, 1] - after[:, :, 1]).max() > 0.01


@pytest.mark.parametrize("patches", [1, 2, 3, 4, 5, 7, 8, 12, 16, 18, 24, 27, 28, 32, 36, 64])
def test_position_table_is_torch_bucketize(patches: int) -> None:
    boundaries = torch.arange(1 / patches, 1.0, 1 / patches)
    for count in range(1, patches + 1):
        step = 1.0 / torch.tensor([count])
        fractions = torch.clamp(torch.arange(patches, dtype=torch.float32) * step, max=(1.0 - 1e-6))
        if patches in (28, 36):  # torch's own boundaries depend on the CPU's vector width here: tables agree
            boundaries = torch.tensor(np.arange(1 / patches, 1.0, 1 / patches).astype(np.float32))
        expected = torch.bucketize(fractions, boundaries, right=True)
        assert position_table(patches)[count].tolist() == expected.tolist()


def test_weights_behind_the_feature_layer_are_not_asked_for(tmp_path: Path) -> None:
    config = port_config()
    embedding = image_embedding(config)
    arrays: dict[str, NDArray[np.float32]] = arrays_of(embedding, "image_embed.")
    asked: list[str] = []
    weights = weights_from(arrays, asked)
    write_graph(tmp_path / "vision.onnx", lambda g: build_vision(g, weights, vision_config(config), FLOAT))

    unread = set(arrays) - set(asked)
    tower = "model.embed_tokens_extend.image_embed.img_processor."
    assert unread and all(n.startswith((tower + "encoder.layers.2.", tower + "post", tower + "head")) for n in unread)


@pytest.mark.parametrize(("bits", "least_db", "most_db"), [(8, 32, 60), (4, 8, 30)])
def test_quantised_features_stay_close(tmp_path: Path, bits: int, least_db: float, most_db: float) -> None:
    config = port_config({"hidden_size": 64, "intermediate_size": 136, "image_size": 112, "crop_size": 112})
    embedding = image_embedding(config)
    pixels, mask = noise(2, 3, 112, 112), rectangles(8, (8, 8), (8, 5))
    precision = Precision(scheme=Scheme(bits=bits, group=32))

    found = session(write_vision(tmp_path, embedding, config, precision)).run(
        None, {"pixel_values": pixels, "patch_mask": mask}
    )[0]

    assert least_db < snr_db(found, reference(embedding, pixels, mask)) < most_db


def sizes(**changes: Any) -> VisionConfig:
    return VisionConfig(
        **{
            "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": 56, "patch_size": 14, "feature_layer": -2,
            "layer_norm_eps": 1e-6, "output_size": 48,
        }
        | changes
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, "not a multiple of its 5 heads"),
        ({"feature_layer": -5}, "feature_layer is -5"),
        ({"feature_layer": 4}, "feature_layer is 4"),
        ({"patch_size": 56}, "has 1 patches"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        sizes(**changes)


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    weights = weights_from(arrays_of(image_embedding(port_config()), "image_embed."))
    with pytest.raises(UnsupportedModelError, match="hidden_act is 'snake', expected one of gelu"):
        write_graph(tmp_path / "v.onnx", lambda g: build_vision(g, weights, sizes(hidden_act="snake"), FLOAT))


def test_a_misshapen_weight_is_refused_by_name(tmp_path: Path) -> None:
    weights = weights_from(arrays_of(image_embedding(port_config()), "image_embed."))
    with pytest.raises(CheckpointError, match=r"fc1\.weight' is \[56, 32\], expected \[57, 32\]"):
        write_graph(tmp_path / "v.onnx", lambda g: build_vision(g, weights, sizes(intermediate_size=57), FLOAT))


def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    arrays = arrays_of(image_embedding(port_config()), "image_embed.")
    name = next(name for name in arrays if "layer_norm2.bias" in name)
    bad = weights_from(arrays | {name: np.full_like(arrays[name], np.nan)})
    with pytest.raises(CheckpointError, match=r"layer_norm2\.bias' holds a value that is not finite"):
        write_graph(tmp_path / "v.onnx", lambda g: build_vision(g, bad, sizes(), FLOAT))
