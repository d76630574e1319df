"""How a bundle is loaded. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from .manifest import Manifest
from .memory import ENCODER_PARTS
from .option_checks import check_whole, wrong
from .placement import CPU, Provider, placement

LARGEST_CHUNK, SMALLEST_CHUNK = 128, 16
"""Tokens of a prompt read at a time. genai holds Python's lock meanwhile: cancelling, timeouts and other threads
wait for the end of a chunk (``benchmarks/event_loop.py``). INT4 kernels take as long per token from 8 tokens
on (measured on 3072 x 8192 at accuracy level 4: 0.76 ms at 8, 0.73 at 16, 0.72 at 128, 0.70 at 256)."""
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
            ("threads", 1),
            ("memory_limit", 0),
            ("prefill_chunk", 1),
        ):
            check_whole(name, getattr(self, name), least, optional=True)
        placement(self.provider)
        for name in ("keep_encoders", "fallback", "recompile"):
            if not isinstance(getattr(self, name), bool):
                raise wrong(name, getattr(self, name), "True or False")


def chunk_for(manifest: Manifest) -> int:
    """Tokens to read at a time, so that a chunk takes about a second at most: a power of two, 16 to 128."""
    weights = sum(part.parameters for part in manifest.parts if not part.name.startswith(ENCODER_PARTS))
    fits = CHUNK_MULTIPLICATIONS / max(1, weights)
    chunk = LARGEST_CHUNK
    while chunk > max(fits, SMALLEST_CHUNK):
        chunk //= 2
    return chunk
