"""Encoders and adapters of a Phi-4-multimodal checkpoint: fine-tunes drop those they do not use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.graph.encoders.audio_config import AudioConfig
from palmtop.export.graph.encoders.vision_config import VisionConfig
from palmtop.runtime.bundle.manifest import Route

from .tensors import AUDIO, VISION, audio_names, decoder_names, unused_vision, vision_names

ENCODER_OF = {"vision": "vision", "speech": "audio"}  # encoder by adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Modalities:
    """Encoders and adapters that a checkpoint has.

    Attributes:
        has_vision: whether the vision encoder is there.
        has_audio: whether the audio encoder is there.
        adapters: names of the adapters.
    """

    has_vision: bool
    has_audio: bool
    adapters: tuple[str, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint, adapters: Collection[str]) -> Modalities:
        """Find modalities by tensors: one tensor of an encoder is enough; missing ones are reported later."""
        vision, audio = (
            any(name.startswith(f"model.{prefix}") for name in checkpoint.names) for prefix in (VISION, AUDIO)
        )
        return cls(has_vision=vision, has_audio=audio, adapters=tuple(adapters))

    @property
    def encoders(self) -> set[str]:
        """Names of the encoders."""
        return {name for name, there in (("vision", self.has_vision), ("audio", self.has_audio)) if there}

    @property
    def missing_adapters(self) -> tuple[str, ...]:
        """Adapters that are missing although their encoders are there."""
        return tuple(a for a, e in ENCODER_OF.items() if e in self.encoders and a not in self.adapters)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes on missing encoders and adapters for the user."""
        what = {"vision": "takes no images", "audio": "takes no sounds"}
        lost = tuple(
            f"the checkpoint has no {name} encoder: the bundle {effect}"
            for name, effect in what.items()
            if name not in self.encoders
        )
        bare = tuple(f"the checkpoint has no {name} adapter: its base serves alone" for name in self.missing_adapters)
        return lost + bare

    def names(self, num_layers: int, vision: VisionConfig | None, audio: AudioConfig | None) -> set[str]:
        """Return the canonical names of tensors that the graphs read, without adapters, embedding and head."""
        names = decoder_names(num_layers)
        names |= set() if vision is None else vision_names(vision)
        return names | (set() if audio is None else audio_names(audio))

    def unused(self, vision: VisionConfig | None) -> tuple[str, ...]:
        """Return patterns of tensors that may stay unread."""
        return () if vision is None else unused_vision(vision)

    def routes(self, routes: Mapping[str, Route]) -> dict[str, Route]:
        """Return the routes of the modes whose encoders are there.

        A checkpoint without any adapter is a model of its own, for instance with merged adapters; one that lacks some
        cannot serve the modes that need them.
        """
        media = {"image": "vision", "audio": "audio"}
        served = {m: r for m, r in routes.items() if {media[x] for x in m.split("+") if x in media} <= self.encoders}
        if self.adapters:
            return served
        return {m: Route(adapters={}, audio_projector=r.audio_projector) for m, r in served.items()}
