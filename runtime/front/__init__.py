"""palmtop: mixture-of-LoRA multimodal language models on laptops and phones.

``palmtop.load(bundle)`` opens an exported bundle and returns a ``Session``. Importing this package loads nothing heavy;
onnxruntime and other native libraries are imported by the first call that needs them.
"""

from __future__ import annotations

import os as _os
from collections.abc import Mapping as _Mapping
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from palmtop.errors import BundleError as BundleError
    from palmtop.errors import BundleVersionError as BundleVersionError
    from palmtop.errors import CheckpointError as CheckpointError
    from palmtop.errors import InputError as InputError
    from palmtop.errors import ManifestError as ManifestError
    from palmtop.errors import MemoryPlanError as MemoryPlanError
    from palmtop.errors import OptionError as OptionError
    from palmtop.errors import PalmtopError as PalmtopError
    from palmtop.errors import PromptTooLongError as PromptTooLongError
    from palmtop.errors import QuantizeError as QuantizeError
    from palmtop.errors import RuntimeMissingError as RuntimeMissingError
    from palmtop.errors import UnsupportedModelError as UnsupportedModelError
    from palmtop.runtime.chat.conversation import Conversation as Conversation
    from palmtop.runtime.chat.reply import Piece as Piece
    from palmtop.runtime.chat.reply import Reply as Reply
    from palmtop.runtime.chat.reply import TokenLogprob as TokenLogprob
    from palmtop.runtime.chat.reply import ToolCall as ToolCall
    from palmtop.runtime.chat.reply import Usage as Usage
    from palmtop.runtime.chat.routing import AdapterRequest as AdapterRequest
    from palmtop.runtime.chat.stream import Answer as Answer
    from palmtop.runtime.decoding.generation_options import GenerationOptions as GenerationOptions
    from palmtop.runtime.decoding.grammar import Grammar as Grammar
    from palmtop.runtime.session import Session as Session
    from palmtop.runtime.transcribe import Segment as Segment
    from palmtop.runtime.transcribe import transcribe as transcribe

__version__ = "0.1.0"

_HOMES = {
    "AdapterRequest": "palmtop.runtime.chat.routing",
    "Answer": "palmtop.runtime.chat.stream",
    "BundleError": "palmtop.errors",
    "BundleVersionError": "palmtop.errors",
    "CheckpointError": "palmtop.errors",
    "Conversation": "palmtop.runtime.chat.conversation",
    "GenerationOptions": "palmtop.runtime.decoding.generation_options",
    "Grammar": "palmtop.runtime.decoding.grammar",
    "InputError": "palmtop.errors",
    "ManifestError": "palmtop.errors",
    "MemoryPlanError": "palmtop.errors",
    "OptionError": "palmtop.errors",
    "PalmtopError": "palmtop.errors",
    "Piece": "palmtop.runtime.chat.reply",
    "PromptTooLongError": "palmtop.errors",
    "QuantizeError": "palmtop.errors",
    "Reply": "palmtop.runtime.chat.reply",
    "RuntimeMissingError": "palmtop.errors",
    "Segment": "palmtop.runtime.transcribe",
    "Session": "palmtop.runtime.session",
    "TokenLogprob": "palmtop.runtime.chat.reply",
    "ToolCall": "palmtop.runtime.chat.reply",
    "UnsupportedModelError": "palmtop.errors",
    "Usage": "palmtop.runtime.chat.reply",
    "transcribe": "palmtop.runtime.transcribe",
}
__all__ = [
    "AdapterRequest",
    "Answer",
    "BundleError",
    "BundleVersionError",
    "CheckpointError",
    "Conversation",
    "GenerationOptions",
    "Grammar",
    "InputError",
    "ManifestError",
    "MemoryPlanError",
    "OptionError",
    "PalmtopError",
    "Piece",
    "PromptTooLongError",
    "QuantizeError",
    "Reply",
    "RuntimeMissingError",
    "Segment",
    "Session",
    "TokenLogprob",
    "ToolCall",
    "UnsupportedModelError",
    "Usage",
    "load",
    "transcribe",
]
_INSTEAD = {  # names of other libraries
    **dict.fromkeys(("generate", "stream_generate", "pipeline", "chat"), 'palmtop.load("BUNDLE").chat("...")'),
    **dict.fromkeys(("Client", "OpenAI", "Llama", "LLM", "Model", "from_pretrained"), 'palmtop.load("BUNDLE")'),
    **dict.fromkeys(("AutoModelForCausalLM", "AutoProcessor", "AutoTokenizer"), 'palmtop.load("BUNDLE")'),
    **dict.fromkeys(("GenerationConfig", "SamplingParams"), "palmtop.GenerationOptions"),
}
_LOAD_INSTEAD = {
    **dict.fromkeys(("n_ctx", "max_model_len", "max_seq_len", "context_length", "max_context"), "context=TOKENS"),
    **dict.fromkeys(("n_threads", "num_threads", "intra_op_num_threads"), "threads=NUMBER"),
    **dict.fromkeys(("device", "device_map", "providers", "execution_provider"), 'provider="cpu", "openvino" or "qnn"'),
    **dict.fromkeys(("max_memory", "memory"), "memory_limit=BYTES"),
    **dict.fromkeys(("adapter", "adapter_path", "adapters"), 'chat(..., adapters={"NAME": 1.0})'),
    **dict.fromkeys(("temperature", "max_tokens", "top_p", "seed"), "it as a keyword of chat"),
    **dict.fromkeys(
        ("dtype", "torch_dtype", "load_in_4bit", "load_in_8bit", "quantization_config", "quantization"),
        "the bits of an export: palmtop export CHECKPOINT -o BUNDLE --bits 4",
    ),
}


