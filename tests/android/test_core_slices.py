"""Pictures in slices are on the phone what they are in Python: layouts, positions, pixels, markup and token ids."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image

from palmtop.errors import InputError, ManifestError
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.processor_config import SlicesSpec
from palmtop.runtime.memory.plan import plan_memory
from palmtop.runtime.processor import Processor, ProcessorSpec
from palmtop.runtime.processor.images.image_file import load_image
from palmtop.runtime.processor.images.patch_positions import nearest_positions
from palmtop.runtime.processor.images.slices import best_grid, slice_image, view_size
from tests.android.jvm import Core, CoreError
from tests.runtime.processor.test_slices import MINICPMV, TINY, nearest, sizes
from tests.runtime.toy import write_toy_bundle

ENCODERS = 7  # place of the encoders' bytes in the answer


@pytest.fixture(scope="module")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture(scope="module")
def toy(toy_bundle: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((toy_bundle / "bundle.json").read_text())
    return data


def with_spec(toy: dict[str, Any], spec: SlicesSpec) -> dict[str, Any]:
    return {**toy, "processor": {**toy["processor"], "image": asdict(replace(spec, token_id=257))}}


def expected_layout(size: tuple[int, int], spec: SlicesSpec) -> list[int] | str:
    try:
        whole = view_size(*size, spec)
        grid = best_grid(*size, spec)
        if grid is None:
            return [0, 0, *whole, 0, 0]
        across, down = (nearest(n, k) / k for n, k in zip(size, grid, strict=True))
        return [grid[1], grid[0], *whole, *view_size(across, down, spec)]
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("spec", [MINICPMV, TINY], ids=["as published", "tiny"])
def test_layouts_equal_those_of_python(core: Core, toy: dict[str, Any], spec: SlicesSpec) -> None:
    asked = list(sizes(4000))
    found = core.ask("slices_layouts", manifest=with_spec(toy, spec), sizes=asked)
    expected = [expected_layout(size, spec) for size in asked]
    assert [(s, f, e) for s, f, e in zip(asked, found, expected, strict=True) if f != e] == []
    assert any(isinstance(each, str) for each in expected)


def test_positions_equal_those_of_python(core: Core, toy: dict[str, Any]) -> None:
    counts = [*range(1, 150), 700, 1023]
    found = core.ask("slices_positions", manifest=with_spec(toy, MINICPMV), counts=counts)
    assert found == [nearest_positions(count, 70).tolist() for count in counts]


def ask(core: Core, toy: dict[str, Any], image: NDArray[np.uint8], spec: SlicesSpec, at_once: int = 2) -> Any:
    """(answer, pixel values of every view, one after the other)."""
    files = {"path": str(core.file(image)), "pixels": str(core.file())}
    shape = {"width": image.shape[1], "height": image.shape[0], "channels": image.shape[2]}
    most = 12 * spec.max_patches * spec.patch_size**2 * (1 + spec.max_slices)
    asked = {**files, **shape, "bytes": most, "at_once": at_once}
    answer = core.ask("slices", manifest=with_spec(toy, spec), **asked)
    return answer, np.fromfile(files["pixels"], np.float32)


def check(core: Core, toy: dict[str, Any], image: NDArray[np.uint8], spec: SlicesSpec) -> None:
    expected = slice_image(load_image(image), spec)
    answer, found = ask(core, toy, image, spec)
    feeds = list(expected.batches(2))
    assert tuple(answer["grid"]) == expected.grid
    assert answer["rows"] == expected.rows
    assert answer["markup"] == [text for text in expected.segments if isinstance(text, str)]
    assert answer["shapes"] == [list(each["pixel_values"].shape) for each in feeds]
    assert answer["ids"] == [each["position_ids"].tolist() for each in feeds]
    values = np.concatenate([each["pixel_values"].ravel() for each in feeds])
    assert (found[: len(values)] == values).all()


@pytest.mark.parametrize("size", [(1, 1), (56, 56), (57, 30), (100, 300), (300, 100), (640, 480), (33, 17), (1000, 90)])
def test_pixels_equal_those_of_python(core: Core, toy: dict[str, Any], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(size))
    rough = rng.integers(0, 256, (size[1] // 7 + 1, size[0] // 5 + 1, 3), np.uint8).repeat(7, 0).repeat(5, 1)
    noise = rng.integers(-20, 20, (size[1], size[0], 3))
    check(core, toy, np.clip(rough[: size[1], : size[0]] + noise, 0, 255).astype(np.uint8), TINY)


def test_a_real_photo_is_equal(core: Core, toy: dict[str, Any]) -> None:
    check(core, toy, np.array(load_sample_image("china.jpg"), np.uint8), MINICPMV)


def test_transparent_pixels_are_laid_over_white(core: Core, toy: dict[str, Any]) -> None:
    check(core, toy, np.random.default_rng(1).integers(0, 256, (90, 70, 4), np.uint8), TINY)


def test_a_line_is_refused_with_the_same_sentence(core: Core, toy: dict[str, Any]) -> None:
    line = np.zeros((1, 900, 3), np.uint8)
    with pytest.raises(InputError) as expected:
        slice_image(line, TINY)
    with pytest.raises(CoreError) as found:
        ask(core, toy, line, TINY)
    assert (found.value.kind, found.value.message) == ("INPUT", str(expected.value))


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 57},
        {"max_slices": 100_000},
        {"scale_resolution": 4096, "max_slices": 9},
        {"number_markup": ["<n>"]},
        {"number_markup": [1, 2]},
        {"image_markup": None},
        {"separator": 3},
        {"queries": 0},
        {"trained_side": 5000},
        {"crop_size": 448},
    ],
)
def test_wrong_settings_are_refused_alike(core: Core, toy: dict[str, Any], change: dict[str, Any]) -> None:
    data = with_spec(toy, TINY)
    data["processor"]["image"] |= change
    with pytest.raises(ManifestError) as expected:
        ProcessorSpec.from_dict(data["processor"])
    with pytest.raises(CoreError) as found:
        core.ask("manifest", of=data)
    assert (found.value.code, found.value.path) == (expected.value.code, expected.value.path)


def test_messages_have_the_ids_of_python(core: Core, toy: dict[str, Any], toy_bundle: Path) -> None:
    data = with_spec(toy, TINY)
    processor = Processor(ProcessorSpec.from_dict(data["processor"]), toy_bundle)
    pixels = np.zeros((4, 4, 3), np.uint8)
    dialogues = [[("user", 1, "what is it?")], [("user", 2, "\n two"), ("assistant", 0, "x"), ("user", 1, "")]]
    expected, asked = [], []
    for dialogue in dialogues:
        messages, turns = [], []
        for role, count, text in dialogue:
            media = [{"type": "image", "image": pixels}] * count
            messages.append({"role": role, "content": [*media, {"type": "text", "text": text}]})
            turns.append({"role": role, "text": text, "media": ["image"] * count})
        expected.append(processor.prompt(messages).ids.tolist())
        asked.append(turns)
    files = {"tokenizer": str(toy_bundle / "tokenizer.json")}
    template = (toy_bundle / "chat_template.jinja").read_text()
    found = core.ask("prompt", manifest=data, template=template, dialogues=asked, **files)
    assert [answer[0] for answer in found] == expected
    plain = Processor(ProcessorSpec.from_dict(toy["processor"]), toy_bundle)
    message = [
        {"role": "user", "content": [{"type": "image", "image": pixels}, {"type": "text", "text": "what is it?"}]}
    ]
    assert len(plain.prompt(message).ids) == len(expected[0]) - 1  # the line end behind the picture


def test_memory_is_planned_alike(core: Core, toy: dict[str, Any]) -> None:
    data = with_spec(toy, MINICPMV)
    for rows in (0, 64, 200, 5000):
        plan = plan_memory(Manifest.from_dict(data), context=64, media_rows=rows)
        asked = {"context": 64, "media_rows": rows, "chunk": 128, "available": 1 << 40}
        assert core.ask("plan", manifest=data, **asked)[ENCODERS] == plan.encoders
