"""Options for loading a bundle. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.option_checks import check_threads, check_whole, wrong
from palmtop.runtime.memory.plan import ENCODER_PARTS
from palmtop.runtime.providers.assignment import CPU, Provider, placement

LARGEST_CHUNK, SMALLEST_CHUNK = 128, 8
"""Largest and smallest number of prompt tokens read at a time. genai holds Python's lock meanwhile: cancelling,
timeouts and other threads wait for the end of a chunk. INT4 kernels take as long per token from 8 tokens on: the whole
5.6 B model 139 ms of processor time at 8, 134 at 16, 136 at 64 (docs/event-loop.md); 4 tokens take a third more each.
"""
CHUNK_MULTIPLICATIONS = 64e9
"""Multiplications of a chunk: about a second of two x86 cores with AVX2 (35e9 a second each, measured as above)."""


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
            process wait for the end of one. None chooses by the size of the model (``chunk_for``).

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
    """Return the prompt tokens to read at a time, such that a chunk takes about a second: a power of two, 8 to 128.

    The result is larger than ``draft_rows``; otherwise the LM head would run on every position of a prompt.
    """
    weights = sum(part.parameters for part in manifest.parts if not part.name.startswith(ENCODER_PARTS))
    fits = CHUNK_MULTIPLICATIONS / max(1, weights)
    chunk = LARGEST_CHUNK
    while chunk > max(fits, SMALLEST_CHUNK) and chunk // 2 > manifest.decoder.draft_rows:
        chunk //= 2
    return chunk
