"""Loss of a quantised KV cache: the bundle against itself with a float cache, on the same weights.

Prompts of every mode continue with the float cache's greedy tokens. A long text is read in chunks, and the logits
behind each chunk are compared: one decoder is in memory at a time, and only the logits behind the chunks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.export.graph.kv_cache import KvCache
from palmtop.export.kv.stored_cache import stored_cache, with_float_cache
from palmtop.export.measure.decoder_prompts import SampleReader, chosen_questions
from palmtop.export.measure.divergence import Agreement, agreement, ratio_db
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.memory.machine import available_memory, rss_bytes
from palmtop.runtime.memory.plan import state_bytes

from .comparison import STEPS
from .long_text import long_text
from .quality import Check

LONG_TOKENS = 8192
CHUNK = 64  # tokens between two compared positions of the long text
SHORTEST = 512  # a long text of fewer tokens adds nothing to the prompts
TOLD_EVERY = 1024  # tokens
MAX_CACHE_SHARE = {8: 0.2, 4: 0.5}  # largest difference of a logit, as a share of the range
# share of the energy of a layer's keys or values; scales of other layers, or keys' for values, clip more
MAX_CLIPPED = 0.01

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLoss:
    """Effect of a quantised cache on the logits.

    Attributes:
        bits: bits of the cache.
        modes: agreement by mode of input.
        snr_db: SNR of stored keys and values by layer ("key.0"), over those of the prompts.
        clipped: share of their energy beyond the largest code, by layer.
        by_length: agreement on a long text, for positions up to this many tokens and beyond the entry before.
        seconds: duration of the measurement.
    """

    bits: int
    modes: dict[str, Agreement]
    snr_db: dict[str, float]
    clipped: dict[str, float]
    by_length: dict[int, Agreement] = field(default_factory=dict)
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the loss as plain JSON types."""
        lengths = [{"tokens": tokens, **asdict(each)} for tokens, each in self.by_length.items()]
        modes = {mode: asdict(each) for mode, each in self.modes.items()}
        layers = {
            name: {"snr_db": round(value, 2), "clipped": round(self.clipped[name], 8)}
            for name, value in self.snr_db.items()
        }
        return {"bits": self.bits, "modes": modes, "by_length": lengths, "layers": layers, "seconds": self.seconds}


def cache_loss(
    bundle: Bundle, items: int, report: Report, ram_bytes: int | None = None, samples: Path | None = None
) -> tuple[CacheLoss | None, str | None]:
    """Measure a bundle whose cache is quantised.

    Args:
        bundle: the opened bundle.
        items: number of questions of each mode.
        report: called with the progress.
        ram_bytes: memory limit of this process.
        samples: JSONL of questions instead of those that fit the model's vocabulary.

    Returns:
        The loss, and the reason why the long text was shortened or left out, or None. No loss if not even the decoder
        fits into memory.

    Raises:
        BundleError: onnxruntime cannot load the decoder.
    """
    started = time.perf_counter()
    free = available_memory()
    if ram_bytes is not None:
        left = max(0, ram_bytes - (rss_bytes() or 0))
        free = left if free is None else min(free, left)
    tokens, reason = _affordable(bundle, free)
    if tokens is None:
        return None, reason
    text = long_text(bundle, tokens) if tokens else np.zeros(0, np.int64)
    reader = SampleReader(bundle.path, bundle.manifest)
    prompts = [reader.read(mode, m) for mode, m, _ in chosen_questions(bundle, items, samples)]
    clock = _Clock(2 * len(text), report)
    exact = _Probed(bundle, clock, is_float=True)
    tokens_of = [exact.greedy(prompt) for prompt in prompts]
    expected = [exact.logits(prompt, ids) for prompt, ids in zip(prompts, tokens_of, strict=True)]
    rounding = _Rounding(stored_cache(bundle.file(bundle.manifest.decoder.file), bundle.manifest.decoder))
    for prompt in prompts:
        rounding.add(exact.cache(prompt))
    far = exact.read(text)
    del exact  # one decoder at a time
    found = _Probed(bundle, clock, is_float=False)
    modes: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {}
    for prompt, ids, wanted in zip(prompts, tokens_of, expected, strict=True):
        modes.setdefault(prompt.mode, []).append((wanted, found.logits(prompt, ids)))
    loss = CacheLoss(
        bits=bundle.manifest.decoder.kv_bits,
        modes={mode: agreement(*map(np.concatenate, zip(*each, strict=True))) for mode, each in modes.items()},
        snr_db={name: ratio_db(signal, noise) for name, (signal, noise, _) in rounding.sums.items()},
        clipped={name: beyond / max(signal, 1e-30) for name, (signal, _, beyond) in rounding.sums.items()},
        by_length=dict(_by_length(far, found.read(text))),
        seconds=round(time.perf_counter() - started, 2),
    )
    return loss, reason


def judge_cache(loss: CacheLoss) -> list[Check]:
    """Return one check for each mode, and one for the layer whose scales clip most of its keys or values."""
    limit = MAX_CACHE_SHARE[loss.bits]
    worst, share = max(loss.clipped.items(), key=lambda item: item[1])
    scales = Check(
        name=f"KV cache of {loss.bits} bits: scales",
        passed=share <= MAX_CLIPPED,
        value=round(share, 8),
        limit=MAX_CLIPPED,
        detail=f"of {len(loss.clipped)} tensors '{worst}' clips most: {share:.3%} of its energy;"
        f" least exact has {min(loss.snr_db.values()):.1f} dB",
    )
    return [scales] + [
        Check(
            name=f"{mode}: KV cache of {loss.bits} bits",
            passed=bool(a.max_abs <= limit),  # false for NaN
            value=round(a.max_abs, 6),
            limit=limit,
            detail=f"against a float32 cache: KL {a.mean_kl:.4f} nats, {a.top1:.0%} same top token over"
            f" {a.positions} positions; largest difference is {a.max_abs:.2%} of the logit range",
        )
        for mode, a in loss.modes.items()
    ]


