"""palmtop through its Session with its defaults: greedy, sampled, a picture and a sound where the bundle takes them."""

from __future__ import annotations

import time
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np
from protocol import Runtime, finish, measure, prompt, settings

import palmtop
from palmtop.runtime.decoding.cached_sequence import CachedSequence
from palmtop.runtime.decoding.decoder import TokenSequence
from palmtop.runtime.decoding.generate import TokenStream
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.session import Session

SECONDS, PIXELS = 60, 448


class Palmtop:
    """A session and one sequence of it: what a conversation runs, without its text."""

    def __init__(self, given: dict[str, Any], session: Session) -> None:
        self._track: CachedSequence = session.conversation()._track
        self._manifest = session.manifest
        self._gates = np.zeros(len(session.manifest.adapters), np.float32)
        self._count = given["answer"]
        self._stream: Any = None

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt (``Runtime``)."""
        self.read(ids)
        self._stream = iter(self.tokens(0.0))
        return int(next(self._stream))

    def step(self, token: int) -> int:
        """Read a token (``Runtime``)."""
        return int(next(self._stream))

    def read(self, ids: list[int]) -> None:
        """Read a prompt of ids, with every adapter off."""
        passage = TokenSequence(np.array(ids, np.int32), np.zeros(len(ids), np.int64), ())
        self._track.prefill(passage, self._gates, lambda: False)

    def tokens(self, temperature: float) -> TokenStream:
        """Stream an answer that no end token ends."""
        options = GenerationOptions(max_tokens=self._count + 1, temperature=temperature, seed=0)
        never = self._manifest.decoder.sampled_never
        return TokenStream(self._track, options, eos_ids=(), never=never, cancelled=lambda: False)


def main() -> None:
    """Measure."""
    given = settings()
    context = max(given["contexts"]) + given["answer"] + 8
    sessions: list[Session] = []

    def load() -> Runtime:
        sessions.append(palmtop.load(given["model"], context=context, threads=given["threads"]))
        return Palmtop(given, sessions[0])

    found = measure(load, given)
    with sessions[0] as session:
        runtime = Palmtop(given, session)
        runtime.read(prompt(given, given["contexts"][0], 2))
        times = []
        begun = time.perf_counter()
        for _ in runtime.tokens(1.0):
            now = time.perf_counter()
            times.append(1e3 * (now - begun))
            begun = now
        found |= {"sampled_decode_ms": median(times[1:]), "version": version("palmtop")}
        found |= media(session)
    finish(found)


def media(session: Session) -> dict[str, float]:
    """Seconds to encode a picture of one tile and a minute of sound, after one of each for warming up."""
    random = np.random.default_rng(0)
    cost = {}
    for _ in range(2):
        if "image" in session.manifest.modes:
            pixels = random.integers(0, 256, (PIXELS, PIXELS, 3), np.uint8)
            cost["picture_s"] = encoded(session, {"type": "image", "image": pixels})
        if "audio" in session.manifest.modes:
            sound = (random.standard_normal(SECONDS * 16_000) * 0.1).astype(np.float32)
            cost["sound_minute_s"] = encoded(session, {"type": "audio", "audio": (sound, 16_000)})
    return cost


def encoded(session: Session, medium: dict[str, Any]) -> float:
    """Seconds to decode and encode one medium."""
    content = [medium, {"type": "text", "text": "What is it?"}]
    return float(session.answer([{"role": "user", "content": content}], max_tokens=1).usage.encode_s)


main()
