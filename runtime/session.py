"""A bundle in memory, ready to answer. The only file that imports onnxruntime_genai.

A ``Session`` owns one native model; every ``Conversation`` it makes owns a generator with its KV cache. The
arrays that a generator reads in place belong to its ``GenaiDecoder``: genai keeps no reference to them.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError, MemoryPlanError, RuntimeMissingError

from .bundle import Bundle, open_bundle
from .conversation import GREEDY, Conversation, Message
from .encoders import Encoders
from .genai_config import check_genai_config
from .machine import available_memory
from .manifest import Manifest
from .media import FeatureSource, MediaReader
from .memory import MINIMUM_CONTEXT, MemoryPlan, check_plan, largest_context, megabytes, plan_memory
from .options import GenerationOptions
from .processor import Processor
from .reply import Piece, Reply
from .routing import Wanted
from .track import DecoderInputs, Track

logger = logging.getLogger(__name__)

PREFILL_CHUNK = 128  # genai holds Python's lock for a whole step: short enough to cancel in
PROVIDERS = ("cpu",)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a bundle is loaded.

    Attributes:
        context: tokens a conversation may hold; None takes what the bundle serves, or what fits into memory.
        media_rows: rows of image and sound features a conversation may hold; None for as many as the context.
        threads: of the native libraries; None leaves it to them.
        keep_encoders: keep vision and audio encoders loaded after use.
        memory_limit: bytes the session may take; None for what the machine has.
        provider: execution provider.
        prefill_chunk: tokens read at a time; cancelling acts between two steps.

    Raises:
        InputError: a value is out of its range.
    """

    context: int | None = None
    media_rows: int | None = None
    threads: int | None = None
    keep_encoders: bool = False
    memory_limit: int | None = None
    provider: str = "cpu"
    prefill_chunk: int = PREFILL_CHUNK

    def __post_init__(self) -> None:
        for name, least in (("context", 1), ("media_rows", 1), ("threads", 1), ("prefill_chunk", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"option {name}: found {value}, expected at least {least}")
        if self.provider not in PROVIDERS:
            raise InputError(f"option provider: found '{self.provider}', expected one of {', '.join(PROVIDERS)}")


class GenaiDecoder:
    """One native generator and the arrays it reads (``track.Decoder``).

    Raises:
        BundleError: here and in ``append`` and ``logits``, when the graph is not what the manifest says.
    """

    def __init__(self, native: ModuleType, model: Any, inputs: DecoderInputs, context: int, bundle: Bundle) -> None:
        self.inputs = inputs
        self._folder = bundle.path
        self._vocab_size = bundle.manifest.decoder.vocab_size
        self._generator: Any = None
        with _native_errors(self._folder, "prepare a conversation"):
            parameters = native.GeneratorParams(model)
            parameters.set_search_options(max_length=context, batch_size=1, do_sample=False)
            self._generator = native.Generator(model, parameters)
            for name in ("media_index", "media_features", "adapter_gates", "rope_long"):
                array = getattr(inputs, name)
                if array is not None:  # before the first append, and never again
                    self._generator.set_model_input(name, array)

    @property
    def _live(self) -> Any:
        if self._generator is None:
            raise InputError("the session of this conversation is closed, expected an open one")
        return self._generator

    @property
    def token_count(self) -> int:
        """Tokens in the KV cache."""
        return int(self._live.token_count())

    def append(self, ids: NDArray[np.int32]) -> None:
        """Run the graph over more tokens, [S]."""
        generator = self._live
        with _native_errors(self._folder, "run the decoder"):
            generator.append_tokens(np.ascontiguousarray(ids, np.int32))

    def logits(self) -> NDArray[np.float32]:
        """Of the last token, [V]."""
        generator = self._live
        with _native_errors(self._folder, "give logits"):
            logits: NDArray[np.float32] = np.asarray(generator.get_logits(), np.float32).reshape(-1)
        if len(logits) != self._vocab_size:
            raise BundleError(
                f"{self._folder}: the decoder gives {len(logits)} logits, expected decoder.vocab_size, "
                f"{self._vocab_size}"
            )
        return logits

    def rewind_to(self, count: int) -> None:
        """Forget all but the first tokens."""
        self._live.rewind_to(count)

    def close(self) -> None:
        """Free the generator, and only then its arrays."""
        self._generator = None


class Session:
    """One loaded bundle. Made by ``palmtop.load``; close it, or use it in a ``with`` statement."""

    def __init__(self, bundle: Bundle, options: SessionOptions, *, encoders: FeatureSource | None = None) -> None:
        self.bundle = bundle
        self.manifest: Manifest = bundle.manifest
        self.plan = _plan(self.manifest, options)
        self._options = options
        self._native = _import_genai()
        self._processor = Processor(self.manifest.processor, bundle.path)
        self._encoders = encoders or _encoders(bundle, options)
        check_genai_config(bundle)
        self._model = _open_model(self._native, bundle.path, self.plan.context, options.threads)
        self._default: Conversation | None = None
        self._decoders: WeakSet[GenaiDecoder] = WeakSet()

    @property
    def context(self) -> int:
        """Tokens a conversation may hold."""
        return self.plan.context

    def conversation(self, *, system: str | None = None) -> Conversation:
        """A new dialogue with a KV cache of its own, allocated when it first reads something.

        Args:
            system: text of the system message.
        """
        track = Track(
            self._open_decoder,
            context=self.context,
            original_context=self.manifest.decoder.original_context,
            chunk=self._options.prefill_chunk,
        )
        media = MediaReader(self._processor, self._encoders)
        return Conversation(self.manifest, track, self._processor.text, media, system=system)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        adapters: Wanted = None,
        options: GenerationOptions = GREEDY,
    ) -> Iterator[Piece]:
        """Stream the answer to a list of messages (OpenAI / Hugging Face content parts).

        What the messages share with those of the call before is not read again.

        Args:
            messages: the whole dialogue, the last one the user's.
            max_tokens: longest answer; None as in ``options``.
            adapters: name to weight, or a route's name, or both (``routing``); an empty mapping for none.
            options: length, sampling, stop strings.

        Yields:
            pieces of text; the last one carries the whole reply.

        Raises:
            InputError: messages, media or adapters are not usable, or the prompt does not fit.
        """
        if self._default is None:
            self._default = self.conversation()
        return self._default.respond(messages, max_tokens=max_tokens, adapters=adapters, options=options)

    def answer(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        adapters: Wanted = None,
        options: GenerationOptions = GREEDY,
    ) -> Reply:
        """The whole answer at once; arguments and errors as ``chat``."""
        *_, last = self.chat(messages, max_tokens=max_tokens, adapters=adapters, options=options)
        assert last.reply is not None  # the last piece always has it
        return last.reply

    def cancel(self) -> None:
        """Stop the answer that ``chat`` or ``answer`` is giving; from any thread."""
        if self._default is not None:
            self._default.cancel()

    def close(self) -> None:
        """Free the native model. Conversations of this session cannot be used any more."""
        self._default = None
        for decoder in list(self._decoders):
            decoder.close()
        self._decoders.clear()
        self._encoders.close()
        self._model = None

    def _open_decoder(self) -> GenaiDecoder:
        if self._model is None:
            raise InputError(f"{self.bundle.path}: the session is closed, expected an open one")
        self._check_room()
        inputs = _decoder_inputs(self.manifest, self.plan)
        decoder = GenaiDecoder(self._native, self._model, inputs, self.context, self.bundle)
        self._decoders.add(decoder)
        return decoder

    def _check_room(self) -> None:
        """Another conversation's cache must fit too."""
        available = available_memory()
        if self._options.memory_limit is not None:
            left = self._options.memory_limit - self.plan.total - (len(self._decoders) - 1) * self.plan.conversation
            available = left if available is None else min(left, available)
        if available is not None and self.plan.conversation > available:
            raise MemoryPlanError(
                f"another conversation of {self.context} tokens needs "
                f"{megabytes(self.plan.conversation)}, there are {megabytes(max(0, available))}; "
                f"close one of the {len(self._decoders)} that are open"
            )

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_session(path: str | os.PathLike[str], options: SessionOptions) -> Session:
    """Open a bundle, check it, plan its memory and load it.

    Raises:
        BundleError: the bundle is damaged, or genai cannot load it.
        MemoryPlanError: it does not fit.
        RuntimeMissingError: onnxruntime-genai is not installed.
    """
    return Session(open_bundle(path), options)


