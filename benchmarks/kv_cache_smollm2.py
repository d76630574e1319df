"""What a KV cache of 8 or 4 bits does to a real language model at length: SmolLM2-135M, 8,192 tokens of English.

    python -m benchmarks.kv_cache_smollm2 --gguf SmolLM2-135M-Instruct.Q4_1.gguf --write

``benchmarks/smollm2.py`` says where the weights come from. Float32 weights and float32 activations: what differs is
the cache. Calibrated on some topics of Python's documentation, judged on others.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks import smollm2
from benchmarks.kv_cache import PAGE
from benchmarks.tables import machine, put_between
from palmtop.export.arch import Model
from palmtop.export.bundle.bundle_writer import build_graph
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.bundle.manifest_builder import expected_manifest
from palmtop.export.graph.kv_cache import FLOAT_CACHE, KvCache
from palmtop.export.kv.calibrate import CacheObserver
from palmtop.export.measure.divergence import agreement
from palmtop.export.measure.onnx_decoder import OnnxDecoder
from palmtop.export.recipe import Recipe

MARK = "kv smollm2"
CHUNK = 32  # tokens between two compared positions


def judged_text(tokens: Any, length: int) -> NDArray[np.int64]:
    """Topics that no calibration passage is of, one after the other."""
    from pydoc_data.topics import topics

    texts = [" ".join(text.split()) for number, text in enumerate(topics.values()) if number % 4]
    ids = np.array(tokens.encode("\n\n".join(texts)).ids[:length], np.int64)
    if len(ids) < length:
        raise SystemExit(f"there are {len(ids)} tokens of text, expected {length}")
    return ids


def read(model: Model, cache: KvCache, ids: NDArray[np.int64], context: int) -> tuple[NDArray[np.float32], float]:
    """[T, V] logits behind every chunk, and the processor's seconds."""
    recipe = Recipe(bits=32, context=context, kv=cache.bits)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with ExternalData(folder, "weights/decoder.bin") as sink:
            graph = build_graph(model, recipe, "decoder", sink, cache=cache)
        ir.save(graph, folder / "decoder.onnx")
        spec = expected_manifest(smollm2.Source(folder, {}), model, recipe).decoder  # type: ignore[arg-type]
        probe = OnnxDecoder(folder / "decoder.onnx", spec)
        started = time.process_time()
        rows = list(probe.stream(ids, np.zeros(0, np.float32), CHUNK))
        return np.stack(rows), time.process_time() - started


@click.command()
@click.option("--gguf", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--tokens", type=click.IntRange(256), default=8192, show_default=True)
@click.option("--write", is_flag=True, help="Put the table into docs/kv-cache.md.")
def main(gguf: Path, tokens: int, write: bool) -> None:
    """Measure and print."""
    smollm2.CONTEXT = tokens
    arrays, fields = smollm2.read_gguf(gguf)
    words, model = smollm2.tokenizer(fields), smollm2.as_model(arrays)
    with tempfile.TemporaryDirectory() as temporary:
        float_model = smollm2.float_model(arrays, Path(temporary) / "float")
        passages = smollm2.english(words, part="calibration", length=256, count=24)
        observer = CacheObserver(float_model.manifest.decoder, model.decoder.rope.rotary_size, passages)
        observer.walk(float_model, lambda at: None)
        found = observer.found
    ids = judged_text(words, tokens)
    exact, seconds = read(model, FLOAT_CACHE, ids, tokens)
    lines = ["| tokens | cache | KL, nats | worst | same top token | positions |", "|---|---|---|---|---|---|"]
    taken = [f"{seconds:.0f} s with 32 bits"]
    for bits in (8, 4):
        logits, seconds = read(model, KvCache(bits=bits, layers=tuple(e.scales(bits) for e in found)), ids, tokens)
        taken.append(f"{seconds:.0f} s with {bits}")
        start = 0
        for part in (8, 4, 2, 1):
            stop = len(exact) // part
            a = agreement(exact[start:stop], logits[start:stop])
            lines.append(
                f"| {start * CHUNK} to {stop * CHUNK} | {bits} bits | {a.mean_kl:.4f} | {a.max_kl:.3f} | {a.top1:.1%}"
                f" | {a.positions} |"
            )
            start = stop
    lines += [
        "",
        "SmolLM2-135M-Instruct (30 layers, 3 key/value heads of 64), float32 weights, calibrated on 24 passages of 256"
        f" tokens, judged every {CHUNK} tokens of other topics. Processor time of reading it: {', '.join(taken)}.",
        f"{machine()}. `python -m benchmarks.kv_cache_smollm2 --gguf SmolLM2-135M-Instruct.Q4_1.gguf --write`",
    ]
    click.echo("\n".join(lines))
    if write:
        put_between(PAGE, MARK, "\n".join(lines))


if __name__ == "__main__":
    main()
