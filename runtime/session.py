"""A loaded bundle that answers questions. The only file that imports onnxruntime_genai.

A ``Session`` owns one native model; every ``Conversation`` made from it owns a decoder with its KV cache. A model of
genai's is replaced by onnxruntime's own when a conversation is first restored or forked, which genai cannot do.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Unpack
from weakref import WeakSet

from palmtop.errors import InputError, MemoryPlanError, RuntimeMissingError
from palmtop.packages import install_command
from palmtop.runtime.bundle.genai_config import GENAI_CONFIG_FILE, check_genai_config
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.native_files import WEIGHTS_FOLDER, genai_source
from palmtop.runtime.bundle.opening import Bundle, open_bundle
from palmtop.runtime.chat.conversation import DEFAULTS, Conversation
from palmtop.runtime.chat.forms.call_options import ChatOptions
from palmtop.runtime.chat.forms.message_forms import Asked, as_messages
from palmtop.runtime.chat.forms.other_names import no_attribute
from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.chat.routing import Wanted
from palmtop.runtime.chat.saved_conversation import Binding, ConversationState, open_conversation
from palmtop.runtime.chat.stream import Answer
from palmtop.runtime.chat.tools import Tool
from palmtop.runtime.decoding.cached_sequence import CachedSequence
from palmtop.runtime.decoding.genai_decoder import GenaiDecoder, decoder_inputs, native_errors
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.guided_decoding import GuidedDecoders
from palmtop.runtime.decoding.loop_decoder import LoopDecoder, open_decoder_session, runtime_version
from palmtop.runtime.media.conversation_media import FeatureSource, MediaReader
from palmtop.runtime.media.encoder_runner import Encoders, open_session
from palmtop.runtime.memory.machine import available_memory
from palmtop.runtime.memory.mapped_pages import release_mapped_pages
from palmtop.runtime.memory.plan import (
    check_encoder,
    megabytes,
)
from palmtop.runtime.providers.assignment import CPU, OPENVINO, QNN, placement
from palmtop.runtime.providers.openvino import open_on_openvino, openvino_decoder, openvino_device
from palmtop.runtime.providers.placed import PlacedBundle
from palmtop.runtime.providers.static_decoder import StaticDecoder
from palmtop.runtime.providers.static_sessions import StaticSessions

from .processor import Processor
from .session_options import SessionOptions as SessionOptions
from .session_options import chunk_for
from .session_plan import plan_session

logger = logging.getLogger(__name__)


class Session:
    """A loaded bundle, made by ``palmtop.load``; close it, or use it in a ``with`` statement."""

    def __init__(
        self,
        bundle: Bundle,
        options: SessionOptions,
        *,
        encoders: FeatureSource | None = None,
        static: StaticSessions | None = None,
        placed: PlacedBundle | None = None,
        fell_back: dict[str, list[str]] | None = None,
    ) -> None:
        self.fell_back: dict[str, list[str]] = {} if fell_back is None else fell_back
        """By file, nodes that run on the CPU though a provider was asked for; filled as graphs are opened."""
        self.bundle = bundle
        self.manifest: Manifest = bundle.manifest
        self._static = static
        self.plan = plan_session(self.manifest, options, static)
        self._options = options
        self._processor = Processor(self.manifest.processor, bundle.path)
        self._encoders: FeatureSource = encoders or _encoders(bundle, options, self._check_encoder, self.fell_back)
        self.placed = placed
        if placed is not None:
            self._encoders = placed.encoders(self._encoders, keep=options.keep_encoders)
        self._guides = GuidedDecoders(
            bundle.file("tokenizer.json"), self.manifest.decoder.vocab_size, self.manifest.processor.text.eos_ids
        )
        self._model: Any = static  # None once the session is closed
        self._loop = False
        self._engine = threading.Lock()
        if static is None:
            check_genai_config(bundle)
            self._load(loop=options.engine != "genai")
            bits, size = self.manifest.decoder.kv_bits, megabytes(self.plan.kv_cache)
            logger.info("%s: KV cache of %d bits, %s for %d tokens", self.manifest.model, bits, size, self.plan.context)
        self._chunk = options.prefill_chunk or (chunk_for(self.manifest) if static is None else static.spec.chunk)
        self._default: Conversation | None = None
        self._decoders: WeakSet[GenaiDecoder | LoopDecoder | StaticDecoder] = WeakSet()
        self._conversations: WeakSet[Conversation] = WeakSet()
        states = self.manifest.decoder.states
        self.states = states if static is None else tuple(replace(state, dtype="float32") for state in states)

    @property
    def context(self) -> int:
        """Tokens that a conversation may hold."""
        return min(self.plan.context, self._options.context or self.plan.context)

    def conversation(self, *, system: str | None = None, tools: Sequence[Tool] = ()) -> Conversation:
        """Start a dialogue with a KV cache of its own, allocated at the first turn.

        Args:
            system: text of the system message.
            tools: functions that the model may call: {"name", "description", "parameters": JSON schema}.

        Raises:
            InputError: a tool has another shape, or the bundle's chat template has no place for tools.
        """
        track = CachedSequence(
            self._open_decoder,
            context=self.context,
            original_context=self.manifest.decoder.original_context,
            chunk=self._chunk,
            draft_rows=self.manifest.decoder.draft_rows if self._static is None else 1,
        )
        media = MediaReader(self._processor, self._encoders)
        text, guides = self._processor.text, self._guides
        made = Conversation(self.manifest, track, text, media, guides, system=system, tools=tools, home=self)
        self._conversations.add(made)
        return made

    def restore(self, path: str | os.PathLike[str]) -> Conversation:
        """Continue a conversation that ``Conversation.save`` wrote; its images and sounds are in the file.

        Nothing is read or encoded again, and the next answer is the one that the saved conversation would have given.

        Args:
            path: the file. It belongs to this bundle, as it was, and to this version of onnxruntime.

        Raises:
            InputError: the file is missing, foreign, damaged, cut, of another version, or too long for this session; or
                an answer of this session is being given.
            MemoryPlanError: another KV cache does not fit into memory.
        """
        with open_conversation(path, self.binding(), self.manifest, self.states, self.context) as state:
            self.own_loop()
            return self.resumed(state)

    def resumed(self, state: ConversationState) -> Conversation:
        """Return a conversation of its own that continues a state; used by the session."""
        made = self.conversation()
        made.resume(state)
        return made

    def binding(self) -> Binding:
        """Return what the numbers of this session's conversations depend on."""
        where = CPU if self._static is None else f"{placement(self._options.provider).decoder}, graphs of fixed shapes"
        return Binding.of(self.manifest, where, f"onnxruntime {runtime_version()}")

    def own_loop(self) -> None:
        """Make the decoders take states: replace genai by palmtop's own loop. Open conversations keep their caches.

        Raises:
            InputError: an answer of this session is being given.
        """
        with self._engine, ExitStack() as stack:
            if self._loop or self._static is not None or self._model is None:
                return
            open_ones = list(self._conversations)
            for one in open_ones:
                one.check_between_turns()  # before any cache is taken apart
            for one in open_ones:
                stack.enter_context(one.parked(self.states))
            self._model = None  # frees the weights before they are loaded again
            try:
                self._load(loop=True)
            except BaseException:
                self._load(loop=False)
                raise

    def chat(
        self,
        messages: Asked,
        *,
        image: Any = None,
        audio: Any = None,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        adapters: Wanted = None,
        options: GenerationOptions = DEFAULTS,
        **keywords: Unpack[ChatOptions],
    ) -> Answer:
        """Stream the answer to a text or to a list of messages (OpenAI / Hugging Face content parts).

        Each call stands alone: earlier answers are part of a dialogue only if the messages hold them; ``conversation``
        keeps them by itself. Tokens that the messages share with those of the previous call are not read again.

        Args:
            messages: text, or the whole dialogue. A last message of the assistant is the beginning of the answer,
                which continues it.
            image: picture or list of pictures for the last message: a path, bytes, pixels or a picture of Pillow.
            audio: sound or list of sounds for it: a path, bytes, (samples, rate in Hz) or {"array", "sampling_rate"}.
            system: text of the system message.
            tools: functions that the model may call: {"name", "description", "parameters": JSON schema}.
            adapters: weights by name, a route's name, or both (``routing``); an empty mapping for none.
            options: length, sampling, stop strings, grammar, time limit.
            **keywords: fields of ``options`` by name, such as ``max_tokens=100`` or ``temperature=0.7``.

        Returns:
            an iterator of pieces of text, for ``for`` or ``async for``; its ``text`` is the whole text, ``result()``
            and ``await`` return the complete reply.

        Raises:
            InputError: an option, or during iteration a message, a medium or an adapter is not usable.

        >>> print(session.chat("What is this?", image="cat.jpg").text)  # doctest: +SKIP
        """
        if self._default is None:
            self._default = self.conversation()
        asked = as_messages(messages, system=system, image=image, audio=audio)
        return self._default.respond(asked, adapters=adapters, options=options, tools=tools, **keywords)

    def answer(self, messages: Asked, **given: Any) -> Reply:
        """Return the complete answer; arguments and errors as for ``chat``."""
        return self.chat(messages, **given).result()

    def count_tokens(self, messages: Asked) -> int:
        """Count the tokens of a prompt with its media, and encode nothing; arguments and errors as for ``chat``."""
        return self.conversation().count_tokens(messages)

    def cancel(self) -> None:
        """Stop the answer that ``chat`` or ``answer`` is giving; from any thread."""
        if self._default is not None:
            self._default.cancel()

    def close(self) -> None:
        """Free the native model; conversations of this session cannot be used any more."""
        self._default = None
        for decoder in list(self._decoders):
            decoder.close()
        self._decoders.clear()
        self._encoders.close()
        if self._static is not None:
            self._static.close()
        self._model = None

    def _load(self, *, loop: bool) -> None:
        """Load the decoder's graph, in onnxruntime itself or in genai."""
        bundle, threads = self.bundle, self._options.threads
        if loop:
            self._model = open_decoder_session(bundle, threads)
        else:
            self._model = _open_model(import_genai(), bundle, self.plan.context, threads)
        self._loop = loop
        release_mapped_pages(bundle.path, bundle.manifest.files)

    def __getattr__(self, name: str) -> Any:
        raise no_attribute(name)

    def _open_decoder(self) -> GenaiDecoder | LoopDecoder | StaticDecoder:
        if self._model is None:
            raise InputError(f"{self.bundle.path}: the session is closed, expected an open one")
        self._check_room()
        inputs = decoder_inputs(self.manifest, self.plan)
        decoder: GenaiDecoder | LoopDecoder | StaticDecoder
        if self._static is not None:
            decoder = self._static.decoder(self.manifest, inputs)
        elif self._loop:
            decoder = LoopDecoder(self._model, inputs, self.context, self.bundle)
        else:
            decoder = GenaiDecoder(import_genai(), self._model, inputs, self.context, self.bundle)
        self._decoders.add(decoder)
        return decoder

    def _check_room(self) -> None:
        """Refuse a conversation whose cache does not fit into memory."""
        available = available_memory()
        if self._options.memory_limit is not None:
            more = len(self._decoders) - self.plan.conversations
            left = self._options.memory_limit - self.plan.total - more * self.plan.conversation
            available = left if available is None else min(left, available)
        if available is not None and self.plan.conversation > available:
            raise MemoryPlanError(
                f"another conversation of {self.context} tokens needs "
                f"{megabytes(self.plan.conversation)}, there are {megabytes(max(0, available))}; "
                f"close one of the {len(self._decoders)} that are open"
            )

    def _check_encoder(self) -> None:
        """Refuse an encoder that does not fit beside the decoder, before it is loaded."""
        available = available_memory()
        if self._options.memory_limit is not None:
            others = max(0, len(self._decoders) - self.plan.conversations) * self.plan.conversation
            left = self._options.memory_limit - self.plan.talking - others
            available = left if available is None else min(left, available)
        check_encoder(self.plan, available)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_session(path: str | os.PathLike[str], options: SessionOptions) -> Session:
    """Open a bundle, check it, plan its memory and load it.

    Raises:
        BundleError: the bundle is damaged, the engine cannot load it, or its graphs do not fit the provider here.
        InputError: the bundle has no graphs for a provider that needs them.
        MemoryPlanError: the session does not fit into memory.
        RuntimeMissingError: the engine, or a provider's plugin, is not installed.
    """
    bundle = open_bundle(path)
    where = placement(options.provider)
    placed, static = None, None
    fell_back: dict[str, list[str]] = {}
    if parts := where.parts_on(QNN):
        placed = PlacedBundle(bundle, QNN, parts, options.fallback, options.recompile, options.threads, fell_back)
        placed.check()
        static = placed.static()
    if where.parts_on(OPENVINO) and where.decoder not in (CPU, QNN):
        static = openvino_decoder(bundle, where.decoder, options.threads, fell_back, fallback=options.fallback)
    for provider in {where.vision, where.audio} - {CPU, QNN}:
        openvino_device(provider)  # what is missing is said now, not at the first picture
    return Session(bundle, options, static=static, placed=placed, fell_back=fell_back)