def _plan(manifest: Manifest, options: SessionOptions) -> MemoryPlan:
    """The plan for the context asked for, or for the longest that fits; refuses what does not."""
    serves = manifest.decoder.context_length
    if options.context is not None and options.context > serves:
        raise InputError(f"option context: found {options.context}, this bundle serves at most {serves} tokens")

    def plan(context: int) -> MemoryPlan:
        return plan_memory(
            manifest,
            context=context,
            media_rows=options.media_rows,
            chunk=options.prefill_chunk,
            keep_encoders=options.keep_encoders,
        )

    available = available_memory()
    if options.memory_limit is not None:
        available = options.memory_limit if available is None else min(available, options.memory_limit)
    wanted = plan(options.context or serves)
    if options.context is None and available is not None and wanted.total > available:
        fits = largest_context(manifest, wanted, available)
        logger.info("%s: a context of %d instead of %d fits into memory", manifest.model, fits, serves)
        wanted = plan(fits or MINIMUM_CONTEXT)
    check_plan(manifest, wanted, available)
    return wanted


def _decoder_inputs(manifest: Manifest, plan: MemoryPlan) -> DecoderInputs:
    """New arrays for those inputs that the bundle's graph has."""
    decoder = manifest.decoder
    has_media = manifest.vision is not None or manifest.audio is not None
    has_gates = manifest.adapter_mode == "gated" and bool(manifest.adapters)
    return DecoderInputs(
        media_index=np.zeros(plan.context, np.int64) if has_media else None,
        media_features=np.zeros((plan.media_rows, decoder.hidden_size), np.float32) if has_media else None,
        adapter_gates=np.zeros(len(manifest.adapters), np.float32) if has_gates else None,
        rope_long=np.zeros(1, np.bool_) if decoder.original_context is not None else None,
    )


