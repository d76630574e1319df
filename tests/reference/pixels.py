"""The reference image preprocessing in torch, without torchvision: what Phi4MultimodalImageProcessor does.

Written from transformers 5.23's image_processing_phi4_multimodal.py, with its 448/14 token count generalised.
Pictures of one batch have the same size. `tvF.resize` of a uint8 picture (bilinear, antialiased) is float
interpolation rounded, at most one grey level from torchvision's integer path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad


@dataclass(frozen=True, slots=True)
class Tiles:
    """What the port's forward takes for a batch of equally large pictures."""

    pixel_values: Tensor
    """[B, 1 + tiles, 3, crop, crop], the global view first"""
    sizes: Tensor
    """[B, 2] height and width of the padded picture"""
    mask: Tensor
    """[B, 1 + tiles, patches, patches], 1 = picture, 0 = padding"""
    rows: int
    """media rows of each picture"""
    grid: tuple[int, int]
    """tiles (high, wide)"""
    useful: tuple[int, int]
    """pooled rows and columns that are kept"""
    scale: float
    """how much the picture was enlarged"""


def tile(pictures: NDArray[np.uint8], crop: int, patch: int, dynamic_hd: int = 36) -> Tiles:
    """Cut a batch [B, H, W, 3] into HD tiles and the global view.

    Raises:
        ValueError: the picture is too narrow for its grid.
    """
    batch, height, width, _ = pictures.shape
    wide, high = _grid(width, height, crop, dynamic_hd)
    ratio_w, ratio_h = crop * wide / width, crop * high / height
    if ratio_w < ratio_h:
        new_h, new_w, ratio = int(height * ratio_w), crop * wide, ratio_w
    else:
        new_h, new_w, ratio = crop * high, int(width * ratio_h), ratio_h
    if min(new_h, new_w) < 10:
        raise ValueError(f"the aspect ratio is very extreme {(new_w, new_h)}")
    pad_h, pad_w = crop * high - new_h, crop * wide - new_w
    side = crop // patch
    mask = torch.ones(side * high, side * wide)
    if pad_w >= patch:
        mask[:, -(pad_w // patch) :] = 0
    if pad_h >= patch:
        mask[-(pad_h // patch) :, :] = 0
    # On bytes, as torchvision resizes: its fixed-point kernel rounds differently from float32.
    image = torch.tensor(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    image = interpolate(image, (new_h, new_w), mode="bilinear", align_corners=False, antialias=True)
    image = pad(image.float(), (0, pad_w, 0, pad_h), value=255.0)
    image = (image / 255.0 - 0.5) / 0.5
    whole = interpolate(image, (crop, crop), mode="bicubic", align_corners=False, antialias=False)
    cut = image.reshape(batch, 3, high, crop, wide, crop).permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, 3, crop, crop)
    cut_mask = mask.reshape(high, side, wide, side).transpose(1, 2).reshape(-1, side, side)
    pooled = cut_mask[:, 0::2, 0::2]
    half = pooled.shape[-1]
    pooled = pooled.reshape(high, wide, half, half).transpose(1, 2).reshape(high * half, wide * half)
    useful_h, useful_w = int(pooled[:, 0].sum()), int(pooled[0].sum())
    return Tiles(
        pixel_values=torch.cat([whole[:, None], cut], 1),
        sizes=torch.tensor([[crop * high, crop * wide]] * batch),
        mask=torch.cat([torch.ones(1, side, side), cut_mask])[None].expand(batch, -1, -1, -1),
        rows=useful_h * (useful_w + 1) + 1 + half * (half + 1),
        grid=(high, wide),
        useful=(useful_h, useful_w),
        scale=ratio,
    )


def _grid(width: int, height: int, crop: int, dynamic_hd: int) -> tuple[int, int]:
    """Tiles (wide, high): as many as the picture covers, or the closest aspect ratio within the limit."""
    wide, high = math.ceil(width / crop), math.ceil(height / crop)
    if wide * high <= dynamic_hd:
        return wide, high
    ratios = sorted(
        {(i, j) for i in range(1, dynamic_hd + 1) for j in range(1, dynamic_hd + 1) if i * j <= dynamic_hd},
        key=lambda ratio: ratio[0] * ratio[1],
    )
    best, best_difference = (1, 1), math.inf
    for i, j in ratios:
        difference = abs(width / height - i / j)
        if difference < best_difference or (
            difference == best_difference and width * height > 0.5 * crop * crop * i * j
        ):
            best, best_difference = (i, j), difference
    return best
