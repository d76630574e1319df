"""The decoders that a verification compares: the bundle's, a float32 one, and one without adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError
from palmtop.runtime.bundle import Bundle
from palmtop.runtime.manifest import Manifest

from .probe import DecoderProbe, ProbeInput

Pair = tuple[ProbeInput, ProbeInput]
"""The same question, media encoded by the float bundle's encoders and by those under test."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The float bundle made of the checkpoint, and one without adapters made like the bundle under test."""

    float_folder: Path
    float_manifest: Manifest
    plain_folder: Path
    plain_manifest: Manifest


class Decoders:
    """The decoder under test, the float one and the one without adapters."""

    def __init__(self, bundle: Bundle, reference: Reference) -> None:
        self.manifest = bundle.manifest
        self.float_manifest = reference.float_manifest
        self.found = DecoderProbe(bundle.file(bundle.manifest.decoder.file), bundle.manifest.decoder)
        self.exact = DecoderProbe(
            reference.float_folder / reference.float_manifest.decoder.file, reference.float_manifest.decoder
        )
        self.plain = DecoderProbe(
            reference.plain_folder / reference.plain_manifest.decoder.file, reference.plain_manifest.decoder
        )
        if self.found.num_gates != len(bundle.manifest.adapters):
            raise BundleError(
                f"{bundle.path}: the decoder has {self.found.num_gates} adapter gates,"
                f" expected {len(bundle.manifest.adapters)} as the manifest says"
            )

    def gates(self, manifest: Manifest, weights: dict[str, float]) -> NDArray[np.float32]:
        """[A] gate weights in a manifest's order."""
        gates = np.zeros(len(manifest.adapters), np.float32)
        for adapter in manifest.adapters:
            gates[adapter.gate] = weights.get(adapter.name, 0.0)
        return gates

    def both(
        self, pair: Pair, weights: dict[str, float], tokens: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits of the float decoder and of the one under test, each on its own encoders' features."""
        exact, found = pair
        return (
            self.exact.logits(exact, self.gates(self.float_manifest, weights), tokens),
            self.found.logits(found, self.gates(self.manifest, weights), tokens),
        )
