"""How a bundle is loaded. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from .option_checks import check_choice, check_whole, wrong

PREFILL_CHUNK = 128
"""Tokens of a prompt read at a time. genai holds Python's lock meanwhile: cancelling, timeouts and other
threads wait for the end of a chunk (``benchmarks/event_loop.py`` measures how long)."""
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
        prefill_chunk: tokens read at a time; cancelling acts between two chunks, and other threads of the
            process wait for the end of one.

    Raises:
        InputError: a value is of the wrong type or out of its range.
    """

    context: int | None = None
    media_rows: int | None = None
    threads: int | None = None
    keep_encoders: bool = False
    memory_limit: int | None = None
    provider: str = "cpu"
    prefill_chunk: int = PREFILL_CHUNK

    def __post_init__(self) -> None:
        for name, least in (("context", 1), ("media_rows", 1), ("threads", 1), ("memory_limit", 0)):
            check_whole(name, getattr(self, name), least, optional=True)
        check_whole("prefill_chunk", self.prefill_chunk, 1)
        check_choice("provider", self.provider, PROVIDERS)
        if not isinstance(self.keep_encoders, bool):
            raise wrong("keep_encoders", self.keep_encoders, "True or False")
