"""The kind ``slices`` against its public rule, written here a second time: grids, sizes, positions, markup, pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.processor_config import SlicesSpec
from palmtop.runtime.processor.content import MediaItem
from palmtop.runtime.processor.images import prepare_image, static_image_feeds
from palmtop.runtime.processor.images.image_file import load_image
from palmtop.runtime.processor.images.patch_positions import nearest_positions
from palmtop.runtime.processor.images.slices import ImageSlices, best_grid, slice_image, view_size
from palmtop.runtime.processor.prompt import MediaPlace, Prompt, expand_media, rows_of

MINICPMV = SlicesSpec(
    token_id=3,
    scale_resolution=448,
    patch_size=14,
    max_slices=9,
    trained_side=70,
    queries=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    number_markup=("<image_id>", "</image_id>"),
    image_markup=("<image>", "</image>"),
    slice_markup=("<slice>", "</slice>"),
    separator="\n",
)
TINY = replace(MINICPMV, scale_resolution=56, max_slices=4, trained_side=7, queries=4)
NARROW = "the image is too narrow"


# The rule once more, in other words: exhaustive and in pairs of (width, height).


def nearest(length: float, part: int) -> int:
    down, up = math.floor(length / part) * part, math.ceil(length / part) * part
    below, above = length / part - math.floor(length / part), math.ceil(length / part) - length / part
    half_way = below == above and down != up
    takes_lower = (down // part) % 2 == 0 if half_way else below < above
    return (down if takes_lower else up) or part


def fitted(size: tuple[float, float], spec: SlicesSpec) -> tuple[int, int]:
    ratio = size[0] / size[1]
    high = math.floor(spec.scale_resolution / ratio**0.5)
    wide = math.floor(high * ratio)
    return nearest(wide, spec.patch_size), nearest(high, spec.patch_size)


def expected_layout(size: tuple[int, int], spec: SlicesSpec) -> tuple[Any, tuple[int, int], tuple[int, int] | None]:
    """Grid [columns, rows] or None, size of the whole view, size of a slice."""
    width, height = size
    times = width * height / (spec.scale_resolution * spec.scale_resolution)
    multiple = min(math.ceil(times), spec.max_slices)
    if multiple <= 1:
        return None, fitted(size, spec), None
    best, smallest = [1, 1], float("inf")
    for count in range(multiple - 1, multiple + 2):
        if count == 1 or count > spec.max_slices:
            continue
        for columns in range(1, count + 1):
            if count % columns:
                continue
            error = abs(math.log(width / height) - math.log(columns / (count // columns)))
            if error < smallest:
                best, smallest = [columns, count // columns], error
    part = nearest(width, best[0]) / best[0], nearest(height, best[1]) / best[1]
    return best, fitted(size, spec), fitted(part, spec)


def expected_text(grid: list[int] | None, number: int, spec: SlicesSpec) -> str:
    rows = "<unk>" * spec.queries
    text = f"<image_id>{number}</image_id><image>{rows}</image>"
    if grid is None:
        return text
    return text + "\n".join(f"<slice>{rows}</slice>" * grid[0] for _ in range(grid[1]))


def is_narrow(size: tuple[int, int], spec: SlicesSpec) -> bool:
    try:
        view_size(*size, spec)
    except InputError as error:
        assert NARROW in str(error)
        return True
    return False


def sizes(count: int) -> Iterator[tuple[int, int]]:
    """Random sizes: of phones, small ones, long ones, and those whose ratio is that of a grid (ties)."""
    rng = np.random.default_rng(23)
    for _ in range(count // 4):
        yield int(rng.integers(1, 5000)), int(rng.integers(1, 5000))
        yield int(rng.integers(1, 700)), int(rng.integers(1, 700))
        short = int(rng.integers(1, 120))
        long = int(short * rng.uniform(8, 1500))
        yield (short, long) if rng.integers(2) else (long, short)
        side, (a, b) = int(rng.integers(50, 700)), rng.integers(1, 10, 2).tolist()
        yield side * a, side * b


@pytest.mark.parametrize("spec", [MINICPMV, TINY], ids=["as published", "tiny"])
def test_grids_and_sizes_follow_the_rule_on_5000_random_sizes(spec: SlicesSpec) -> None:
    compared = narrow = 0
    for size in sizes(5000):
        if is_narrow(size, spec):
            narrow += 1
            ratio = max(size[0] / size[1], size[1] / size[0])
            assert ratio > (spec.scale_resolution / (spec.patch_size + 1)) ** 2  # never a picture that people have
            continue
        grid, whole, part = expected_layout(size, spec)
        found = best_grid(*size, spec)
        assert (None if found is None else list(found)) == grid, size
        assert view_size(*size, spec) == whole, size
        if found is not None:
            across, down = (nearest(n, k) / k for n, k in zip(size, found, strict=True))
            assert view_size(across, down, spec) == part, size
        for wide, high in (whole, part or whole):
            assert wide * high <= spec.max_patches * spec.patch_size**2
        compared += 1
    assert compared > 3500
    assert narrow > 0


def test_the_most_patches_of_a_view_are_not_more_than_needed() -> None:
    """The bound of the memory plan is reached."""
    counts = []
    for short in range(14, 1000):
        for ratio in (448 / short) ** 2, (448 / (short + 0.999)) ** 2:
            if ratio >= 1 and not is_narrow((round(1000 * ratio), 1000), MINICPMV):
                wide, high = view_size(1000 * ratio, 1000, MINICPMV)
                counts.append(wide * high // 14**2)
    assert 0.97 * MINICPMV.max_patches < max(counts) <= MINICPMV.max_patches == 1366


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 4000), (100_000, 60)])
def test_an_image_that_would_become_a_line_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{NARROW}: found .* pixels, which become .*, expected at least 14 on each"):
        slice_image(np.zeros((size[1], size[0], 3), np.uint8), MINICPMV)


@pytest.mark.parametrize(
    ("size", "grid", "whole"),
    [
        ((1, 1), None, (448, 448)),
        ((448, 448), None, (448, 448)),
        ((449, 448), (2, 1), (448, 448)),
        ((1344, 1344), (3, 3), (448, 448)),
        ((2000, 1000), (4, 2), (630, 322)),
        ((300, 2700), (1, 6), (154, 1344)),
    ],
)
def test_known_layouts(size: tuple[int, int], grid: tuple[int, int] | None, whole: tuple[int, int]) -> None:
    assert best_grid(*size, MINICPMV) == grid
    assert view_size(*size, MINICPMV) == whole


# Positions


@pytest.mark.parametrize("side", [70, 7])
def test_positions_are_those_of_the_remote_code(side: int) -> None:
    """Fractions by torch's own arange, put into buckets: what the model was trained with."""
    boundaries = torch.arange(1 / side, 1.0, 1 / side)
    for count in range(1, 2300 if side == 70 else 200):
        fractions = torch.arange(0, 1 - 1e-6, 1 / torch.tensor(count))
        expected = torch.bucketize(fractions, boundaries, right=True).numpy()
        found = nearest_positions(count, side)
        assert found.tolist() == expected.tolist(), count


