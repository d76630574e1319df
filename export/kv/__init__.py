"""KV cache of 8 or 4 bits: calibration of its scales, its place in a model, and comparison with a float cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from palmtop.export.graph.kv_cache import FLOAT_CACHE, KvCache

if TYPE_CHECKING:
    from palmtop.export.arch import Model
    from palmtop.export.checkpoint.folder import Checkpoint
    from palmtop.export.recipe import Recipe

GRAPH_BYTES = 512  # bytes of one scale tensor's name and place, and of its share of the node


def cache_for(
    checkpoint: Checkpoint, model: Model, recipe: Recipe, samples: Path | None, report: Callable[[str], None] | None
) -> KvCache:
    """Return the KV cache of a recipe; calibrates its scales where it needs them (``calibrate``)."""
    if recipe.kv == 32:
        return FLOAT_CACHE
    from .calibrate import calibrated_cache

    return calibrated_cache(checkpoint, model, recipe, samples, report)


def scale_bytes(model: Model, bits: int) -> int:
    """Return the most bytes that the scales of such a cache take on disk, names and places in the graph included."""
    if bits == 32:
        return 0
    return sum(len(state.layers) * (4 * state.elements + GRAPH_BYTES) for state in model.decoder.states(bits))
