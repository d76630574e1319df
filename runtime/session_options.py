"""Options for loading a bundle. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.option_checks import check_threads, check_whole, wrong
from palmtop.runtime.decoding.prefill import PrefillChunk
from palmtop.runtime.memory.plan import ENCODER_PARTS
from palmtop.runtime.providers.assignment import CPU, Provider, placement

LARGEST_CHUNK, SMALLEST_CHUNK = 128, 8
"""Largest and smallest number of prompt tokens read at a time. A token takes as long in 8 as in more with AVX2; with
AVX512-VNNI it gains up to 128; in steps of 4 it takes a third more (docs/event-loop.md).
"""
CHUNK_MULTIPLICATIONS = 80e9
"""Multiplications of the first chunk: a second of two x86 cores with AVX2."""
ENGINES = ("onnxruntime", "genai")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """Options for loading a bundle.

    Attributes:
        context: tokens of a conversation; None takes the bundle's context, or the longest that fits into memory.
        media_rows: most rows of image and sound features of a conversation; None for as many as the context.
        threads: threads of the native libraries; None for their default.
        keep_encoders: whether vision and audio encoders stay loaded after use.
        memory_limit: most bytes of the session; None for the machine's available memory.
        provider: provider of the bundle, or a mapping of "vision", "audio" and "decoder" to providers: "cpu",
            "openvino", "qnn".
        fallback: whether operators that a provider does not support may run on the CPU; they are reported.
        recompile: whether graphs that another version compiled are compiled again on this machine.
        prefill_chunk: prompt tokens read at a time; cancellation acts between two chunks, and other threads of the
            process wait for the end of one. None: 8 to 128, such that one takes less than a second (``chunk_for``).
        conversations: conversations that answer at the same time, each in a thread of its own; the context is chosen
            so that their KV caches fit. More may be opened, memory permitting.
        engine: library that runs the decoder on the CPU: "onnxruntime" (palmtop's own loop over it) or "genai"
            (onnxruntime-genai), with the same logits, bit for bit. genai takes no states back: a session that runs on
            it loads its weights again, for the loop, when a conversation is first restored or forked.

    Raises:
        InputError: a value has the wrong type or is out of its range.
    """

    context: int | None = None
    media_rows: int | None = None
    threads: int | None = None
    keep_encoders: bool = False
    memory_limit: int | None = None
    provider: Provider = CPU
    fallback: bool = False
    recompile: bool = False
    prefill_chunk: int | None = None
    conversations: int = 1
    engine: str = "onnxruntime"

    def __post_init__(self) -> None:
        for name, least in (
            ("context", 1),
            ("media_rows", 1),
            ("memory_limit", 0),
            ("prefill_chunk", 1),
        ):
            check_whole(name, getattr(self, name), least, optional=True)
        check_whole("conversations", self.conversations, 1)
        check_threads(self.threads)
        placement(self.provider)
        if self.engine not in ENGINES:
            raise wrong("engine", self.engine, " or ".join(ENGINES))
        for name in ("keep_encoders", "fallback", "recompile"):
            if not isinstance(getattr(self, name), bool):
                raise wrong(name, getattr(self, name), "True or False")


def chunk_for(manifest: Manifest) -> PrefillChunk:
    """Return the prompt tokens to read at a time: by the size of the model at first, by measured time then.

    Always more than ``draft_rows``; otherwise the LM head would run on every position of a prompt.
    """
    smallest = SMALLEST_CHUNK
    while smallest <= manifest.decoder.draft_rows:
        smallest *= 2
    weights = sum(part.parameters for part in manifest.parts if not part.name.startswith(ENCODER_PARTS))
    first = PrefillChunk(LARGEST_CHUNK, smallest=smallest, largest=LARGEST_CHUNK)
    first.note(LARGEST_CHUNK, LARGEST_CHUNK * weights / CHUNK_MULTIPLICATIONS)
    return first
