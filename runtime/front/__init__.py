"""palmtop: mixture-of-LoRA multimodal language models on laptops and phones.

``palmtop.load(bundle)`` opens an exported bundle and returns a ``Session``. Importing this package loads nothing heavy;
onnxruntime and other native libraries are imported by the first call that needs them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palmtop.runtime.chat.conversation import Conversation as Conversation
    from palmtop.runtime.chat.reply import Piece as Piece
    from palmtop.runtime.chat.reply import Reply as Reply
    from palmtop.runtime.chat.reply import ToolCall as ToolCall
    from palmtop.runtime.chat.reply import Usage as Usage
    from palmtop.runtime.chat.stream import Answer as Answer
    from palmtop.runtime.decoding.generation_options import GenerationOptions as GenerationOptions
    from palmtop.runtime.decoding.grammar import Grammar as Grammar
    from palmtop.runtime.session import Session as Session

__version__ = "0.1.0"

_HOMES = {
    "Answer": "palmtop.runtime.chat.stream",
    "Conversation": "palmtop.runtime.chat.conversation",
    "GenerationOptions": "palmtop.runtime.decoding.generation_options",
    "Grammar": "palmtop.runtime.decoding.grammar",
    "Piece": "palmtop.runtime.chat.reply",
    "Reply": "palmtop.runtime.chat.reply",
    "Session": "palmtop.runtime.session",
    "ToolCall": "palmtop.runtime.chat.reply",
    "Usage": "palmtop.runtime.chat.reply",
}


def load(
    path: str | os.PathLike[str],
    *,
    context: int | None = None,
    threads: int | None = None,
    media_rows: int | None = None,
    keep_encoders: bool = False,
    memory_limit: int | None = None,
    provider: str | Mapping[str, str] = "cpu",
    fallback: bool = False,
    recompile: bool = False,
    prefill_chunk: int | None = None,
    engine: str = "genai",
) -> Session:
    """Open a bundle and load it as a session.

    Args:
        path: bundle folder written by ``palmtop export``.
        context: tokens of a conversation; None takes the bundle's context, or the longest that fits.
        threads: threads of the native libraries; None for their default.
        media_rows: most rows of image and sound features of a conversation; None for as many as the context.
        keep_encoders: keep vision and audio encoders loaded after use: faster, but needs more memory.
        memory_limit: most bytes of the session; None for the machine's available memory.
        provider: "cpu", "openvino", "qnn", or a mapping of "vision", "audio" and "decoder" to one of them; parts that
            are left out run on the CPU. A decoder on another provider, and any part on qnn, needs a bundle with graphs
            for it (``export --target``).
        fallback: whether operators that a provider does not support may run on the CPU; they are reported.
        recompile: whether graphs that another version compiled are compiled again on this machine.
        prefill_chunk: prompt tokens read at a time; with smaller chunks cancelling, timeouts and other threads act
            sooner; None chooses 8 to 128 by the measured time of the steps before, less than a second each.
        engine: "genai" (onnxruntime-genai) or "onnxruntime" (palmtop's own loop over onnxruntime, with the same logits)
            for a decoder on the CPU; a session changes to the second when it first restores or forks a conversation.

    Raises:
        BundleError: the bundle is missing or damaged; the message names file, found and expected.
        MemoryPlanError: the session does not fit; the message has the numbers and the largest context that fits.
        InputError: an option is out of its range.
        RuntimeMissingError: a provider's plugin is not installed, or has no device on this machine.

    >>> with palmtop.load("phi4mm-int4") as session:  # doctest: +SKIP
    ...     print(session.answer([{"role": "user", "content": "Hello"}]).text)
    """
    from palmtop.runtime.session import load_session
    from palmtop.runtime.session_options import SessionOptions

    options = SessionOptions(
        context=context,
        threads=threads,
        media_rows=media_rows,
        keep_encoders=keep_encoders,
        memory_limit=memory_limit,
        provider=provider,
        fallback=fallback,
        recompile=recompile,
        prefill_chunk=prefill_chunk,
        engine=engine,
    )
    return load_session(path, options)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'palmtop' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
