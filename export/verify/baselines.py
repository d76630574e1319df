"""Other bundles of the same checkpoint, made and measured for comparison: bytes of weights and divergence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from palmtop.export.arch import Model
from palmtop.export.bundle.bundle_writer import WriteJob, write_bundle
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import Manifest

UNIFORM = ((4, 128), (4, 32), (8, 128), (8, 32))  # bits and group of every linear


def weight_bytes(folder: Path) -> int:
    """Return the bytes of a bundle's graphs and weights."""
    return sum(p.stat().st_size for p in (*folder.glob("*.onnx"), *folder.glob("weights/*.bin")))


def neighbours(
    folder: Path,
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    mean_kl: Callable[[Path, Manifest], float],
    making: WriteJob | None = None,
) -> list[dict[str, Any]]:
    """Return uniform bundles made by rounding, each with its bytes and its mean divergence."""
    found = []
    for bits, group in UNIFORM:
        own = replace(
            recipe,
            bits=bits,
            group=group,
            head_bits=None,
            encoder_bits=None,
            kv=32,
            method="rtn",
            target=None,
            soc=None,
        )
        place = folder / f"uniform-{bits}-{group}"
        place.mkdir()
        manifest = write_bundle(place, checkpoint, model, own, making)
        name = f"INT{bits}, groups of {group}"
        found.append({"name": name, "weight_bytes": weight_bytes(place), "mean_kl": mean_kl(place, manifest)})
    return found


def plain_rounding(recipe: Recipe) -> Recipe:
    """Return the recipe of plain rounding to 4 bits in groups of 32 with zero points, float32 activations and cache."""
    return replace(
        recipe,
        bits=4,
        group=32,
        symmetric=False,
        head_bits=None,
        encoder_bits=None,
        method="rtn",
        accuracy_level=0,
        kv=32,
        target=None,
        soc=None,
    )
