"""What a KV cache of 8 or 4 bits saves and costs: decode and prefill speed, memory, loss at length.

    python -m benchmarks.kv_cache                       # the tables of docs/kv-cache.md
    python -m benchmarks.kv_cache --write               # and put them there
    python -m benchmarks.kv_cache --tokens 512 --layers 1    # to try it

Exports the packaged model and a checkpoint of Phi-4-multimodal's true decoder sizes with a few layers and random
weights, each with a cache of 32, 8 and 4 bits. Every measurement runs in a process of its own, so that its memory is
its own. Speed is of the processor's time as well as the wall's: the first stays what it is on a busy machine.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

import palmtop
from benchmarks.measured_process import memory_of
from benchmarks.tables import machine, put_between
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.convert import export_model
from palmtop.export.mixed_precision.budget import Request
from palmtop.export.recipe import Recipe
from palmtop.export.verify.kv_loss import CacheLoss, cache_loss
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.decoder import TokenSequence
from palmtop.runtime.memory.plan import kv_bytes_per_token, largest_context, plan_memory
from palmtop.runtime.reference import checkpoint_path

PAGE = Path(__file__).parents[1] / "docs" / "kv-cache.md"
SPEED, LOSS = "kv speed", "kv loss"
BITS = (32, 8, 4)
ROOM_BYTES = 8 << 30  # of memory, for the longest context that fits at full depth
LEAST_CHUNK = 128


def export_all(place: Path, name: str, checkpoint: Path, tokens: int, samples: Path | None) -> dict[int, Path]:
    """A bundle for each width; those that are there already are taken."""
    bundles = {}
    for bits in BITS:
        target = place / f"{name}-kv{bits}"
        if not target.exists():
            click.echo(f"  exporting {target.name}", err=True)
            request = None if samples is None or bits == 32 else Request(samples=samples)
            recipe = Recipe(kv=bits, context=tokens + 64, group=128 if samples else 32, method="rtn")
            export_model(checkpoint, target, recipe, request=request)
        bundles[bits] = target
    return bundles


def full_size_checkpoint(place: Path, layers: int) -> Path:
    """Phi-4-mini's decoder with fewer layers."""
    from benchmarks.full_size import Dimensions
    from benchmarks.make_checkpoint import make_checkpoint

    target = place / f"checkpoint-{layers}"
    if not target.exists():
        click.echo(f"  writing {target.name}", err=True)
        make_checkpoint(target, Dimensions(layers=layers, text_only=True))
    return target


def measure_one(bundle: Path, tokens: int, steps: int, threads: int) -> dict[str, Any]:
    """Prefill ``tokens`` in chunks, then decode; what it took, and the memory that the cache's pages added."""
    ids = np.random.default_rng(0).integers(10, 400, tokens).astype(np.int32)
    with palmtop.load(bundle, threads=threads, context=tokens + steps + 2) as session:
        track = session.conversation()._track
        gates = np.zeros(len(session.manifest.adapters), np.float32)

        def read(stop: int) -> None:
            track.prefill(TokenSequence(ids[:stop], np.zeros(stop, np.int64), ()), gates, lambda: False)

        read(LEAST_CHUNK)
        before, wall, cpu = memory_of()["VmRSS"], time.perf_counter(), time.process_time()
        read(tokens)
        prefill_wall, prefill_cpu = time.perf_counter() - wall, time.process_time() - cpu
        after, walls, cpus = memory_of()["VmRSS"], [], []
        decoder = track._ready()
        for step in range(steps):
            wall, cpu = time.perf_counter(), time.process_time()
            decoder.append(ids[step : step + 1])
            decoder.logits()
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        return {
            "prefill_tokens_per_s": (tokens - LEAST_CHUNK) / prefill_wall,
            "prefill_cpu_ms": 1e3 * prefill_cpu / (tokens - LEAST_CHUNK),
            "decode_tokens_per_s": 1 / statistics.median(walls),
            "decode_cpu_ms": 1e3 * statistics.median(cpus),
            "cache_rss": after - before,
            "rss": memory_of()["VmRSS"],
            "planned_cache": session.plan.kv_cache,
        }


