"""Loss of a quantised KV cache: the bundle against itself with a float cache, on the same weights.

Prompts of every mode continue with the same tokens in both. A long text is read in chunks, and the logits behind each
chunk are compared. Both decoders are walked a layer at a time (``measure.decoder_runner``), so that a model of any size
is measured within the memory of a few of its layers and of the logits behind the chunks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from palmtop.export.graph.kv_cache import KvCache
from palmtop.export.kv.stored_cache import stored_cache, with_float_cache
from palmtop.export.measure.decoder_prompts import chosen_questions
from palmtop.export.measure.decoder_runner import DecoderRunner, Run
from palmtop.export.measure.divergence import Agreement, agreement, ratio_db
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.layerwise import StagedGraph
from palmtop.export.measure.onnx_decoder import DecoderPrompt
from palmtop.export.measure.samples import Question, SampleReader
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.chat.routing import gates_of

from .comparison import STEPS
from .long_text import long_text
from .quality import Check
from .questions import clock, continuation, encoded, rows_for

LONG_TOKENS = 8192
CHUNK = 64  # tokens between two compared positions of the long text
SHORTEST = 512  # a long text of fewer tokens adds nothing to the prompts
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


def cache_loss(bundle: Bundle, items: int, report: Report, samples: Path | None = None) -> CacheLoss:
    """Measure a bundle whose cache is quantised.

    Args:
        bundle: the opened bundle.
        items: number of questions of each mode.
        report: called with the progress.
        samples: JSONL of questions instead of those that fit the model's vocabulary.

    Raises:
        BundleError: onnxruntime cannot load or run a layer of the decoder.
    """
    started = time.perf_counter()
    path, spec = bundle.file(bundle.manifest.decoder.file), bundle.manifest.decoder
    runs = _prompts(bundle, items, samples, report)
    count = len(runs)
    text = _text(bundle)
    runs += text
    rounding = _Rounding(stored_cache(path, spec))

    def observe(run: int, cache: dict[str, NDArray[Any]]) -> None:
        if run < count:
            rounding.add(cache)

    exact = StagedGraph(
        onnx.load_from_string(with_float_cache(path, spec)), folder=bundle.path.resolve(), laid_open=False
    )
    wanted = DecoderRunner(exact).logits(runs, clock(report, "KV cache with a float32 cache"), observe)
    own = StagedGraph.of_file(path, laid_open=False)
    found = DecoderRunner(own).logits(runs, clock(report, f"KV cache of {spec.kv_bits} bits"))
    modes: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {}
    for run, *both in zip(runs[:count], wanted, found, strict=False):
        modes.setdefault(run.prompt.mode, []).append((both[0], both[1]))
    return CacheLoss(
        bits=spec.kv_bits,
        modes={mode: agreement(*map(np.concatenate, zip(*each, strict=True))) for mode, each in modes.items()},
        snr_db={name: ratio_db(signal, noise) for name, (signal, noise, _) in rounding.sums.items()},
        clipped={name: beyond / max(signal, 1e-30) for name, (signal, _, beyond) in rounding.sums.items()},
        by_length=dict(_by_length(wanted[-1], found[-1])) if text else {},
        seconds=round(time.perf_counter() - started, 2),
    )


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


def _prompts(bundle: Bundle, items: int, samples: Path | None, report: Report) -> list[Run]:
    """Questions of every mode with the tokens behind them, under the gates of their modes."""
    manifest = bundle.manifest
    reader, end = SampleReader(bundle.path, manifest), manifest.processor.text.answer_end
    read = [
        reader.read(Question(mode=mode, messages=messages, answer=answer))
        for mode, messages, answer in chosen_questions(bundle, items, samples)
    ]
    features = encoded(FloatReference.of_files(bundle.path, manifest), read, report, "KV cache:")
    runs = []
    for sample in read:
        start, tokens = continuation(sample, end, STEPS)
        prompt = DecoderPrompt(
            mode=sample.mode,
            input_ids=sample.input_ids[:start],
            media_places=sample.places[:start],
            features=rows_for(features, sample, manifest.decoder.hidden_size),
        )
        runs.append(Run(prompt=prompt, gates=gates_of(manifest, manifest.routes[sample.mode].adapters), tokens=tokens))
    return runs


def _text(bundle: Bundle) -> list[Run]:
    """The long text, if the context is not too short for it: its first chunk is the prompt."""
    manifest, spec = bundle.manifest, bundle.manifest.decoder
    length = min(LONG_TOKENS, spec.context_length) // CHUNK * CHUNK
    if length < SHORTEST or "text" not in manifest.routes:
        return []
    ids = long_text(bundle, length)
    prompt = DecoderPrompt(
        mode="text",
        input_ids=ids[:CHUNK],
        media_places=np.zeros(CHUNK, np.int64),
        features=np.zeros((1, spec.hidden_size), np.float32),
    )
    is_long = spec.original_context is not None and length > spec.original_context
    gates = gates_of(manifest, manifest.routes["text"].adapters)
    return [Run(prompt=prompt, gates=gates, tokens=np.append(ids[CHUNK:], 0), chunk=CHUNK, is_long=is_long)]


class _Rounding:
    """Rounding of keys and values by the stored scales, in numpy; the logits test the kernel itself.

    Attributes:
        sums: squares of the values, of the changes by rounding and clipping, and of the part beyond the codes.
    """

    def __init__(self, cache: KvCache) -> None:
        self.sums: dict[str, tuple[float, float, float]] = {}
        self._cache = cache

    def add(self, exact: dict[str, NDArray[np.float32]]) -> None:
        """Add exact keys and values, by input name: ``past_key_values.LAYER.key``."""
        most = (1 << self._cache.bits - 1) - 1
        for full_name, array in exact.items():
            _, layer, which = full_name.split(".")
            name = f"{which}.{layer}"
            scales = getattr(self._cache.layers[int(layer)], which)[:, None]  # [KV, 1, D]
            found = np.clip(np.rint(array / scales), -most - 1, most) * scales
            beyond = np.maximum(np.abs(array) - (most + 1) * scales, 0)
            sums = [float(np.square(x, dtype=np.float64).sum()) for x in (array, found - array, beyond)]
            before = self.sums.get(name, (0.0, 0.0, 0.0))
            self.sums[name] = (before[0] + sums[0], before[1] + sums[1], before[2] + sums[2])


def _by_length(expected: NDArray[np.float32], found: NDArray[np.float32]) -> Iterator[tuple[int, Agreement]]:
    """Doubling lengths: up to an eighth of the text, to a quarter, to a half, to the end."""
    start = 0
    for part in (8, 4, 2, 1):
        stop = len(expected) // part
        if stop > start:
            yield stop * CHUNK, agreement(expected[start:stop], found[start:stop])
        start = stop