def _encoders(
    bundle: Bundle, options: SessionOptions, check_room: Callable[[], None], fell_back: dict[str, list[str]]
) -> Encoders:
    manifest, where = bundle.manifest, placement(options.provider)
    vision, audio = manifest.vision, manifest.audio

    def open_encoder(kind: str, path: Path) -> Any:
        provider = where.vision if kind == "image" else where.audio
        return (
            open_session(path, options.threads)
            if provider in (CPU, QNN)  # a part on qnn has graphs of its own, and does not come here
            else open_on_openvino(path, provider, options.threads, fell_back, fallback=options.fallback)
        )

    return Encoders(
        bundle.file(vision.file) if vision else None,
        bundle.file(audio.file) if audio else None,
        manifest.processor,
        tile_bytes=vision.bytes_per_item if vision else 0,
        threads=options.threads,
        keep=options.keep_encoders,
        check_room=check_room,
        open_encoder=open_encoder,
    )


def import_genai() -> ModuleType:
    """Import the native library with its telemetry switched off.

    Raises:
        RuntimeMissingError: the library cannot be imported.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded
    try:
        import onnxruntime_genai
    except ImportError as error:
        raise RuntimeMissingError(
            f"onnxruntime-genai cannot be imported ({error}); {install_command(only='onnxruntime-genai')}"
        ) from error
    if hasattr(onnxruntime_genai, "disable_telemetry_events"):
        onnxruntime_genai.disable_telemetry_events()
    module: ModuleType = onnxruntime_genai
    return module


def _open_model(native: ModuleType, bundle: Bundle, context: int, threads: int | None) -> Any:
    decoder = bundle.manifest.decoder.file
    with native_errors(bundle.path, "load it"), genai_source(bundle.path, decoder, GENAI_CONFIG_FILE) as source:
        config = native.Config(source.folder)
        # A memory pattern is kept for each pair of chunk length and context length, for the life of the session.
        options: dict[str, Any] = {"enable_mem_pattern": False}
        if threads is not None:
            options["intra_op_num_threads"] = threads
        if source.graph is not None:
            config.add_model_data(decoder, source.graph)
            options[WEIGHTS_FOLDER] = source.weights_folder
        overlay: dict[str, Any] = {
            "model": {"context_length": context, "decoder": {"session_options": options}},
            "search": {"max_length": context},
        }
        config.overlay(json.dumps(overlay))
        return native.Model(config)
