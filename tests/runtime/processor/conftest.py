"""Specs, real files, and transformers' own processors to compare with.

torchvision's CPU wheel does not exist for every torch, so the image processor's module is imported with a
stand-in for the four functions that it takes from torchvision, written here from torch alone.
"""

from __future__ import annotations

import glob
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from palmtop.runtime.bundle.processor_config import AudioSpec, DynamicHdSpec, ImageSpec
from tests.runtime.phi_specs import PHI_AUDIO

Reference = Callable[[NDArray[np.uint8], ImageSpec], SimpleNamespace]

REAL = DynamicHdSpec(
    token_id=200010, crop_size=448, patch_size=14, max_tiles=36, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
TINY = DynamicHdSpec(token_id=5, crop_size=56, patch_size=14, max_tiles=36, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
UNEVEN = DynamicHdSpec(
    token_id=5, crop_size=70, patch_size=14, max_tiles=6, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28)
)
"""An odd patch grid, few tiles, another normalisation."""
SPECS = {"real": REAL, "tiny": TINY, "uneven": UNEVEN}


@pytest.fixture(params=SPECS)
def image_spec(request: pytest.FixtureRequest) -> ImageSpec:
    return SPECS[request.param]


@pytest.fixture
def real_spec() -> ImageSpec:
    return REAL


@pytest.fixture
def tiny_spec() -> ImageSpec:
    return TINY


@pytest.fixture
def audio_spec() -> AudioSpec:
    return PHI_AUDIO


@pytest.fixture(scope="session")
def image_files() -> list[Path]:
    """The pictures that come with scikit-image and scikit-learn: photos, drawings, pages, microscopy."""
    import skimage
    import sklearn.datasets

    paths = [Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"]
    found = [file for path in paths for kind in ("png", "jpg", "gif") for file in sorted(path.glob(f"*.{kind}"))]
    assert len(found) >= 29
    return found


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    from sklearn.datasets import load_sample_image

    return np.array(load_sample_image("china.jpg"), np.uint8)


@pytest.fixture(scope="session")
def sound_files() -> list[Path]:
    """Recorded speech of two Debian packages; empty where they are not installed."""
    patterns = ("/usr/share/pocketsphinx/test/data/*/*.wav", "/usr/share/sounds/alsa/*.wav")
    return [Path(file) for pattern in patterns for file in sorted(glob.glob(pattern))]


@pytest.fixture(scope="session")
def reference_tiles() -> Iterator[Reference]:
    """Phi4MultimodalImageProcessor on one RGB image."""
    import torch
    from transformers import image_processing_backends as backends
    from transformers.image_utils import SizeDict

    functional = _functional()
    stubs = {name: ModuleType(name) for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")}
    stubs["torchvision.transforms.v2"].functional = functional  # type: ignore[attr-defined]
    absent = [name for name in stubs if name not in sys.modules]
    sys.modules.update({name: stubs[name] for name in absent})
    try:
        module = importlib.import_module("transformers.models.phi4_multimodal.image_processing_phi4_multimodal")
    finally:
        for name in absent:
            del sys.modules[name]
    processor = object.__new__(module.Phi4MultimodalImageProcessor)

    def run(rgb: NDArray[np.uint8], spec: ImageSpec) -> SimpleNamespace:
        batch = processor._preprocess(
            [torch.from_numpy(rgb.copy()).permute(2, 0, 1).contiguous()],
            do_resize=True,
            size=SizeDict(height=spec.crop_size, width=spec.crop_size),
            resample="bicubic",
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=spec.mean,
            image_std=spec.std,
            patch_size=spec.patch_size,
            dynamic_hd=spec.max_tiles,
            return_tensors="pt",
        )
        return SimpleNamespace(
            pixels=batch["image_pixel_values"][0].numpy(),
            mask=batch["image_attention_mask"][0].numpy().astype(bool),
            # The reference's fixed 448/14 share of the global view, 16 * 16 + 1 + 16, is taken out.
            sub_rows=int(batch["num_img_tokens"][0]) - 273,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "tvF", functional, raising=False)
        patch.setattr(module, "tvF", functional)
        yield run


def _functional() -> Any:
    """torchvision.transforms.v2.functional as far as the processor uses it, on CPU tensors."""
    import torch
    from torch.nn.functional import interpolate, pad

    def resize(image: Any, size: Any, interpolation: str = "bilinear", antialias: bool = True) -> Any:
        if tuple(image.shape[-2:]) == tuple(size):
            return image
        return interpolate(image[None], size=list(size), mode=interpolation, align_corners=False, antialias=antialias)[
            0
        ]

    def pad_right_below(image: Any, padding: list[int], fill: list[int]) -> Any:
        left, top, right, below = padding
        assert (left, top, set(fill)) == (0, 0, {255})
        return pad(image, (0, right, 0, below), value=255)

    def normalize(image: Any, mean: Any, std: Any, inplace: bool = False) -> Any:
        shape = (-1, 1, 1)
        return (image - torch.as_tensor(mean).view(shape)) / torch.as_tensor(std).view(shape)

    return SimpleNamespace(
        resize=resize,
        pad=pad_right_below,
        normalize=normalize,
        InterpolationMode=SimpleNamespace(BILINEAR="bilinear", LANCZOS="lanczos", BICUBIC="bicubic"),
    )
