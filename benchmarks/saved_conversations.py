"""How much sooner a saved conversation continues than one that is read again, and a request that shares its beginning.

    python -m benchmarks.make_checkpoint --layers 8 -o checkpoint-8
    palmtop export checkpoint-8 -o bundle-8 --no-verify --quality fast
    python -m benchmarks.saved_conversations bundle-8 [--tokens 2000] [--shared 1500] [--rounds 2]

In each round a dialogue of one picture, one sound and text is read in a session that was loaded for it, answered and
saved; then a second session is loaded, with the same defaults, and restores it as the first thing that it does. Both
give their next answers, which have to be equal, as have their log-probabilities, to the bit. Printed: seconds by the
clock and of the processor, each contender's least of all rounds, with loading and without it. The second part asks two
requests that share their first tokens.
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

FIRST = GenerationOptions(max_tokens=1)
WORDS = "one two three four five six seven eight nine ten "
Times = dict[str, dict[str, float]]
"""Seconds by what was done, by the clock and of the processor."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--shared", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    load = {"context": given.tokens + 512}
    found: dict[str, Any] = {}
    rounds: list[Times] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            times: Times = {}
            _round(given.bundle, load, given.tokens, Path(folder) / "saved", times, found)
            rounds.append(times)
            print(json.dumps(times), flush=True)
    for clock in ("clock_s", "processor_s"):
        least = {what: min(times[what][clock] for times in rounds) for what in rounds[0]}
        reading, restoring = (least["load"] + least[what] for what in ("read", "restore"))
        found[clock] = {
            **least,
            "read_of_restore": least["read"] / least["restore"],
            "with_loading": {"read": reading, "restore": restoring, "read_of_restore": reading / restoring},
        }
    with palmtop.load(given.bundle, **load) as session:
        found["shared_beginning"] = _shared(session, given.shared)
    print(json.dumps(found, indent=1))


def _round(bundle: str, load: dict[str, int], tokens: int, path: Path, times: Times, found: dict[str, Any]) -> None:
    with palmtop.load(bundle, **load) as session:
        content = _content(session, tokens)
        conversation = session.conversation()
        usage = _timed(times, "read", lambda: conversation.chat(content, options=FIRST).result().usage)
        size = _timed(times, "save", lambda: conversation.save(path))
        expected = _next(conversation)
    with _timed(times, "load", lambda: palmtop.load(bundle, **load)) as later:
        restored = _timed(times, "restore", lambda: later.restore(path))
        again = _next(restored)
    assert again == expected, "the next answer differs from the uninterrupted conversation's"
    found.update(
        prompt_tokens=usage.prompt_tokens,
        media_rows=usage.media_rows,
        file_bytes=size,
        next_answer_cached_tokens=again[1],
        next_answer_is_equal=True,
    )


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


def _timed(times: Times, what: str, work: Callable[[], Any]) -> Any:
    started, processor = perf_counter(), process_time()
    result = work()
    times[what] = {"clock_s": perf_counter() - started, "processor_s": process_time() - processor}
    return result


if __name__ == "__main__":
    main()
