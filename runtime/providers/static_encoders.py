"""Encoders over graphs of fixed shapes on a provider; media without such graphs use the bundle's own encoders."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.processor_config import ProcessorSpec
from palmtop.runtime.media.conversation_media import FeatureSource
from palmtop.runtime.media.encoder_runner import CACHE_BYTES, EncodingStopped, ShouldStop
from palmtop.runtime.media.feature_cache import FeatureCache, Features
from palmtop.runtime.processor.images import PreparedImage, static_image_feeds
from palmtop.runtime.processor.sounds import PreparedSound, static_sound_feeds, static_steps

OpenGraph = Callable[[Path], Any]
"""Function that opens a graph file on a provider; raises ``PalmtopError`` for problems that a user can cause."""


class StaticEncoders:
    """Encoders of fixed shapes on a provider (``media.FeatureSource``)."""

    def __init__(
        self,
        vision: Path | None,
        audio: Mapping[int, Path],
        spec: ProcessorSpec,
        open_graph: OpenGraph,
        rest: FeatureSource,
        *,
        keep: bool = False,
    ) -> None:
        """Set up encoders; nothing is loaded yet.

        Args:
            vision: graph for one tile; None where ``rest`` encodes images.
            audio: graphs for one window by their number of steps, the whole window's included; empty where ``rest``
                encodes sounds.
            spec: sizes of both inputs.
            open_graph: function that opens a graph.
            rest: encoders of the kinds without graphs.
            keep: whether sessions stay open after use.
        """
        self._vision = vision
        self._audio = dict(sorted(audio.items()))
        self._spec = spec
        self._open = open_graph
        self._rest = rest
        self._keep = keep
        self._sessions: dict[Path, Any] = {}
        self._cache = FeatureCache(CACHE_BYTES)
        self._lock = threading.Lock()

    def encode_image(self, image: PreparedImage, *, should_stop: ShouldStop | None = None) -> Features:
        """Return the features of an image, [image.rows, H]; cancellation acts between two tiles."""
        path, spec = self._vision, self._spec.image
        if path is None:
            return self._rest.encode_image(image, should_stop=should_stop)
        if spec is None:
            raise InputError("the bundle has no vision encoder, expected no images")
        image.check(spec)

        def run() -> Features:
            session = self._session(path)
            shapes = {value.name: value.shape for value in session.get_inputs()}
            runs: list[list[Features]] = []
            for view in image.batches(1):
                feeds = static_image_feeds(view, spec, shapes)
                runs.append(_run(session, path, list(image.outputs), feeds, should_stop))
            return image.in_reading_order(runs)

        return self._encode(image.key, image.rows, run, path)

    def encode_audio(
        self, sound: PreparedSound, vision_projector: bool, *, should_stop: ShouldStop | None = None
    ) -> Features:
        """Return the features of a sound, [R, H]; cancellation acts between two windows."""
        spec = self._spec.audio
        if not self._audio:
            return self._rest.encode_audio(sound, vision_projector, should_stop=should_stop)
        if spec is None:
            raise InputError("the bundle has no audio encoder, expected no sounds")
        sound.check(spec)
        batches = list(sound.batches(vision_projector))
        needed = max(static_steps(feeds, spec) for feeds in batches)
        steps, path = next((s, p) for s, p in self._audio.items() if s >= needed)

        def run() -> Features:
            session, output = self._session(path), f"features_{'vision' if vision_projector else 'speech'}"
            runs: list[list[Features]] = []
            for batch in batches:
                feeds, count = static_sound_feeds(batch, spec, steps)
                runs.append([_run(session, path, [output], feeds, should_stop)[0][:count]])
            return sound.in_reading_order(runs)

        return self._encode(f"{vision_projector} {sound.key}", sound.rows, run, path)

    def close(self) -> None:
        """Close open sessions and drop cached features; the next call loads again."""
        with self._lock:
            self._sessions.clear()
            self._cache.clear()
        self._rest.close()

    def _encode(self, key: str, rows: int, run: Callable[[], Features], path: Path) -> Features:
        with self._lock:
            if (known := self._cache.get(key)) is not None:
                return known
            try:
                features = run()
            finally:
                if not self._keep:
                    self._sessions.clear()
            if len(features) != rows:
                raise BundleError(f"{path.name}: gives {len(features)} feature rows, expected {rows}")
            return self._cache.put(key, features)

    def _session(self, path: Path) -> Any:
        if path not in self._sessions:
            self._sessions[path] = self._open(path)
        return self._sessions[path]


def _run(
    session: Any, path: Path, outputs: list[str], feeds: dict[str, NDArray[Any]], should_stop: ShouldStop | None
) -> list[Features]:
    if should_stop is not None and should_stop():
        raise EncodingStopped
    try:
        found: list[Features] = session.run(outputs, feeds)
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise BundleError(f"{path.name}: could not be run ({' '.join(str(error).split())[:300]})") from error
    return found
