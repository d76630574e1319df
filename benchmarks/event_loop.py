"""How long an event loop is blocked while an answer is awaited, by the size of a prompt's chunks.

    python -m benchmarks.event_loop BUNDLE [--tokens 2048] [--chunks 16 32 64 128 256] [--engine genai]

genai holds Python's lock while it reads a chunk or samples a token, so a longer chunk blocks longer; a shorter
one may read more slowly. Printed for each size: tokens read per second, the longest and the median gap between
two turns of a loop that wants one every millisecond, and the processor time of a chunk, over all threads, which other
work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from statistics import median
from time import perf_counter, process_time
from typing import Any

import palmtop
from palmtop.runtime.decoding.generation_options import GenerationOptions

OPTIONS = GenerationOptions(max_tokens=2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--chunks", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--engine", default="onnxruntime")
    arguments = parser.parse_args()
    print(json.dumps([_measure(arguments, chunk) for chunk in arguments.chunks], indent=1))


def _measure(arguments: argparse.Namespace, chunk: int) -> dict[str, Any]:
    context = arguments.tokens + 64
    load = {"context": context, "threads": arguments.threads, "engine": arguments.engine}
    with palmtop.load(arguments.bundle, prefill_chunk=chunk, **load) as session:
        text = "one two " * arguments.tokens
        while (tokens := session.count_tokens([{"role": "user", "content": text}])) > arguments.tokens:
            text = text[: len(text) * arguments.tokens // tokens]
        session.answer([{"role": "user", "content": "warm up"}], options=OPTIONS)
        gaps: list[float] = []
        started = process_time()
        usage = asyncio.run(_ask(session, text, gaps))
        processor_s = process_time() - started
    return {
        "chunk": chunk,
        "read_tokens": usage.prompt_tokens - usage.cached_tokens,
        "read_tokens_per_s": (usage.prompt_tokens - usage.cached_tokens) / usage.ttft_s,
        "processor_ms_per_chunk": 1000 * processor_s / (usage.prompt_tokens / chunk),
        "longest_gap_ms": 1000 * max(gaps),
        "median_gap_ms": 1000 * median(gaps),
    }


async def _ask(session: Any, text: str, gaps: list[float]) -> Any:
    async def tick() -> None:
        before = perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = perf_counter()
            gaps.append(now - before)
            before = now

    ticking = asyncio.create_task(tick())
    answer = session.chat([{"role": "user", "content": text}], options=OPTIONS)
    async for _ in answer:
        pass
    ticking.cancel()
    return answer.reply.usage


if __name__ == "__main__":
    main()