class _Probed:
    """The bundle's decoder with one of the two caches, under the gates of each mode."""

    def __init__(self, bundle: Bundle, clock: _Clock, *, is_float: bool) -> None:
        self._manifest, self._clock = bundle.manifest, clock
        spec = bundle.manifest.decoder
        path = bundle.file(spec.file)
        self._probe = OnnxDecoder(path, spec, graph=with_float_cache(path, spec) if is_float else None)

    def greedy(self, prompt: DecoderPrompt) -> NDArray[np.int64]:
        return self._probe.greedy(prompt, self._gates(prompt.mode), STEPS)

    def logits(self, prompt: DecoderPrompt, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._probe.logits(prompt, self._gates(prompt.mode), tokens)

    def cache(self, prompt: DecoderPrompt) -> dict[str, NDArray[np.float32]]:
        return self._probe.cache(prompt, self._gates(prompt.mode))

    def read(self, text: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits behind every chunk of a text, [T, V]."""
        original = self._manifest.decoder.original_context
        is_long = original is not None and len(text) > original
        rows = []
        for row in self._probe.stream(text, self._gates("text"), CHUNK, is_long=is_long):
            rows.append(row)
            self._clock.add(CHUNK)
        return np.stack(rows) if rows else np.zeros((0, 1), np.float32)

    def _gates(self, mode: str) -> NDArray[np.float32]:
        weights = self._manifest.routes[mode].adapters if mode in self._manifest.routes else {}
        gates = np.zeros(len(self._manifest.adapters), np.float32)
        for adapter in self._manifest.adapters:
            gates[adapter.gate] = weights.get(adapter.name, 0.0)
        return gates


class _Rounding:
    """Rounding of keys and values by the stored scales, in numpy; the logits test the kernel itself.

    Attributes:
        sums: squares of the values, of the changes by rounding and clipping, and of the part beyond the codes.
    """

    def __init__(self, cache: KvCache) -> None:
        self.sums: dict[str, tuple[float, float, float]] = {}
        self._cache = cache

    def add(self, exact: dict[str, NDArray[np.float32]]) -> None:
        """Add exact keys and values."""
        most = (1 << self._cache.bits - 1) - 1
        for name, array in exact.items():
            which, layer = name.split(".")
            scales = getattr(self._cache.layers[int(layer)], which)[:, None]  # [KV, 1, D]
            found = np.clip(np.rint(array / scales), -most - 1, most) * scales
            beyond = np.maximum(np.abs(array) - (most + 1) * scales, 0)
            sums = [float(np.square(x, dtype=np.float64).sum()) for x in (array, found - array, beyond)]
            before = self.sums.get(name, (0.0, 0.0, 0.0))
            self.sums[name] = (before[0] + sums[0], before[1] + sums[1], before[2] + sums[2])


class _Clock:
    """Reporter of the progress of the long text, with the time left."""

    def __init__(self, total: int, report: Report) -> None:
        self._total, self._report = total, report
        self._done, self._started = 0, time.perf_counter()

    def add(self, tokens: int) -> None:
        """Add tokens that were read."""
        if self._done == 0:
            self._started = time.perf_counter() - 1e-9
        self._done += tokens
        if self._done % TOLD_EVERY < tokens:
            left = (time.perf_counter() - self._started) / self._done * max(0, self._total - self._done)
            self._report(f"KV cache, {self._total // 2} tokens: {self._done / self._total:.0%}, {left:.0f} s left")


def _by_length(expected: NDArray[np.float32], found: NDArray[np.float32]) -> Iterator[tuple[int, Agreement]]:
    """Doubling lengths: up to an eighth of the text, to a quarter, to a half, to the end."""
    start = 0
    for part in (8, 4, 2, 1):
        stop = len(expected) // part
        if stop > start:
            yield stop * CHUNK, agreement(expected[start:stop], found[start:stop])
        start = stop


def _affordable(bundle: Bundle, free: int | None) -> tuple[int | None, str | None]:
    """Tokens of the long text: the bundle's context, limited by the memory for a float cache beside the weights.

    None, with the reason, if the weights alone do not fit.
    """
    decoder = bundle.manifest.decoder
    weights = 2 * sum(p.size_bytes for p in bundle.manifest.parts if not p.name.endswith(" encoder"))
    if free is not None and weights > free:
        return None, f"KV cache: the decoder needs about {weights / 1e9:.1f} GB, there are {free / 1e9:.1f} GB left"
    wanted = min(LONG_TOKENS, decoder.context_length) // CHUNK * CHUNK
    if wanted < SHORTEST or "text" not in bundle.manifest.routes:
        return 0, None
    states = [replace(state, dtype="float32") for state in decoder.states]
    token = state_bytes(states, 1) + decoder.vocab_size * 8 // CHUNK
    tokens = wanted
    while free is not None and weights + tokens * token > free and tokens >= SHORTEST:
        tokens = tokens // 2 // CHUNK * CHUNK
    if tokens == wanted:
        return wanted, None
    tokens = tokens if tokens >= SHORTEST else 0
    return tokens, f"KV cache at {wanted} tokens: a float32 cache of that length does not fit; measured up to {tokens}"