def _encoders(bundle: Bundle, options: SessionOptions) -> Encoders:
    manifest = bundle.manifest
    vision, audio = manifest.vision, manifest.audio
    return Encoders(
        bundle.file(vision.file) if vision else None,
        bundle.file(audio.file) if audio else None,
        manifest.processor,
        tile_bytes=vision.bytes_per_item if vision else 0,
        threads=options.threads,
        keep=options.keep_encoders,
    )


def _import_genai() -> ModuleType:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded
    try:
        import onnxruntime_genai
    except ImportError as error:
        raise RuntimeMissingError(
            f"onnxruntime-genai cannot be imported ({error}); pip install 'onnxruntime-genai>=0.18'"
        ) from error
    if hasattr(onnxruntime_genai, "disable_telemetry_events"):
        onnxruntime_genai.disable_telemetry_events()
    module: ModuleType = onnxruntime_genai
    return module


def _open_model(native: ModuleType, folder: Path, context: int, threads: int | None) -> Any:
    with _native_errors(folder, "load it"):
        config = native.Config(str(folder))
        overlay: dict[str, Any] = {"model": {"context_length": context}, "search": {"max_length": context}}
        if threads is not None:
            overlay["model"]["decoder"] = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps(overlay))
        return native.Model(config)


@contextmanager
def _native_errors(folder: Path, doing: str) -> Iterator[None]:
    """Turn what genai raises: RuntimeError, or what pybind11 makes of a C++ standard exception."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        raise BundleError(
            f"{folder}: onnxruntime-genai cannot {doing} ({' '.join(str(error).split())}), expected files that agree"
        ) from error
