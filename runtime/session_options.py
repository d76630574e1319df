"""How a bundle is loaded. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.option_checks import check_threads, check_whole, wrong
from palmtop.runtime.memory.plan import ENCODER_PARTS
from palmtop.runtime.providers.assignment import CPU, Provider, placement

LARGEST_CHUNK, SMALLEST_CHUNK = 128, 8
"""Tokens of a prompt read at a time. genai holds Python's lock meanwhile: cancelling, timeouts and other threads
wait for the end of a chunk. INT4 kernels take as long per token from 8 tokens on: the whole 5.6 B model 139 ms of
processor time at 8, 134 at 16, 136 at 64 (docs/event-loop.md); 4 tokens take a third more each."""
CHUNK_MULTIPLICATIONS = 64e9
"""About a second of two x86 cores with AVX2 (35e9 a second each, measured as above)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a bundle is loaded.

    Attributes:
        context: tokens a conversation may hold; None takes what the bundle serves, or what fits into memory.
        media_rows: rows of image and sound features a conversation may hold; None for as many as the context.
        threads: of the native libraries; None leaves it to them.
        keep_encoders: keep vision and audio encoders loaded after use.
        memory_limit: bytes the session may take; None for what the machine has.
        provider: that runs the bundle, or a mapping of "vision", "audio" and "decoder" to providers: "cpu",
            "openvino", "qnn".
        fallback: operators that a provider does not take may run on the CPU; they are reported.
        recompile: compile the bundle's graphs for a provider here, where another version compiled them.
        prefill_chunk: tokens read at a time; cancelling acts between two chunks, and other threads of the
            process wait for the end of one. None chooses by the size of the model (``chunk_for``).

    Raises:
        InputError: a value is of the wrong type or out of its range.
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

    def __post_init__(self) -> None:
        for name, least in (
            ("context", 1),
            ("media_rows", 1),
            ("memory_limit", 0),
            ("prefill_chunk", 1),
        ):
            check_whole(name, getattr(self, name), least, optional=True)
        check_threads(self.threads)
        placement(self.provider)
        for name in ("keep_encoders", "fallback", "recompile"):
            if not isinstance(getattr(self, name), bool):
                raise wrong(name, getattr(self, name), "True or False")


def chunk_for(manifest: Manifest) -> int:
    """Tokens to read at a time, so that a chunk takes about a second at most: a power of two, 8 to 128.

    More than ``draft_rows``, or the head would run on every position of a prompt.
    """
    weights = sum(part.parameters for part in manifest.parts if not part.name.startswith(ENCODER_PARTS))
    fits = CHUNK_MULTIPLICATIONS / max(1, weights)
    chunk = LARGEST_CHUNK
    while chunk > max(fits, SMALLEST_CHUNK) and chunk // 2 > manifest.decoder.draft_rows:
        chunk //= 2
    return chunk
