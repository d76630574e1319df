"""Benchmark of a bundle on this machine: speed and memory of the same questions, several times, cold and warm.

Cold: a session that has just been loaded, encoders included. Warm: the same session again with an empty KV cache and
    new content. Questions are random noise, so that no cache holds any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from palmtop.errors import InputError
from palmtop.runtime.chat.reply import Usage
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.memory.machine import peak_rss_bytes, rss_bytes

from .session import Session, load_session
from .session_options import SessionOptions

IMAGE_PIXELS = 448
SOUND_S = 5.0
WORDS = ("one", "two", "red", "cat", "sun", "map", "ice", "oak")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and range of repeated measurements of one number.

    Attributes:
        median: median of all.
        low: smallest value.
        high: largest value.
        count: number of measurements.
    """

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Measurements of one kind of question, cold or warm.

    Attributes:
        mode: "text", "image", "audio" or "image+audio".
        warm: True if the session had answered before.
        prompt_tokens: tokens of the question, media rows included.
        media_rows: feature rows of images and sounds among them.
        load_s: seconds to open the session; None when warm.
        encode_s: seconds to decode and encode media.
        ttft_s: seconds to the first token, without ``load_s``.
        prefill_tokens_per_s: prompt tokens divided by the time to the first token without encoding.
        decode_tokens_per_s: tokens per second after the first token.
    """

    mode: str
    warm: bool
    prompt_tokens: int
    media_rows: int
    load_s: Spread | None
    encode_s: Spread
    ttft_s: Spread
    prefill_tokens_per_s: Spread
    decode_tokens_per_s: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """Measurements of a benchmark run, by mode.

    Attributes:
        model: name of the bundle's model.
        context: tokens of the sessions' context.
        rss_bytes: resident memory with the last session open; None where the system does not report it.
        peak_rss_bytes: highest resident memory of the process; None where the system does not report it.
        measurements: measurements by mode, cold before warm.
    """

    model: str
    context: int
    rss_bytes: int | None
    peak_rss_bytes: int | None
    measurements: tuple[Measurement, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return asdict(self)


def benchmark(
    bundle: Path,
    loading: SessionOptions,
    *,
    modes: tuple[str, ...] = (),
    prompt_tokens: int = 512,
    answer_tokens: int = 32,
    repeat: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BenchmarkResult:
    """Measure speed and memory of a bundle.

    Args:
        bundle: folder of the bundle.
        loading: options for loading it.
        modes: modes of the questions; empty for those the bundle serves.
        prompt_tokens: approximate tokens of text in each question; fewer where the context is short.
        answer_tokens: tokens of each answer; fixed, because answers to random text seldom end by themselves.
        repeat: number of cold and of warm runs of each mode.
        seed: seed of the questions.
        progress: called after every answer with done and total.

    Raises:
        InputError: the bundle does not serve a mode, or the context is too short.
        BundleError: the bundle cannot be used.
    """
    random = np.random.default_rng(seed)
    options = GenerationOptions(max_tokens=answer_tokens, temperature=1.0, seed=seed)
    measurements = []
    done = 0
    with load_session(bundle, loading) as session:  # read the files once: a cold disk would be another measurement
        modes = modes or session.manifest.modes
        model, context = session.manifest.model, session.context
    total, resident = 2 * repeat * len(modes), None
    for mode in modes:
        cold: list[tuple[float, Usage]] = []
        warm: list[tuple[float, Usage]] = []
        for _ in range(repeat):
            started = perf_counter()
            with load_session(bundle, loading) as session:
                load_s = perf_counter() - started
                for runs in (cold, warm):
                    usage = _ask(session, mode, prompt_tokens, options, random)
                    runs.append((load_s, usage))
                    done += 1
                    if progress is not None:
                        progress(done, total)
                resident = rss_bytes()
        measurements += [_measurement(mode, False, cold), _measurement(mode, True, warm)]
    return BenchmarkResult(
        model=model,
        context=context,
        rss_bytes=resident,
        peak_rss_bytes=peak_rss_bytes(),
        measurements=tuple(measurements),
    )


def _ask(
    session: Session, mode: str, prompt_tokens: int, options: GenerationOptions, random: np.random.Generator
) -> Usage:
    conversation = session.conversation()
    try:
        media = list(_media(mode, random))
        content: list[dict[str, Any]] = [*media, {"type": "text", "text": ""}]
        room = (
            session.context
            - options.resolved().max_tokens
            - session.count_tokens([{"role": "user", "content": content}])
        )
        if room < 1:
            raise InputError(f"a question with {mode} and its answer do not fit into a context of {session.context}")
        content[-1]["text"] = _words(session, min(prompt_tokens, room), random)
        return conversation.chat(content, options=options).result().usage
    finally:
        conversation.close()


def _media(mode: str, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    if "image" in mode:
        pixels = random.integers(0, 256, (IMAGE_PIXELS, IMAGE_PIXELS, 3), dtype=np.uint8)
        yield {"type": "image", "image": pixels}
    if "audio" in mode:
        rate = 16000
        sound = (random.standard_normal(int(SOUND_S * rate)) * 0.1).astype(np.float32)
        yield {"type": "audio", "audio": (sound, rate)}


def _words(session: Session, tokens: int, random: np.random.Generator) -> str:
    """Return text of at most ``tokens`` tokens."""
    words = random.choice(WORDS, tokens).tolist()

    def count(text: str) -> int:
        return session.count_tokens([{"role": "user", "content": text}])

    empty = count("")
    while words and (too_many := count(" ".join(words)) - empty - tokens) > 0:
        del words[-max(1, too_many // 4) :]
    return " ".join(words)


def _measurement(mode: str, warm: bool, runs: list[tuple[float, Usage]]) -> Measurement:
    usages = [usage for _, usage in runs]
    read = [max(u.ttft_s - u.encode_s, 1e-9) for u in usages]
    return Measurement(
        mode=mode,
        warm=warm,
        prompt_tokens=round(median(u.prompt_tokens for u in usages)),
        media_rows=round(median(u.media_rows for u in usages)),
        load_s=None if warm else _spread([load_s for load_s, _ in runs]),
        encode_s=_spread([u.encode_s for u in usages]),
        ttft_s=_spread([u.ttft_s for u in usages]),
        prefill_tokens_per_s=_spread(
            [(u.prompt_tokens - u.cached_tokens) / s for u, s in zip(usages, read, strict=True)]
        ),
        decode_tokens_per_s=_spread([u.tokens_per_s for u in usages if u.tokens_per_s] or [0.0]),
    )


def _spread(values: list[float]) -> Spread:
    return Spread(median=median(values), low=min(values), high=max(values), count=len(values))
