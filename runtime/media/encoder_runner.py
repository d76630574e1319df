"""Runner of vision.onnx and audio.onnx: from tiles and log-mel frames to feature rows of the decoder.

Imports onnxruntime (of the runtime only ``providers/plugins.py`` does so too), and only when something is encoded.
Sessions are opened when needed and closed after use, so that an encoder and the decoder's working memory need not exist
at the same time.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError, RuntimeMissingError
from palmtop.packages import install_command
from palmtop.runtime.bundle.native_files import graph_source
from palmtop.runtime.bundle.processor_config import ProcessorSpec
from palmtop.runtime.processor.images import PreparedImage
from palmtop.runtime.processor.prepared import PreparedMedium
from palmtop.runtime.processor.sounds import PreparedSound

from .feature_cache import FeatureCache, Features

if TYPE_CHECKING:
    import onnxruntime as ort

BATCH_BYTES = 256 << 20  # bytes of activations at a time, when tiles are small enough to share a run
CACHE_BYTES = 64 << 20
LOG_ERRORS = 3  # onnxruntime's severity: errors and worse
POLL_S = 0.02  # interval at which a run checks for cancellation

ShouldStop = Callable[[], bool]
OpenEncoder = Callable[[str, Path], Any]
"""Function that opens the graph of "image" or "audio" as an onnxruntime session."""


class EncodingStopped(Exception):  # noqa: N818 - nothing went wrong: the caller asked for it
    """A run that was stopped by ``should_stop``."""


class Encoders:
    """The image encoder and the audio encoder of a bundle.

    Safe to call from several threads: calls run one after the other, which also bounds memory.
    """

    def __init__(
        self,
        vision_path: Path | None,
        audio_path: Path | None,
        spec: ProcessorSpec,
        *,
        tile_bytes: int = BATCH_BYTES,
        threads: int | None = None,
        keep: bool = False,
        check_room: Callable[[], None] | None = None,
        open_encoder: OpenEncoder | None = None,
    ) -> None:
        """Set up encoders; nothing is loaded yet.

        Args:
            vision_path: path of vision.onnx; None without images.
            audio_path: path of audio.onnx; None without sounds.
            spec: sizes of both inputs.
            tile_bytes: bytes of activations of one tile (``EncoderSpec.bytes_per_item``); by default one tile per run.
            threads: number of onnxruntime's threads; None for its default, one per core.
            keep: whether sessions stay open after use.
            check_room: called before an encoder is loaded; raises if it would not fit into memory.
            open_encoder: opens an encoder on another provider than the CPU.

        Raises:
            BundleError: window and stacking of the audio spec do not fit together.
        """
        if spec.audio is not None and spec.audio.window_steps % spec.audio.downsample_rate:
            raise BundleError(
                f"bundle.json: processor.audio: window_steps is {spec.audio.window_steps}, "
                f"expected a multiple of downsample_rate {spec.audio.downsample_rate}"
            )
        self.keep = keep
        self._check_room = check_room
        self.cache = FeatureCache(CACHE_BYTES)
        self._paths = {"image": vision_path, "audio": audio_path}
        self._spec = spec
        self._tiles_at_once = max(1, BATCH_BYTES // max(1, tile_bytes))
        self._open = open_encoder or (lambda kind, path: open_session(path, threads))
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._lock = threading.Lock()

    def encode_image(self, image: PreparedImage, *, should_stop: ShouldStop | None = None) -> Features:
        """Return the feature rows of one image, in the order of its ids.

        Args:
            image: prepared by its kind of processor.
            should_stop: called before every batch and during a run; True stops.

        Returns:
            feature rows, [image.rows, H] float32, read-only.

        Raises:
            InputError: the bundle takes no images, or the tiles do not fit its spec.
            BundleError: vision.onnx cannot be loaded or returns another number of rows.
            EncodingStopped: ``should_stop`` returned True.
        """
        spec = self._spec.image
        if spec is None or self._paths["image"] is None:
            raise InputError("the bundle has no vision encoder, expected no images")
        image.check(spec)

        def run(session: ort.InferenceSession) -> Features:
            return _all_runs(session, image, image.batches(self._tiles_at_once), should_stop)

        return self._encode("image", image.key, image.rows, run, should_stop)

    def encode_audio(
        self, sound: PreparedSound, vision_projector: bool, *, should_stop: ShouldStop | None = None
    ) -> Features:
        """Return the feature rows of one sound.

        Args:
            sound: prepared by its kind of processor.
            vision_projector: use the projector that was trained with images.
            should_stop: called before every window and during a run; True stops.

        Returns:
            feature rows, [sound.rows, H] float32, read-only.

        Raises:
            InputError: the bundle takes no sounds, or the frames do not fit its spec.
            BundleError: audio.onnx cannot be loaded or returns another number of rows.
            EncodingStopped: ``should_stop`` returned True.
        """
        spec = self._spec.audio
        if spec is None or self._paths["audio"] is None:
            raise InputError("the bundle has no audio encoder, expected no sounds")
        sound.check(spec)

        def run(session: ort.InferenceSession) -> Features:
            return _all_runs(session, sound, sound.batches(vision_projector), should_stop)

        return self._encode("audio", f"{vision_projector} {sound.key}", sound.rows, run, should_stop)

    def close(self) -> None:
        """Close open sessions and drop cached features; the next call loads again."""
        with self._lock:
            self._sessions.clear()
            self.cache.clear()
            return_freed_memory()

    def _encode(
        self, kind: str, key: str, rows: int, run: Callable[[Any], Features], should_stop: ShouldStop | None
    ) -> Features:
        with self._alone(should_stop):
            if (known := self.cache.get(key)) is not None:
                return known
            path = self._paths[kind]
            assert path is not None  # both callers have checked that there is a path
            try:
                features = run(self._session(kind, path))
            finally:
                if not self.keep:
                    self._sessions.clear()
                    return_freed_memory()
            if len(features) != rows:
                raise BundleError(f"{path.name}: gives {len(features)} feature rows, expected {rows}")
            return self.cache.put(key, features)

    @contextmanager
    def _alone(self, should_stop: ShouldStop | None) -> Iterator[None]:
        """Wait for other threads, until ``should_stop`` returns True."""
        while not self._lock.acquire(timeout=POLL_S):
            _ask(should_stop)
        try:
            yield
        finally:
            self._lock.release()

    def _session(self, kind: str, path: Path) -> ort.InferenceSession:
        if kind not in self._sessions:
            if self._check_room is not None:
                self._check_room()
            self._sessions[kind] = self._open(kind, path)
        return self._sessions[kind]


def return_freed_memory() -> None:
    """Return freed memory to the system where the C library keeps it (glibc).

    Measured on the reference model's sizes: 290 to 490 MB stay with the process after a session is gone,
    23 MB after this call, which takes 0.05 s.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def available_providers() -> list[str]:
    """Return the execution providers that onnxruntime was built with."""
    import onnxruntime as ort

    names: list[str] = ort.get_available_providers()
    return names


