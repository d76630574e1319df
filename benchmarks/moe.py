"""Mixtures of experts at the true dimensions of SlimMoE, with random weights.

    python -m benchmarks.moe experts            # one token through 2 of 16 experts, and through all 16
    python -m benchmarks.moe decode -o DIR      # 4 layers: time of a decoded token against reading its active bytes
    python -m benchmarks.moe export -o DIR      # Phi-mini-MoE whole: peak memory, bundle, load, tokens a second

``--size tiny`` takes Phi-tiny-MoE. ``export`` writes a checkpoint of 15.3 GB first, and deletes it.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks import moe_checkpoint
from benchmarks.measured_process import measure
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict
from palmtop.export.convert import export_model
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.linear import Precision
from palmtop.export.graph.moe.experts import read_expert
from palmtop.export.graph.moe.qmoe import add_qmoe
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.export.recipe import Recipe
from palmtop.quantize.scheme import Scheme
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.memory.plan import active_bytes, active_parameters

ROUNDS, COLD_BYTES = 30, 256 << 20
HIDDEN, EXPERTS = moe_checkpoint.HIDDEN, moe_checkpoint.EXPERTS
SCHEME = Scheme(bits=4, group=32, scale_bits=16)


def _expert_graph(folder: Path, inner: int) -> ort.InferenceSession:
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(inner * HIDDEN + 4096).astype(np.float32) / 64

    def matrix(name: str) -> LazyTensor:
        rows, columns = (HIDDEN, inner) if "down" in name else (inner, HIDDEN)

        def read(start: int, stop: int) -> NDArray[np.float32]:
            return pool[start : start + (stop - start) * columns].reshape(stop - start, columns)

        return LazyTensor(name, (rows, columns), read)

    weights = StateDict(matrix)
    experts = [read_expert(weights, "layers.0.mlp", number, HIDDEN, inner) for number in range(EXPERTS)]
    with ExternalData(folder, "experts.bin") as file:
        g = GraphBuilder("experts", file)
        x = g.input("x", ir.DataType.FLOAT, ["tokens", HIDDEN])
        shares = g.input("shares", ir.DataType.FLOAT, ["tokens", EXPERTS])
        y = add_qmoe(g, "layers.0.mlp.experts", experts, Precision(scheme=SCHEME, accuracy_level=4), x, shares)
        node = y.producer()
        assert node is not None
        node.attributes["k"] = ir.AttrInt64("k", EXPERTS)  # experts without a share are left out
        g.output(y, "y", ir.DataType.FLOAT, ["tokens", HIDDEN])
        ir.save(g.model(), folder / "experts.onnx")
    return ort.InferenceSession(folder / "experts.onnx", providers=["CPUExecutionProvider"])


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _in_turns(*runs: Callable[[], Any]) -> list[float]:
    """Least seconds of each of several calls, made in turns with the caches emptied between them."""
    cold = np.ones(COLD_BYTES // 8)
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for own, run in zip(times, runs, strict=True):
            cold.sum()
            own.append(_seconds(run))
    return [min(own) for own in times]


def bandwidth() -> float:
    """Bytes a second of reading memory: the best of sums over 256 MB, in as many threads as onnxruntime takes."""
    graph = GraphBuilder("sum", _Nothing())
    x = graph.input("x", ir.DataType.FLOAT, [64, COLD_BYTES // 256])
    graph.output(graph.op("ReduceMax", x, graph.constant([1]), keepdims=0), "y", ir.DataType.FLOAT, [64])
    session = ort.InferenceSession(ir.to_proto(graph.model()).SerializeToString(), providers=["CPUExecutionProvider"])
    x_value = np.ones((64, COLD_BYTES // 256), np.float32)
    return COLD_BYTES / min(_seconds(lambda: session.run(None, {"x": x_value})) for _ in range(10))


class _Nothing(ExternalData):
    def __init__(self) -> None:
        """Nothing is written."""


@click.group(help=__doc__)
def main() -> None:
    """Measure mixtures."""


def _target(function: Callable[..., None]) -> Callable[..., None]:
    option = click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path))
    return option(_size(function))


def _size(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--size", type=click.Choice(list(moe_checkpoint.SIZES)), default="mini")(function)


@main.command()
@_target
def experts(target: Path, size: str) -> None:
    """One token through 2 of 16 experts, and through all 16 by the same operator."""
    target.mkdir(parents=True, exist_ok=True)
    session = _expert_graph(target, moe_checkpoint.SIZES[size]["intermediate_size"])
    x = np.random.default_rng(1).standard_normal((1, HIDDEN)).astype(np.float32)
    all_shares = np.ones((1, EXPERTS), np.float32)
    few = np.zeros((1, EXPERTS), np.float32)
    few[0, [3, 11]] = 1
    two, dense = _in_turns(
        lambda: session.run(None, {"x": x, "shares": few}), lambda: session.run(None, {"x": x, "shares": all_shares})
    )
    click.echo(f"{size}: 2 of 16 experts {two * 1e3:.3f} ms, all 16 {dense * 1e3:.3f} ms, {dense / two:.2f} times")


@main.command()
@click.option("--layers", type=click.IntRange(1, 32), default=4)
@_target
def decode(target: Path, size: str, layers: int) -> None:
    """Time of a decoded token against reading its active bytes."""
    checkpoint, bundle = target / "checkpoint", target / "bundle"
    moe_checkpoint.write(checkpoint, size, layers)
    export_model(checkpoint, bundle, Recipe(context=512, scale_bits=16), overwrite=True)
    _decode(bundle)


def _decode(folder: Path) -> None:
    bundle = open_bundle(folder)
    started = time.perf_counter()
    decoder = OnnxDecoder(bundle.file("decoder.onnx"), bundle.manifest.decoder)
    load = time.perf_counter() - started
    rng, nothing = np.random.default_rng(2), np.zeros(0, np.float32)
    ids = rng.integers(10, 30000, 96)
    empty = np.zeros((1, HIDDEN), np.float32)
    prompt = DecoderPrompt(mode="text", input_ids=ids[:32], media_places=np.zeros(32, np.int64), features=empty)
    longer = [_seconds(lambda: decoder.logits(prompt, nothing, ids[32:])) for _ in range(5)]
    short = [_seconds(lambda: decoder.logits(prompt, nothing, ids[32:33])) for _ in range(5)]
    seconds = (min(longer) - min(short)) / (len(ids) - 33)
    table = bundle.manifest.decoder.vocab_size * HIDDEN * SCHEME.bits / 8 * 1.15  # one row of it is read
    wanted = (active_bytes(bundle.manifest) - table) / bandwidth()
    click.echo(
        f"{bundle.size_bytes / 1e9:.2f} GB, loaded in {load:.1f} s; {active_parameters(bundle.manifest) / 1e9:.2f} of "
        f"{sum(p.parameters for p in bundle.manifest.parts) / 1e9:.2f} G weights active\n"
        f"a token {seconds * 1e3:.2f} ms ({1 / seconds:.1f}/s), its active bytes {wanted * 1e3:.2f} ms at "
        f"{bandwidth() / 1e9:.1f} GB/s: {seconds / wanted:.2f} times"
    )


@main.command()
@click.option("--layers", type=click.IntRange(1, 32), default=32)
@_target
def export(target: Path, size: str, layers: int) -> None:
    """Export of the whole model: peak memory, time, bundle; then load and decode."""
    checkpoint, bundle = target / "checkpoint", target / "bundle"
    target.mkdir(parents=True, exist_ok=True)
    written = moe_checkpoint.write(checkpoint, size, layers)
    command = [sys.executable, "-m", "palmtop", "export", checkpoint, "-o", bundle, "--overwrite", "--ram", "0.5GB"]
    found = measure(
        [*command, "--set", "method=rtn", "--set", "scale_bits=16", "--context", "4096"], log=target / "log"
    )
    if found.code:
        raise click.ClickException(found.errors)
    click.echo(
        f"{written / 1e9:.2f} GB exported in {found.seconds:.0f} s ({found.cpu_seconds:.0f} s of processors), "
        f"peak RSS {found.peak_rss / 1e6:.0f} MB, of that {found.peak_anonymous / 1e6:.0f} MB anonymous"
    )
    shutil.rmtree(checkpoint)
    _decode(bundle)


if __name__ == "__main__":
    main()