def test_positions_below_the_exact_fraction() -> None:
    """For these numbers of patches float32 falls below a boundary: floor(70 i / n) would be another position."""
    differing = [n for n in range(1, 70) if nearest_positions(n, 70).tolist() != [70 * i // n for i in range(n)]]
    assert differing == [25, 49, 50, 55, 58]
    assert nearest_positions(25, 70)[[5, 10, 15, 20]].tolist() == [13, 27, 41, 55]


def test_ids_name_the_row_first() -> None:
    found = slice_image(np.zeros((28, 56, 3), np.uint8), TINY)
    (feeds,) = found.batches(1)
    down, across = (n // 14 for n in feeds["pixel_values"].shape[2:])
    assert down < across
    rows, columns = nearest_positions(down, 7), nearest_positions(across, 7)
    assert feeds["position_ids"].tolist() == [7 * row + column for row in rows for column in columns]


# Markup


def expand(prepared: ImageSlices, number: int) -> str:
    """The text that stands for the n-th image, one word for each row."""
    item = MediaItem(kind="image", number=number, source=None)
    prompt = Prompt(ids=np.array([0], np.int64), media=(MediaPlace(item=item, position=0),))
    texts: list[str] = ["<unk>"]

    def encode(text: str) -> list[int]:
        texts.append(text)
        return [len(texts) - 1]

    ids, places = expand_media(prompt, [prepared.segments], encode)
    assert int((places > 0).sum()) == prepared.rows == rows_of(prepared.segments)
    return "".join(texts[i] for i in ids)


@pytest.mark.parametrize("size", [(30, 40), (100, 60), (60, 100), (112, 112), (200, 50), (56, 57)])
@pytest.mark.parametrize("number", [1, 2, 12])
def test_the_markup_is_the_references(size: tuple[int, int], number: int) -> None:
    found = slice_image(np.zeros((size[1], size[0], 3), np.uint8), TINY)
    assert expand(found, number) == expected_text(expected_layout(size, TINY)[0], number - 1, TINY)


def test_every_text_segment_begins_and_ends_with_a_token() -> None:
    """Only then are the ids of separate segments those of the whole text."""
    found = slice_image(np.zeros((112, 112, 3), np.uint8), TINY)
    texts = [segment for segment in found.segments if isinstance(segment, str)]
    assert texts[1:] == ["</image><slice>", "</slice><slice>", "</slice>\n<slice>", "</slice><slice>", "</slice>"]
    assert all(text.startswith("<") and text.endswith(">") for text in texts)


def test_a_model_without_image_numbers() -> None:
    found = slice_image(np.zeros((20, 20, 3), np.uint8), replace(TINY, number_markup=None))
    assert found.segments == ("<image>", 4, "</image>")


# Pixels


def expected_pixels(rgb: NDArray[np.uint8], spec: SlicesSpec) -> list[NDArray[np.float64]]:
    """Every view as grey levels [h, w, 3], in the order of the prompt."""
    picture = Image.fromarray(rgb)
    grid, whole, part = expected_layout(picture.size, spec)
    views = [picture.resize(whole, Image.Resampling.BICUBIC)]
    if grid is not None:
        assert part is not None
        large = picture.resize((part[0] * grid[0], part[1] * grid[1]), Image.Resampling.BICUBIC)
        for top in range(0, large.height, part[1]):
            lefts = range(0, large.width, part[0])
            views.extend(large.crop((left, top, left + part[0], top + part[1])) for left in lefts)
    return [np.asarray(view, np.float64) for view in views]


def test_pixels_of_photographs(image_files: list[Path]) -> None:
    seen = 0
    for file in image_files:
        rgb = load_image(file)
        if is_narrow(rgb.shape[1::-1], MINICPMV):
            continue
        seen += 1
        found = prepare_image(file, MINICPMV)
        assert isinstance(found, ImageSlices)
        found.check(MINICPMV)
        views = [found.whole, *found.slices]
        wanted = expected_pixels(rgb, MINICPMV)
        assert len(views) == len(wanted)
        for view, grey in zip(views, wanted, strict=True):
            levels = (view.astype(np.float64) * 0.5 + 0.5) * 255
            difference = np.abs(levels.transpose(1, 2, 0) - grey)
            assert difference.max() < 4  # the order of Pillow's two passes depends on its version
            assert difference.mean() < 0.1
    assert seen >= 28


def test_mean_and_deviation_count() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    found = slice_image(rgb, replace(TINY, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2)))
    wanted = (rgb / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.5, 0.25, 0.2])
    assert np.abs(found.whole.transpose(1, 2, 0) - wanted).max() < 1e-5


def test_slices_are_in_rows() -> None:
    """Each slice of a picture of four colours is one of them, left to right, then down."""
    rgb = np.zeros((112, 112, 3), np.uint8)
    rgb[:56, 56:], rgb[56:, :56], rgb[56:, 56:] = 80, 160, 240
    found = slice_image(rgb, TINY)
    assert found.grid == (2, 2)
    middle = (found.slices[:, 0, 28, 28] * 0.5 + 0.5) * 255
    assert np.round(middle).tolist() == [0, 80, 160, 240]


def test_batches_hold_views_of_one_size() -> None:
    found = slice_image(np.zeros((112, 168, 3), np.uint8), replace(TINY, max_slices=6))
    assert found.grid == (2, 3)
    shapes = [feeds["pixel_values"].shape for feeds in found.batches(4)]
    assert [shape[0] for shape in shapes] == [1, 4, 2]
    runs = [[np.full((shape[0], 4, 2), i, np.float32)] for i, shape in enumerate(shapes)]
    assert found.in_reading_order(runs)[:, 0].tolist() == [0.0] * 4 + [1.0] * 16 + [2.0] * 8


def test_other_views_than_the_specs_are_refused() -> None:
    found = slice_image(np.zeros((112, 112, 3), np.uint8), TINY)
    for wrong, message in (
        (replace(found, slices=found.slices[:3]), "3 slices of a grid of 2 x 2"),
        (replace(found, whole=found.whole[:, :50]), "expected .* whole patches of 14 pixels"),
        (replace(found, whole=np.zeros((3, 1400, 1400), np.float32)), "of at most 22 whole patches"),
        (replace(found, whole=found.whole * np.float32("nan")), "not finite"),
    ):
        with pytest.raises(InputError, match=message):
            wrong.check(TINY)
    with pytest.raises(InputError, match="at most 2"):
        found.check(replace(TINY, max_slices=2))


def test_keys_tell_pictures_apart() -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)
    keys = {slice_image(each, TINY).key for each in (rgb, rgb[::-1].copy(), rgb.transpose(1, 0, 2).copy())}
    assert len(keys) == 3
    assert slice_image(rgb, TINY).key in keys


def test_reading_stops_between_two_steps() -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        slice_image(np.zeros((112, 112, 3), np.uint8), TINY, stop)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 57}, "patch_size is 57, expected at most scale_resolution, 56"),
        ({"scale_resolution": 4096, "max_slices": 9}, "max_slices is 9, expected at most 7 with this"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        replace(TINY, **change).check()


def test_graphs_of_fixed_shapes_are_refused() -> None:
    found = slice_image(np.zeros((20, 20, 3), np.uint8), TINY)
    (view,) = found.batches(1)
    with pytest.raises(BundleError, match="a vision graph of fixed shapes for images in slices, expected none"):
        static_image_feeds(view, TINY, {})