def measure_deep(bundle: Path, tokens: int, steps: int, threads: int) -> dict[str, Any]:
    """A chunk and some tokens behind a cache that is full of random keys and values: no long prompt has to be read.

    The decoder's graph in plain onnxruntime, past and present in one buffer as genai has them.
    """
    import onnxruntime as ort

    manifest = open_bundle(bundle, hashes=False).manifest
    decoder = manifest.decoder
    is_long = decoder.original_context is not None and tokens > decoder.original_context
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(str(bundle / decoder.file), options, providers=["CPUExecutionProvider"])
    inputs = {i.name: i for i in session.get_inputs()}
    fixed: dict[str, Any] = {"media_index": np.zeros(tokens, np.int64), "rope_long": np.array([is_long])}
    fixed["media_features"] = np.zeros((1, decoder.hidden_size), np.float32)
    fixed["adapter_gates"] = np.zeros(len(manifest.adapters), np.float32)
    rng = np.random.default_rng(0)

    def run(count: int) -> tuple[float, float]:
        mask = np.ones((1, tokens), np.int64)
        fed = {"input_ids": rng.integers(10, 400, (1, count)), "attention_mask": mask, **fixed}
        for name in fed.keys() & inputs.keys():
            binding.bind_cpu_input(name, fed[name])
        binding.bind_output("logits")
        wall, cpu = time.perf_counter(), time.process_time()
        session.run_with_iobinding(binding)
        return time.perf_counter() - wall, time.process_time() - cpu

    before, binding = memory_of()["VmRSS"], session.io_binding()
    for name in inputs:
        if name.startswith("past_key_values."):
            shape = decoder.state("key").stored_shape(tokens)
            kind = {32: np.float32, 8: np.int8, 4: np.uint8}[decoder.kv_bits]
            drawn = (
                rng.standard_normal(shape, np.float32) if decoder.kv_bits == 32 else rng.integers(0, 99, shape, kind)
            )
            cache = ort.OrtValue.ortvalue_from_numpy(drawn)
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(name.replace("past_key_values.", "present."), cache)
    del drawn
    after = memory_of()["VmRSS"]
    run(LEAST_CHUNK)
    chunk_wall, chunk_cpu = run(LEAST_CHUNK)
    run(1)
    walls, cpus = zip(*(run(1) for _ in range(steps)), strict=True)
    return {
        "prefill_tokens_per_s": LEAST_CHUNK / chunk_wall,
        "prefill_cpu_ms": 1e3 * chunk_cpu / LEAST_CHUNK,
        "decode_tokens_per_s": 1 / statistics.median(walls),
        "decode_cpu_ms": 1e3 * statistics.median(cpus),
        "cache_rss": after - before,
        "rss": memory_of()["VmRSS"],
        "planned_cache": tokens * kv_bytes_per_token(manifest),
    }


