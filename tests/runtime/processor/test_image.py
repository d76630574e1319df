from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.processor_config import ImageSpec
from palmtop.runtime.processor.images.dynamic_hd import ImageTiles, feature_order, load_image, tile_image

Reference = Callable[[NDArray[np.uint8], ImageSpec], SimpleNamespace]


def check(rgb: NDArray[np.uint8], spec: ImageSpec, reference: Reference) -> None:
    """Same tiles, masks and counts; at most half a grey level off on average, 99.9% of pixels within 2."""
    ours, theirs = tile_image(rgb, spec), reference(rgb, spec)
    assert ours.pixels.shape == theirs.pixels.shape
    assert ours.pixels.dtype == np.float32
    grey = np.abs(ours.pixels - theirs.pixels) * (np.array(spec.std) * 255)[:, None, None]
    assert grey.mean() <= 0.5
    assert (grey <= 2).mean() >= 0.999
    np.testing.assert_array_equal(ours.patch_mask, theirs.mask)
    assert ours.rows == theirs.sub_rows + 1 + spec.pooled * (spec.pooled + 1)


def test_every_real_picture_is_tiled_as_by_transformers(
    image_files: list[Path], image_spec: ImageSpec, reference_tiles: Reference
) -> None:
    for file in image_files:
        check(load_image(file), image_spec, reference_tiles)


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (448, 448),
        (449, 448),
        (56, 56),
        (57, 55),
        (640, 33),
        (33, 427),
        (101, 427),
        (640, 100),
        (13, 13),
        (1, 1),
        (447, 300),
    ],
)
def test_odd_crops_are_tiled_as_by_transformers(
    width: int, height: int, photo: NDArray[np.uint8], image_spec: ImageSpec, reference_tiles: Reference
) -> None:
    wide = np.tile(photo, (2, 1, 1))
    check(np.ascontiguousarray(wide[:height, 60 : 60 + width]), image_spec, reference_tiles)


@pytest.mark.parametrize(("width", "height"), [(2700, 2300), (900, 2400), (9000, 500)])
def test_large_photos_are_shrunk_as_by_transformers(
    width: int, height: int, photo: NDArray[np.uint8], real_spec: ImageSpec, reference_tiles: Reference
) -> None:
    import cv2

    large = np.asarray(cv2.resize(photo, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    noise = np.random.default_rng(0).integers(-20, 20, large.shape)
    check(np.clip(large + noise, 0, 255).astype(np.uint8), real_spec, reference_tiles)


def test_the_comparison_would_notice_a_resize_without_antialiasing(
    photo: NDArray[np.uint8],
    tiny_spec: ImageSpec,
    reference_tiles: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import cv2

    def plain_bilinear(image: NDArray[np.uint8], width: int, height: int, between: object) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)

    monkeypatch.setattr("palmtop.runtime.processor.images.dynamic_hd.resize_triangle", plain_bilinear)
    with pytest.raises(AssertionError):
        check(photo, tiny_spec, reference_tiles)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(1, 600), height=st.integers(1, 600), seed=st.integers(0, 2**32 - 1))
def test_any_size_is_tiled_or_refused_as_by_transformers(
    width: int, height: int, seed: int, tiny_spec: ImageSpec, reference_tiles: Reference
) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    try:
        tile_image(rgb, tiny_spec)
    except InputError:
        with pytest.raises(ValueError, match="extreme"):
            reference_tiles(rgb, tiny_spec)
    else:
        check(rgb, tiny_spec, reference_tiles)


def test_a_strip_that_the_reference_refuses_is_refused(real_spec: ImageSpec) -> None:
    with pytest.raises(InputError, match=r"found 5000 x 3 pixels.*expected at least 10 on each side"):
        tile_image(np.zeros((3, 5000, 3), np.uint8), real_spec)


def test_the_global_view_comes_first_and_tiles_follow_row_by_row(tiny_spec: ImageSpec) -> None:
    rgb = np.zeros((112, 168, 3), np.uint8)
    for row in range(2):
        for column in range(3):
            rgb[row * 56 : row * 56 + 56, column * 56 : column * 56 + 56] = 40 * (row * 3 + column)
    tiles = tile_image(rgb, tiny_spec)
    assert tiles.grid == (2, 3)
    levels = (tiles.pixels[1:, 0].mean(axis=(1, 2)) * 0.5 + 0.5) * 255
    np.testing.assert_allclose(levels, [0, 40, 80, 120, 160, 200], atol=1e-3)
    assert abs((tiles.pixels[0].mean() * 0.5 + 0.5) * 255 - 100) < 2


def embed(tiles: ImageTiles, spec: ImageSpec) -> NDArray[np.int64]:
    """Which tower output every row is, found by the reference's forward with numbered outputs."""
    import torch
    from transformers.models.phi4_multimodal import modeling_phi4_multimodal as modeling

    count = len(tiles.pixels) * spec.pooled**2
    lift = 1000.0  # gelu(x) is x there, and numbers stay exact in float32
    numbers = torch.arange(count, dtype=torch.float32).reshape(len(tiles.pixels), -1, 1) + lift

    embedding: Any = modeling.Phi4MultimodalImageEmbedding

    class Numbered(embedding):  # type: ignore[misc]
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.config = SimpleNamespace(vision_config=SimpleNamespace(image_token_id=spec.token_id))
            self.crop_size, self.image_dim_out = spec.crop_size, 1
            self.drop = torch.nn.Identity()
            self.img_projection_up = self.img_projection_down = torch.nn.Linear(1, 1)
            torch.nn.init.ones_(self.img_projection_up.weight)
            torch.nn.init.zeros_(self.img_projection_up.bias)
            self.sub_img_feature_extensor = torch.full((1, 1, 1, 1), count + lift)
            self.global_img_feature_extensor = torch.full((1, 1, 1), count + 1 + lift)
            patches = SimpleNamespace(patch_embedding=SimpleNamespace(weight=torch.zeros(1)))
            self.img_processor = SimpleNamespace(embeddings=patches)

        def get_img_features(self, img_embeds: Any, attention_mask: Any = None) -> Any:
            return numbers

    height, width = (side * spec.crop_size for side in tiles.grid)
    with torch.no_grad():
        rows = Numbered()(
            torch.full((1, tiles.rows), spec.token_id),
            torch.zeros(1, tiles.rows, 1),
            torch.from_numpy(tiles.pixels)[None],
            image_sizes=torch.tensor([[height, width]]),
            image_attention_mask=torch.from_numpy(tiles.patch_mask)[None],
        )
    return np.asarray(rows[0, :, 0].numpy() - lift).astype(np.int64)


@pytest.mark.parametrize(("width", "height"), [(56, 56), (60, 20), (300, 100), (90, 333), (1000, 60), (640, 427)])
def test_feature_rows_are_ordered_as_by_the_reference_embedding(width: int, height: int, image_spec: ImageSpec) -> None:
    tiles = tile_image(np.zeros((height, width, 3), np.uint8), image_spec)
    order = feature_order(tiles.grid, tiles.useful, image_spec.pooled)
    assert len(order) == tiles.rows
    np.testing.assert_array_equal(order, embed(tiles, image_spec))


def test_a_large_photo_takes_about_a_second(real_spec: ImageSpec, photo: NDArray[np.uint8]) -> None:
    import time

    import cv2

    large = np.asarray(cv2.resize(photo, (4000, 3000)), np.uint8)
    start = time.process_time()
    tile_image(large, real_spec)
    assert time.process_time() - start < 3  # 0.4 s on an idle core; CPU time, with room for slow machines
