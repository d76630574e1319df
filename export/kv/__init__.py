"""A KV cache of 8 or 4 bits: its scales from samples, its place in a model, and a bundle's own without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from palmtop.export.graph.kv_cache import FLOAT_CACHE, KvCache

if TYPE_CHECKING:
    from palmtop.export.arch import Model
    from palmtop.export.checkpoint.folder import Checkpoint
    from palmtop.export.mixed_precision.budget import Request
    from palmtop.export.recipe import Recipe

GRAPH_BYTES = 512  # of one scale tensor's name and place, and of what it adds to its node


def cache_for(
    checkpoint: Checkpoint, model: Model, recipe: Recipe, samples: Path | None, report: Callable[[str], None] | None
) -> KvCache:
    """What a recipe stores keys and values as; calibrates where that needs scales (``calibrate``)."""
    if recipe.kv == 32:
        return FLOAT_CACHE
    from .calibrate import calibrated_cache

    return calibrated_cache(checkpoint, model, recipe, samples, report)


def scale_bytes(model: Model, bits: int) -> int:
    """At most what the scales of such a cache take on disk, their names and places in the graph included."""
    attention = model.decoder.attention
    tensor = attention.num_kv_heads * attention.cache_head_size * 4 + GRAPH_BYTES
    return 0 if bits == 32 else 2 * model.decoder.num_layers * tensor


def leaving_room(request: Request, size_bytes: int) -> Request:
    """The request, for a bundle to which something is added that no plan speaks of."""
    if request.size_bytes is None:
        return request
    return replace(request, size_bytes=max(0, request.size_bytes - size_bytes))
