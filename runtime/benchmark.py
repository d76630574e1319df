"""Benchmark of a bundle on this machine: speed and memory of the same questions, several times, cold and warm.

Cold: a session that has just been loaded, encoders included. Warm: the same session again with an empty KV cache and
    new content. Questions are random noise, so that no cache holds any of them. Decoding is measured behind them over a
    fixed number of tokens, greedy and sampled, and compared with the speed at which the machine reads memory.
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
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.chat.reply import Usage
from palmtop.runtime.decoding.generate import TokenStream
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.memory.bandwidth import decode_bytes, read_bandwidth
from palmtop.runtime.memory.machine import peak_rss_bytes, rss_bytes
from palmtop.runtime.memory.processors import OtherWork, usable_cores

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
        decode_tokens_per_s: tokens per second after the first token, greedy.
        sampled_tokens_per_s: the same, sampled from the whole vocabulary at temperature 1.
        decode_bytes: bytes that a decode step reads: weights and KV cache.
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
    sampled_tokens_per_s: Spread
    decode_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """Measurements of a benchmark run, by mode.

    Attributes:
        model: name of the bundle's model.
        context: tokens of the sessions' context.
        rss_bytes: resident memory with the last session open; None where the system does not report it.
        peak_rss_bytes: highest resident memory of the process; None where the system does not report it.
        read_bytes_per_s: bytes per second that the machine reads from memory, measured between the questions.
        other_work: share of all processors' time that other processes took, 0 to 1; None where it is not reported.
        measurements: measurements by mode, cold before warm.
    """

    model: str
    context: int
    rss_bytes: int | None
    peak_rss_bytes: int | None
    read_bytes_per_s: float
    other_work: float | None
    measurements: tuple[Measurement, ...]

    def roof_share(self, measured: Measurement) -> float:
        """Return the part of the memory bandwidth that greedy decoding used: 1 is the limit."""
        return measured.decode_bytes * measured.decode_tokens_per_s.median / self.read_bytes_per_s

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
        answer_tokens: tokens of each answer; end tokens do not end it.
        repeat: number of cold and of warm runs of each mode.
        seed: seed of the questions.
        progress: called after every answer with done and total.

    Raises:
        InputError: the bundle does not serve a mode, or the context is too short.
        BundleError: the bundle cannot be used.
    """
    random = np.random.default_rng(seed)
    threads = loading.threads or usable_cores()
    others, speeds = OtherWork(), []
    measurements = []
    done = 0
    with load_session(bundle, loading) as session:  # read the files once: a cold disk would be another measurement
        modes = modes or session.manifest.modes
        model, context = session.manifest.model, session.context
    total, resident = 2 * repeat * len(modes), None
    for mode in modes:
        cold: list[_Run] = []
        warm: list[_Run] = []
        for _ in range(repeat):
            started = perf_counter()
            with load_session(bundle, loading) as session:
                load_s = perf_counter() - started
                for runs in (cold, warm):
                    runs.append(_ask(session, mode, prompt_tokens, answer_tokens, random, load_s))
                    done += 1
                    if progress is not None:
                        progress(done, total)
                resident = rss_bytes()
            speeds.append(read_bandwidth(threads))
        measurements += [_measurement(mode, False, cold), _measurement(mode, True, warm)]
    return BenchmarkResult(
        model=model,
        context=context,
        rss_bytes=resident,
        peak_rss_bytes=peak_rss_bytes(),
        read_bytes_per_s=max(speeds),
        other_work=others.share(),
        measurements=tuple(measurements),
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One question: its usage, and the speed of decoding behind it."""

    load_s: float
    usage: Usage
    greedy: float
    sampled: float
    decode_bytes: int


def _ask(
    session: Session, mode: str, prompt_tokens: int, answer_tokens: int, random: np.random.Generator, load_s: float
) -> _Run:
    conversation = session.conversation()
    try:
        media = list(_media(mode, random))
        content: list[dict[str, Any]] = [*media, {"type": "text", "text": ""}]
        room = session.context - 2 * answer_tokens - session.count_tokens([{"role": "user", "content": content}])
        if room < 1:
            raise InputError(f"a question with {mode} and its answers do not fit into a context of {session.context}")
        content[-1]["text"] = _words(session, min(prompt_tokens, room), random)
        reply = conversation.chat(content, options=GenerationOptions(max_tokens=1)).result()
        greedy, sampled = (_decode(session, conversation, answer_tokens, degrees) for degrees in (0.0, 1.0))
        read = decode_bytes(session.manifest, reply.usage.prompt_tokens, tuple(reply.adapters))
        return _Run(load_s, reply.usage, greedy, sampled, read)
    finally:
        conversation.close()


def _decode(session: Session, conversation: Conversation, tokens: int, temperature: float) -> float:
    """Return the tokens per second after the first of an answer of fixed length, which no end token ends."""
    stream = TokenStream(
        conversation._track,
        GenerationOptions(max_tokens=tokens, temperature=temperature, seed=0),
        eos_ids=(),
        never=session.manifest.decoder.sampled_never,
        cancelled=lambda: False,
    )
    times = [perf_counter() for _ in stream]
    return (len(times) - 1) / max(times[-1] - times[0], 1e-9)


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


def _measurement(mode: str, warm: bool, runs: list[_Run]) -> Measurement:
    usages = [run.usage for run in runs]
    read = [max(u.ttft_s - u.encode_s, 1e-9) for u in usages]
    return Measurement(
        mode=mode,
        warm=warm,
        prompt_tokens=round(median(u.prompt_tokens for u in usages)),
        media_rows=round(median(u.media_rows for u in usages)),
        load_s=None if warm else _spread([run.load_s for run in runs]),
        encode_s=_spread([u.encode_s for u in usages]),
        ttft_s=_spread([u.ttft_s for u in usages]),
        prefill_tokens_per_s=_spread(
            [(u.prompt_tokens - u.cached_tokens) / s for u, s in zip(usages, read, strict=True)]
        ),
        decode_tokens_per_s=_spread([run.greedy for run in runs]),
        sampled_tokens_per_s=_spread([run.sampled for run in runs]),
        decode_bytes=round(median(run.decode_bytes for run in runs)),
    )


def _spread(values: list[float]) -> Spread:
    return Spread(median=median(values), low=min(values), high=max(values), count=len(values))