def open_session(path: Path, threads: int | None) -> ort.InferenceSession:
    """Open an onnxruntime session on the CPU.

    Raises:
        BundleError: onnxruntime cannot load the graph.
        RuntimeMissingError: onnxruntime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise RuntimeMissingError(
            f"media: onnxruntime is not installed; {install_command(only='onnxruntime')}"
        ) from error
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    options.enable_cpu_mem_arena = False  # an arena keeps its largest size; without it memory is returned after use
    options.enable_mem_pattern = False  # one is kept for every length of sound until the session is closed
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        with graph_source(path) as source:
            return source.open(ort.InferenceSession, options, providers=["CPUExecutionProvider"])
    except BundleError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise BundleError(f"{path}: onnxruntime cannot load it ({error})") from error


def _all_runs(
    session: ort.InferenceSession,
    prepared: PreparedMedium,
    batches: Iterable[Mapping[str, NDArray[Any]]],
    should_stop: ShouldStop | None,
) -> Features:
    """Run the graph on every batch and put the rows into order."""
    runs = []
    for feeds in batches:
        _ask(should_stop)
        runs.append(_run(session, list(prepared.outputs), feeds, should_stop))
    return prepared.in_reading_order(runs)


def _run(
    session: ort.InferenceSession,
    outputs: list[str],
    feeds: Mapping[str, NDArray[np.generic]],
    should_stop: ShouldStop | None,
) -> list[Features]:
    """Run the graph in a thread and wait for it, so that ``should_stop`` or Ctrl-C ends the run.

    onnxruntime releases Python's lock while it runs, and checks ``terminate`` between two nodes.
    """
    import onnxruntime as ort

    options = ort.RunOptions()
    done: Future[list[Features]] = Future()

    def run() -> None:
        try:
            done.set_result(session.run(outputs, feeds, options))
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            done.set_exception(error)

    thread = threading.Thread(target=run, name="palmtop-encoder", daemon=True)
    thread.start()
    stopped = False
    try:
        while not wait([done], timeout=POLL_S).done:
            if not stopped and should_stop is not None and should_stop():
                options.terminate = stopped = True
    except BaseException:  # Ctrl-C
        options.terminate = True
        raise
    finally:
        thread.join()
        return_freed_memory()  # otherwise the process grows with the number of windows
    if stopped:
        raise EncodingStopped
    try:
        return done.result()
    except Exception as error:
        raise BundleError(f"onnxruntime could not run an encoder, expected {', '.join(outputs)} ({error})") from error


def _ask(should_stop: ShouldStop | None) -> None:
    if should_stop is not None and should_stop():
        raise EncodingStopped
