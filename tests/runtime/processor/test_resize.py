from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palmtop.runtime.processor.images.resize import resize_cubic, resize_triangle

SIDES = st.integers(2, 300)
"""torch's own kernel stops at an assertion for some images of one column."""


@settings(max_examples=80, deadline=None)
@given(old=st.tuples(SIDES, SIDES), new=st.tuples(SIDES, SIDES), seed=st.integers(0, 2**32 - 1))
def test_triangle_is_within_one_level_of_torch(old: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*old, 3), np.uint8)
    ours = resize_triangle(image, width=new[1], height=new[0]).astype(int)
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()[None]
    theirs = torch.nn.functional.interpolate(tensor, size=list(new), mode="bilinear", antialias=True)
    difference = np.abs(ours - theirs[0].permute(1, 2, 0).numpy())
    assert difference.max(initial=0) <= 1
    assert (difference > 0).mean() <= 0.01


@pytest.mark.parametrize(("size", "new"), [((427, 640), (299, 448)), ((427, 640), (854, 1280)), ((97, 31), (50, 60))])
def test_triangle_equals_torch_up_to_four_times_smaller(size: tuple[int, int], new: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()[None]
    theirs = torch.nn.functional.interpolate(tensor, size=list(new), mode="bilinear", antialias=True)
    np.testing.assert_array_equal(resize_triangle(image, new[1], new[0]), theirs[0].permute(1, 2, 0).numpy())


@settings(max_examples=40, deadline=None)
@given(old=st.tuples(SIDES, SIDES), new=st.tuples(SIDES, SIDES), seed=st.integers(0, 2**32 - 1))
def test_cubic_is_torchs(old: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    image = np.random.default_rng(seed).uniform(-1, 1, (3, *old)).astype(np.float32)
    ours = resize_cubic(image, width=new[1], height=new[0])
    theirs = torch.nn.functional.interpolate(torch.from_numpy(image)[None], size=list(new), mode="bicubic")
    # torch takes positions in float32: 300 pixels * 2**-23 * slope 2
    np.testing.assert_allclose(ours, theirs[0].numpy(), atol=3e-4)


def test_a_constant_stays_constant() -> None:
    for level in (0, 1, 127, 128, 254, 255):
        image = np.full((333, 77, 3), level, np.uint8)
        assert (resize_triangle(image, 1000, 20) == level).all()
