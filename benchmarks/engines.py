"""The same work by both engines of a session in turn: onnxruntime-genai, and palmtop's own loop over onnxruntime.

    python -m benchmarks.engines BUNDLE [--tokens 512] [--answer 64] [--rounds 5] [--threads 1]

Both sessions are open in one process. In each round both do every kind of work, first the one and then the other, the
order changing from round to round. Printed: seconds of the processor, over all threads, and by the clock, for each kind
of work the least of all rounds, and the loop's share of genai's. Token ids and log-probabilities of all answers have to
be equal to the bit.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from time import perf_counter, process_time, sleep
from typing import Any

import palmtop
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.grammar import Grammar
from palmtop.runtime.session import Session

ENGINES = ("genai", "onnxruntime")
SETTLE_S = 0.2  # threads of the engine that worked last spin for a while
SCHEMA = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]}
WORDS = "one two three four five six seven eight nine ten "


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    load = {"context": given.tokens + given.answer + 64, "threads": given.threads}
    loading, sessions = {}, {}
    for engine in ENGINES:
        loading[engine] = _timed(lambda engine=engine: palmtop.load(given.bundle, engine=engine, **load))
        sessions[engine] = loading[engine].pop("result")
    found: dict[str, Any] = {"load": loading}
    for name, text, options in _works(sessions["genai"], given.tokens, given.answer):
        found[name] = _compared(sessions, text, options, given.rounds)
        found[name]["of_genai"] = found[name]["onnxruntime"]["processor_s"] / found[name]["genai"]["processor_s"]
        print(json.dumps({name: found[name]}), flush=True)
    for session in sessions.values():
        session.close()
    print(json.dumps(found, indent=1))


def _works(session: Session, tokens: int, answer: int) -> list[tuple[str, str, GenerationOptions]]:
    few, many = (session.count_tokens(WORDS * n) for n in (1, 11))
    prompt = WORDS * max(1, round(tokens / ((many - few) / 10)))
    works = [
        ("prompt", prompt, GenerationOptions(max_tokens=1)),
        ("greedy answer", "Hello", GenerationOptions(max_tokens=answer, speculate=False)),
        (
            "sampled answer",
            "Hello",
            GenerationOptions(max_tokens=answer, temperature=1.0, top_p=0.95, seed=1, speculate=False, top_logprobs=2),
        ),
    ]
    if find_spec("llguidance") is not None:
        grammar = Grammar.json_schema(SCHEMA)
        works.append(("answer by a schema", "Hello", GenerationOptions(max_tokens=answer, seed=1, grammar=grammar)))
    if session.manifest.decoder.draft_rows > 1:
        works.append(("prompt lookup", WORDS * 4, GenerationOptions(max_tokens=answer, speculate=True)))
    return works


def _compared(sessions: dict[str, Session], text: str, options: GenerationOptions, rounds: int) -> dict[str, Any]:
    times: dict[str, list[dict[str, Any]]] = {engine: [] for engine in sessions}
    answers = []
    for number in range(rounds + 1):  # the first is not counted: vocabularies, grammars
        for engine in sorted(sessions, reverse=number % 2 == 0):
            with sessions[engine].conversation() as conversation:
                conversation.chat("Warm up", options=GenerationOptions(max_tokens=2)).result()
                conversation.reset()
                sleep(SETTLE_S)
                one = _timed(lambda asked=conversation: asked.chat(text, options=options).result())
                reply = one.pop("result")
            answers.append((reply.token_ids, reply.logprobs))
            if number:
                times[engine].append(one)
    assert all(answer == answers[0] for answer in answers), "the engines' answers differ"
    least = {engine: {key: min(one[key] for one in many) for key in many[0]} for engine, many in times.items()}
    return {"answer_tokens": len(answers[0][0]), **least}


def _timed(work: Any) -> dict[str, Any]:
    started, processor = perf_counter(), process_time()
    result = work()
    return {"result": result, "clock_s": perf_counter() - started, "processor_s": process_time() - processor}


if __name__ == "__main__":
    main()
