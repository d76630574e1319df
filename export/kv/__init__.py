"""A KV cache of 8 or 4 bits: its scales from samples, its place in a model, and a bundle's own without it."""

from __future__ import annotations

from dataclasses import replace

from palmtop.export.arch import Model
from palmtop.export.graph.kv_cache import KvCache


def with_cache(model: Model, cache: KvCache) -> Model:
    """The model with another kind of KV cache."""
    attention = replace(model.decoder.attention, cache=cache)
    return replace(model, decoder=replace(model.decoder, attention=attention))


def scale_bytes(model: Model, bits: int) -> int:
    """At most what the scales of such a cache take on disk, their names and places in the graph included."""
    attention = model.decoder.attention
    tensor = attention.num_kv_heads * attention.cache_head_size * 4 + GRAPH_BYTES
    return 0 if bits == 32 else 2 * attention.num_layers * tensor


GRAPH_BYTES = 512  # of one scale tensor's name and place, and of what it adds to its node