def in_own_process(bundle: Path, tokens: int, steps: int, threads: int, how: str) -> dict[str, Any]:
    """``measure_one`` or ``measure_deep`` where nothing else has taken memory."""
    import subprocess

    numbers = [str(bundle), "--how", how, "--tokens", str(tokens), "--steps", str(steps), "--threads", str(threads)]
    command = [sys.executable, "-m", "benchmarks.kv_cache", "--bundle", *numbers]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def speed_table(
    title: str, bundles: dict[int, Path], lengths: Sequence[int], steps: int, threads: int, how: str
) -> list[str]:
    """Rows by length and width."""
    rows = [
        f"{title}:",
        "",
        "| tokens | cache | decode, tokens/s | decode, CPU ms a token | prefill, tokens/s | prefill, CPU ms a token"
        " | RSS | of that the cache grew | planned cache |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for tokens in lengths:
        for bits, bundle in bundles.items():
            click.echo(f"  measuring {bundle.name} at {tokens} tokens", err=True)
            one = in_own_process(bundle, tokens, steps, threads, how)
            rows.append(
                f"| {tokens} | {bits} bits | {one['decode_tokens_per_s']:.1f} | {one['decode_cpu_ms']:.1f}"
                f" | {one['prefill_tokens_per_s']:.0f} | {one['prefill_cpu_ms']:.2f} | {one['rss'] / 1e6:.0f} MB"
                f" | {one['cache_rss'] / 1e6:.0f} MB | {one['planned_cache'] / 1e6:.0f} MB |"
            )
            click.echo(rows[-1])
    return rows


def loss_table(bundles: dict[int, Path], items: int) -> list[str]:
    """Of the packaged model, by mode and by length."""
    losses: dict[int, CacheLoss] = {}
    for bits in (8, 4):
        click.echo(f"  loss of {bundles[bits].name}", err=True)
        losses[bits] = cache_loss(open_bundle(bundles[bits]), items, lambda _: None)
    rows = ["| | KL, 8 bits | same top token | KL, 4 bits | same top token | positions |", "|---|---|---|---|---|---|"]
    modes = [(mode, [losses[b].modes[mode] for b in (8, 4)]) for mode in losses[8].modes]
    lengths = [
        (f"long text, up to {tokens} tokens", [losses[b].by_length[tokens] for b in (8, 4)])
        for tokens in losses[8].by_length
    ]
    for name, (eight, four) in (*modes, *lengths):
        rows.append(
            f"| {name} | {eight.mean_kl:.5f} | {eight.top1:.1%} | {four.mean_kl:.4f} | {four.top1:.1%}"
            f" | {eight.positions} |"
        )
    seconds = ", ".join(f"{loss.seconds:.0f} s at {bits} bits" for bits, loss in losses.items())
    return [*rows, "", f"Measuring it took {seconds}."]


def context_lines(bundles: dict[int, Path], layers: int) -> list[str]:
    """The longest context that the memory plan lets into a fixed room, were all 32 layers there."""
    from dataclasses import replace

    found = []
    for bits, bundle in bundles.items():
        manifest = open_bundle(bundle).manifest
        states = tuple(replace(state, layers=tuple(range(32))) for state in manifest.decoder.states)
        decoder = replace(manifest.decoder, num_layers=32, context_length=131072, states=states)
        parts = tuple(
            replace(p, parameters=p.parameters * 32 // layers, size_bytes=p.size_bytes * 32 // layers)
            if p.name == "decoder linears"
            else p
            for p in manifest.parts
        )
        whole = replace(manifest, decoder=decoder, parts=parts)
        fits = largest_context(whole, plan_memory(whole, context=131072), ROOM_BYTES)
        found.append(f"| {bits} bits | {kv_bytes_per_token(whole) / 1024:.0f} KiB | {fits} |")
    head = [f"| cache | a token, 32 layers | longest context in {ROOM_BYTES >> 30} GiB |", "|---|---|---|"]
    return [*head, *found]


@click.command()
@click.option("--layers", type=click.IntRange(1, 32), default=4, show_default=True, help="Of the full-size decoder.")
@click.option("--tokens", type=click.IntRange(256), default=8192, show_default=True, help="Longest context.")
@click.option("--steps", type=click.IntRange(1), default=16, show_default=True, help="Decoded tokens.")
@click.option("--items", type=click.IntRange(1), default=16, show_default=True, help="Questions of each mode.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Folder for checkpoint and bundles, kept.")
@click.option("--write", is_flag=True, help="Put the tables into docs/kv-cache.md.")
@click.option("--bundle", type=click.Path(path_type=Path), hidden=True)
@click.option("--how", type=click.Choice(["read", "deep"]), hidden=True)
def main(
    layers: int,
    tokens: int,
    steps: int,
    items: int,
    threads: int,
    work: Path | None,
    write: bool,
    bundle: Path | None,
    how: str | None,
) -> None:
    """Measure and print."""
    if bundle is not None:  # as in_own_process calls it
        measure = measure_deep if how == "deep" else measure_one
        click.echo(json.dumps(measure(bundle, tokens, steps, threads)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        place = (work or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        small = export_all(place, "reference", checkpoint_path(), tokens, None)
        source = full_size_checkpoint(place, layers)
        (place / "samples.jsonl").write_text(json.dumps({"text": "words that random weights do not know. " * 20}))
        large = export_all(place, f"full-{layers}", Checkpoint(source).path, tokens, place / "samples.jsonl")
        if work is None:
            shutil.rmtree(source)
        lengths = sorted({tokens // 8, tokens})
        title = f"{layers} layers of Phi-4-mini's sizes, random weights (8 heads of 128), behind a full cache"
        speed = speed_table(title, large, lengths[-1:], steps, threads, "deep")
        title = "The packaged model (4 layers, 1 head of 64), in a session that has read the prompt"
        speed += ["", *speed_table(title, small, lengths, steps, threads, "read"), "", *context_lines(large, layers)]
        where = f"{machine()}, {threads} threads, INT4 weights"
        loss = [*loss_table(small, items), "", f"{where}. `python -m benchmarks.kv_cache --write`"]
        speed += ["", f"{where}. `python -m benchmarks.kv_cache --write`"]
    for mark, lines in ((SPEED, speed), (LOSS, loss)):
        click.echo("\n".join(lines))
        if write:
            put_between(PAGE, mark, "\n".join(lines))
    if write:
        click.echo(f"written into {PAGE}", err=True)


if __name__ == "__main__":
    main()
