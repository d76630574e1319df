"""Targets of a bundle: graphs for providers that compile ahead, as values of the manifest. Computes nothing.

A target is a set of graphs of fixed shapes for one provider, beside the bundle's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from palmtop.errors import ManifestError

from .json_fields import MANIFEST_FILE, check_keys, limited, read_flat, refuse

MAX_CONTEXT = 1 << 24
MAX_CHUNK = 1 << 16
HIDDEN = -100.0
"""Mask value of hidden keys. Scores and mask share one 16-bit range, so a larger number would cost the scores
precision; after softmax it is 4e-44 of the largest, which is zero in 16 bits.
"""
BASE_ROUTE = "none"
"""Name of the mix without adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary positions, which are computed outside the graphs.

    Attributes:
        theta: base of the wavelengths.
        rotary_size: R, leading dimensions of a head that rotate, even.
        attention_factor: factor of cos and sin.
        short_factor: [R/2] divisors of the frequencies; empty without scaling.
        long_factor: [R/2] divisors beyond the original context; empty without LongRoPE.
    """

    theta: float = limited(1e-6, 1e12)
    rotary_size: int = limited(2, 1 << 12)
    attention_factor: float = limited(-1e6, 1e6)
    short_factor: tuple[float, ...] = limited(1e-6, 1e6)
    long_factor: tuple[float, ...] = limited(1e-6, 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRoute:
    """Prefill and decode graph of one mix of adapters.

    Attributes:
        adapters: weights by adapter name, as in the manifest's routes; empty for the base.
        prefill: file of the graph that reads a chunk.
        decode: file of the graph that reads one token.
    """

    adapters: dict[str, float]
    prefill: str
    decode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSpec:
    """A decoder as graphs of fixed shapes (``static_decoder`` runs them).

    Attributes:
        context: C, positions of the cache.
        chunk: S, rows of the prefill graphs.
        masked: number that is added to masked scores.
        window: keys that a row attends to, itself included; None for all.
        rope: rotary positions.
        embedding: file of the graph from ids to rows; runs on the CPU.
        routes: one for each mix of adapters.
    """

    context: int = limited(1, MAX_CONTEXT)
    chunk: int = limited(2, MAX_CHUNK)
    masked: float = limited(-1e9, -1.0)
    window: int | None = limited(1, MAX_CONTEXT)
    rope: RopeSpec
    embedding: str
    routes: tuple[StaticRoute, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """Graphs for one execution provider.

    Attributes:
        provider: "openvino" or "qnn".
        soc: SoC of the compiled graphs; None where the provider compiles when it loads.
        versions: versions of the tools that made the graphs, by name; a device with others compiles again or refuses.
        decoder: the decoder; None if the target has encoders only.
        encoders: files of the provider's graphs for "vision" and "audio"; others run as they are. A graph for shorter
            windows is "audio.64", by its steps.
    """

    provider: str
    soc: str | None
    versions: dict[str, str]
    decoder: StaticSpec | None
    encoders: dict[str, str]

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all graphs of the target."""
        found = list(self.encoders.values())
        if self.decoder is not None:
            found.append(self.decoder.embedding)
            found += [name for route in self.decoder.routes for name in (route.prefill, route.decode)]
        return tuple(found)


def read_target(data: object, where: str) -> TargetSpec:
    """Read one entry of the manifest's ``targets``.

    Raises:
        BundleError: a key is missing or unknown, or a value is of the wrong type or impossible.
    """
    there = _object(TargetSpec, data, where)
    decoder = None if there["decoder"] is None else _read_static(there["decoder"], f"{where}.decoder")
    return read_flat(TargetSpec, there, where, {"decoder": decoder})


def _read_static(data: object, where: str) -> StaticSpec:
    there = _object(StaticSpec, data, where)
    rope = read_flat(RopeSpec, there["rope"], f"{where}.rope")
    for name in ("short_factor", "long_factor"):
        count = len(getattr(rope, name))
        if count not in (0, rope.rotary_size // 2):
            raise refuse(f"{where}.rope.{name}", count, f"{rope.rotary_size // 2} numbers")
    if not isinstance(there["routes"], (list, tuple)):
        raise refuse(f"{where}.routes", there["routes"], "a list", "type")
    routes = tuple(read_flat(StaticRoute, r, f"{where}.routes[{i}]") for i, r in enumerate(there["routes"]))
    mixes = [route.adapters for route in routes]
    if not routes or any(mix in mixes[:place] for place, mix in enumerate(mixes)):
        raise ManifestError(
            f"{MANIFEST_FILE}: {where}.routes is empty or repeats a mix of adapters, expected each once",
            "value",
            f"{where}.routes",
        )
    return read_flat(StaticSpec, there, where, {"rope": rope, "routes": routes})


def _object(cls: type[Any], data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise refuse(where, data, "an object", "type")
    check_keys(cls, data, where)
    return data
