"""Which adapters answer: the manifest's route for what the conversation holds, or the user's own choice.

A route is held for the whole conversation. Computes names, weights and the gate array; runs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError

from .manifest import Manifest


@dataclass(frozen=True, slots=True)
class Choice:
    """What is switched on for a mode.

    Attributes:
        mode: "text", "image", "audio" or "image+audio".
        adapters: name to weight, as reported to the user.
        audio_projector: "speech" or "vision".
    """

    mode: str
    adapters: dict[str, float]
    audio_projector: str

    def gates(self, manifest: Manifest) -> NDArray[np.float32]:
        """The decoder's ``adapter_gates``: [A], zeros for what is off."""
        gates = np.zeros(len(manifest.adapters), np.float32)
        for adapter in manifest.adapters:
            gates[adapter.gate] = self.adapters.get(adapter.name, 0.0)
        return gates


def mode_of(*, has_image: bool, has_audio: bool) -> str:
    """The manifest's name for a mixture of inputs."""
    return "+".join(name for name, there in (("image", has_image), ("audio", has_audio)) if there) or "text"


def choose(manifest: Manifest, mode: str, adapters: Mapping[str, float] | None = None) -> Choice:
    """The route of a mode; ``adapters`` replaces the route's adapters, an empty mapping means none.

    Raises:
        InputError: the bundle does not serve the mode, an adapter does not exist or cannot be switched, or a
            weight is not finite.
    """
    route = manifest.routes.get(mode)
    if route is None:
        raise InputError(f"input is {mode}, this bundle serves {', '.join(manifest.modes) or 'nothing'}")
    if adapters is None:
        return Choice(mode, dict(route.adapters), route.audio_projector)
    there = ", ".join(a.name for a in manifest.adapters) or "none"
    for name, weight in adapters.items():
        if manifest.adapter(name) is None or manifest.adapter_mode != "gated":
            found = there if manifest.adapter_mode == "gated" else f"none: its mode is {manifest.adapter_mode}"
            raise InputError(f"adapter '{name}' cannot be switched on, this bundle's adapters are: {found}")
        if not math.isfinite(weight) or abs(weight) > float(np.finfo(np.float32).max):
            raise InputError(f"adapter '{name}' has weight {weight}, expected a finite number")
    return Choice(mode, {n: float(w) for n, w in adapters.items()}, route.audio_projector)


def parse_adapters(texts: tuple[str, ...]) -> dict[str, float] | None:
    """``NAME`` or ``NAME=WEIGHT``, as on the command line; nothing given means the route decides.

    ``none`` alone switches every adapter off.

    Raises:
        InputError: a weight is not a number.

    >>> parse_adapters(("vision", "speech=0.5"))
    {'vision': 1.0, 'speech': 0.5}
    """
    if not texts:
        return None
    if texts == ("none",):
        return {}
    found: dict[str, float] = {}
    for text in texts:
        name, _, weight = text.partition("=")
        try:
            found[name] = float(weight) if weight else 1.0
        except ValueError as error:
            raise InputError(f"adapter '{text}': weight is '{weight}', expected a number") from error
    return found
