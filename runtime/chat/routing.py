"""Routing: the adapters of an answer, from the manifest's routes and the request's choice.

A choice is held until a request asks for another. Computes names, weights and the gate array; runs nothing.

The rule, in the words of the manifest: a request runs under one route, that of its mode or the task it names.
Adapters that the request names take the weight it gives them. If one of them says ``combine: "replace"`` (those of
the checkpoint do, they were trained to stand alone) the route's other adapters are off; if all say ``"add"`` (those
that users added do) the route's stay on beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.manifest import Manifest, Route

OFF = "none"


@dataclass(frozen=True, slots=True)
class AdapterRequest:
    """Adapters and route that a request names.

    Attributes:
        adapters: weights by adapter name; None takes those of the route, an empty mapping switches every adapter off.
        route: name of a route of the manifest; None takes that of the input's mode.
    """

    adapters: Mapping[str, float] | None = None
    route: str | None = None


Wanted = Mapping[str, float] | str | AdapterRequest | None
"""Forms in which callers may name adapters: weights by name, the name of a route, both, or None."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Active adapters and audio projector of a mode.

    Attributes:
        mode: "text", "image", "audio" or "image+audio".
        adapters: weights by adapter name, as reported to the user.
        audio_projector: "speech" or "vision".
    """

    mode: str
    adapters: dict[str, float]
    audio_projector: str

    def gates(self, manifest: Manifest) -> NDArray[np.float32]:
        """Return the decoder's ``adapter_gates``: [A] float32, zero for inactive adapters."""
        return gates_of(manifest, self.adapters)


def gates_of(manifest: Manifest, weights: Mapping[str, float]) -> NDArray[np.float32]:
    """Return weights by adapter name as the decoder's ``adapter_gates``: [A] float32, zero for those not named."""
    gates = np.zeros(len(manifest.adapters), np.float32)
    for adapter in manifest.adapters:
        gates[adapter.gate] = weights.get(adapter.name, 0.0)
    return gates


def mode_of(*, has_image: bool, has_audio: bool) -> str:
    """Return the manifest's name for a combination of inputs."""
    return "+".join(name for name, there in (("image", has_image), ("audio", has_audio)) if there) or "text"


def choose(manifest: Manifest, mode: str, wanted: Wanted = None) -> Choice:
    """Return the active adapters for a mode, by the rule at the top of this file.

    Raises:
        InputError: the bundle does not serve the mode or has no such route, an adapter does not exist or cannot be
            switched, or a weight is not finite.
    """
    request = _request(wanted)
    route = _route(manifest, mode, request.route)
    if request.adapters is None:
        return Choice(mode, dict(route.adapters), route.audio_projector)
    named = {name: _checked(manifest, name, weight) for name, weight in request.adapters.items()}
    replaces = [a.combine == "replace" for a in manifest.adapters if a.name in named]
    kept = {} if not named or any(replaces) else route.adapters
    return Choice(mode, {**kept, **named}, route.audio_projector)


def chosen_by_name(manifest: Manifest, name: str) -> AdapterRequest | None:
    """Return the request that one name stands for, as in ``MODEL:NAME``; None if the bundle has no such name.

    An adapter is preferred to a route of the same name: the route can still be asked for as a route.
    """
    if manifest.adapter(name) is not None and manifest.adapter_mode == "gated":
        return AdapterRequest({name: 1.0})
    return AdapterRequest(None, name) if name in manifest.routes else None


def _request(wanted: Wanted) -> AdapterRequest:
    if isinstance(wanted, AdapterRequest):
        return wanted
    return AdapterRequest(route=wanted) if isinstance(wanted, str) else AdapterRequest(adapters=wanted)


def _route(manifest: Manifest, mode: str, name: str | None) -> Route:
    route = manifest.routes.get(mode if name is None else name)
    if name is not None and route is None:
        raise InputError(
            f"route '{name}' is not in this bundle, expected one of {', '.join(manifest.routes) or 'none'}"
        )
    if route is None or not manifest.has_encoders(mode):
        raise InputError(f"input is {mode}, this bundle serves {', '.join(manifest.modes) or 'nothing'}")
    return route


def _checked(manifest: Manifest, name: str, weight: float) -> float:
    if manifest.adapter(name) is None or manifest.adapter_mode != "gated":
        there = ", ".join(a.name for a in manifest.adapters) or "none"
        found = there if manifest.adapter_mode == "gated" else f"none: its mode is {manifest.adapter_mode}"
        raise InputError(f"adapter '{name}' cannot be switched on, this bundle's adapters are: {found}")
    if not math.isfinite(weight) or abs(weight) > float(np.finfo(np.float32).max):
        raise InputError(f"adapter '{name}' has weight beyond float32's numbers, expected a finite number")
    return float(weight)


def parse_adapters(texts: tuple[str, ...]) -> dict[str, float] | None:
    """Parse ``NAME`` or ``NAME=WEIGHT`` from the command line; an empty list leaves the choice to the route.

    ``none`` alone switches every adapter off.

    Raises:
        InputError: a weight is not a number, or ``none`` stands beside others.

    >>> parse_adapters(("vision", "speech=0.5"))
    {'vision': 1.0, 'speech': 0.5}
    """
    if not texts:
        return None
    if texts == (OFF,):
        return {}
    found: dict[str, float] = {}
    for text in texts:
        name, _, weight = text.partition("=")
        if name == OFF:
            raise InputError(f"adapter '{OFF}' stands beside others, expected it alone; NAME=0 switches one off")
        try:
            found[name] = float(weight) if weight else 1.0
        except ValueError as error:
            raise InputError(f"adapter '{text}': weight is '{weight}', expected a number") from error
    return found
