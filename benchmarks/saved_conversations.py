"""How much sooner a saved conversation continues than one that is read again, and a request that shares its beginning.

    python -m benchmarks.make_checkpoint --layers 8 -o checkpoint-8
    palmtop export checkpoint-8 -o bundle-8 --no-verify --quality fast
    python -m benchmarks.saved_conversations bundle-8 [--tokens 2000] [--shared 1500] [--threads 2]

A dialogue of one picture, one sound and text is read, answered and saved; then it is restored in a session that was
loaded for it, and both give their next answers, which have to be equal, as have their logits, to the bit. Printed:
seconds by the clock and of the processor. The second part asks two requests that share their first tokens.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

import palmtop
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.session import Session

ANSWER = GenerationOptions(max_tokens=8, temperature=1.0, seed=1)
FIRST = GenerationOptions(max_tokens=1)
WORDS = "one two three four five six seven eight nine ten "


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--shared", type=int, default=1500)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    load = {"context": arguments.tokens + 512, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder, palmtop.load(arguments.bundle, **load) as session:
        found = _saved(session, arguments.tokens, Path(folder) / "saved", arguments.bundle, load)
        found["shared_beginning"] = _shared(session, arguments.shared)
    print(json.dumps(found, indent=1))


def _saved(session: Session, tokens: int, path: Path, bundle: str, load: dict[str, Any]) -> dict[str, Any]:
    content = _content(session, tokens)
    conversation = session.conversation()
    read = _timed(lambda: conversation.chat(content, options=FIRST).result().usage)
    written = _timed(lambda: conversation.save(path))
    with palmtop.load(bundle, engine="onnxruntime", **load) as later:
        restored: dict[str, Any] = _timed(lambda: later.restore(path))
        again, expected = _next(restored["result"]), _next(conversation)
    assert again == expected, "the next answer differs from the uninterrupted conversation's"
    usage = read["result"]
    return {
        "prompt_tokens": usage.prompt_tokens,
        "media_rows": usage.media_rows,
        "read_s": read["seconds"],
        "read_processor_s": read["processor_s"],
        "save_s": written["seconds"],
        "file_bytes": written["result"],
        "restore_s": restored["seconds"],
        "restore_processor_s": restored["processor_s"],
        "ratio": read["seconds"] / restored["seconds"],
        "processor_ratio": read["processor_s"] / restored["processor_s"],
        "next_answer_cached_tokens": again[1],
        "next_answer_is_equal": True,
    }


def _shared(session: Session, tokens: int) -> dict[str, Any]:
    """The time to the first token of two requests, the second with the beginning of the first."""
    conversation = session.conversation()
    system = {"role": "system", "content": _text(session, tokens)}
    first, second = (
        conversation.respond([system, {"role": "user", "content": text}], options=FIRST).result().usage
        for text in ("What comes first?", "And what comes second?")
    )
    return {
        "prompt_tokens": second.prompt_tokens,
        "cached_tokens": second.cached_tokens,
        "first_ttft_s": first.ttft_s,
        "second_ttft_s": second.ttft_s,
        "ratio": first.ttft_s / second.ttft_s,
    }


def _next(conversation: Conversation) -> tuple[Any, ...]:
    """The next answer: its ids, the tokens that were cached, and the log-probabilities of its tokens."""
    reply = conversation.chat("And then?", options=GenerationOptions(max_tokens=8, top_logprobs=5)).result()
    return reply.token_ids, reply.usage.cached_tokens, reply.logprobs


def _content(session: Session, tokens: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (448, 448, 3), dtype=np.uint8)
    sound = (random.standard_normal(16_000 * 5, np.float32) * np.float32(0.1), 16_000)
    media = [{"type": "image", "image": picture}, {"type": "audio", "audio": sound}]
    taken = session.count_tokens([{"role": "user", "content": [*media, {"type": "text", "text": ""}]}])
    return [*media, {"type": "text", "text": _text(session, tokens - taken)}]


def _text(session: Session, tokens: int) -> str:
    few, many = (session.count_tokens([{"role": "user", "content": WORDS * n}]) for n in (1, 11))
    return WORDS * max(1, round(tokens / ((many - few) / 10)))


def _timed(work: Callable[[], Any]) -> dict[str, Any]:
    started, processor = perf_counter(), process_time()
    result = work()
    return {"result": result, "seconds": perf_counter() - started, "processor_s": process_time() - processor}


if __name__ == "__main__":
    main()