def load(
    path: str | _os.PathLike[str],
    *,
    context: int | None = None,
    threads: int | None = None,
    media_rows: int | None = None,
    keep_encoders: bool = False,
    memory_limit: int | None = None,
    provider: str | _Mapping[str, str] = "cpu",
    fallback: bool = False,
    recompile: bool = False,
    prefill_chunk: int | None = None,
    conversations: int = 1,
    engine: str = "onnxruntime",
    **unknown: _Any,
) -> Session:
    """Open a bundle and load it as a session.

    Args:
        path: bundle folder written by ``palmtop export``, or a model (a GGUF file or a checkpoint folder), which is
            exported into the user's cache on first use as ``palmtop run`` does.
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
        conversations: conversations that answer at the same time, each in a thread of its own; the context is chosen
            so that their KV caches fit. More may be opened, memory permitting.
        engine: "onnxruntime" (palmtop's own loop over it) or "genai" (onnxruntime-genai, with the same logits) for a
            decoder on the CPU; a session of the second changes to the first, and loads its weights again, when it first
            restores or forks a conversation.
        **unknown: none; other libraries' keywords are refused with the one to use here.

    Raises:
        BundleError: the bundle is missing or damaged; the message names file, found and expected.
        MemoryPlanError: the session does not fit; the message has the numbers and the largest context that fits.
        InputError: an option is unknown or out of its range.
        RuntimeMissingError: a provider's plugin is not installed, or has no device on this machine.

    >>> with palmtop.load("phi4mm-int4") as session:  # doctest: +SKIP
    ...     print(session.chat("Hello").text)
    """
    from palmtop.runtime.session_options import SessionOptions

    for name, value in unknown.items():
        _refuse(name, value)
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
        conversations=conversations,
        engine=engine,
    )
    from pathlib import Path

    from palmtop.models import ready_bundle
    from palmtop.runtime.session import load_session

    return load_session(ready_bundle(Path(path)), options)


def _refuse(name: str, value: object) -> None:
    from dataclasses import fields

    from palmtop.errors import OptionError
    from palmtop.runtime.session_options import SessionOptions

    if name in _LOAD_INSTEAD:
        raise OptionError(name, f"found {value!r:.60}, expected {_LOAD_INSTEAD[name]}")
    raise OptionError(name, f"is unknown, expected one of {', '.join(field.name for field in fields(SessionOptions))}")


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        instead = f"; use {_INSTEAD[name]}" if name in _INSTEAD else ""
        raise AttributeError(f"module 'palmtop' has no attribute '{name}'{instead}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
