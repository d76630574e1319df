"""Methods at equal bytes: KL divergence from the float model on the packaged model or on SmolLM2.

    python -m benchmarks.quantisation --write                                       # the packaged reference model
    python -m benchmarks.quantisation --write --gguf SmolLM2-135M-Instruct.Q4_1.gguf

Every linear layer, table and head is quantised with one scheme by each method and by onnxruntime's own: its
default rounding (whose bytes equal our rtn's, see tests/quantize/test_rtn.py) and its k_quant. Weights alone are
judged: activations stay float32. Calibration and evaluation data are disjoint.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import machine, put_between
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.samples import Question, Sample, SampleReader, packaged_questions
from palmtop.export.mixed_precision.allocation import with_fallback
from palmtop.export.mixed_precision.allocation_table import tensor_class
from palmtop.export.mixed_precision.calibrate import StatisticsFolder, calibrate
from palmtop.export.mixed_precision.sensitivity import LossMeter
from palmtop.export.mixed_precision.sequential import quantize_in_order
from palmtop.export.recipe import CALIBRATED, IN_ORDER, METHODS, Recipe
from palmtop.quantize.parallel_rows import on_every_core
from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.search import search
from palmtop.quantize.statistics import Statistics
from palmtop.runtime.bundle.manifest import MODES
from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import held_out_items

PAGE = Path(__file__).parent.parent / "docs" / "quantise.md"


def k_quant(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None) -> NDArray[np.float32]:
    """What onnxruntime's k_quant makes of the weights."""
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor_k_quant_cpu

    rows, columns = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -columns % scheme.group)))
    codes, scales, zeros = quant_tensor_k_quant_cpu(padded, scheme.bits, scheme.group)
    scales = scheme.stored(scales.astype(np.float32))
    return np.asarray(((codes - zeros) * scales).reshape(rows, -1)[:, :columns], np.float32)


def reference(folder: Path, items: int, judged: int) -> tuple[FloatReference, list[Sample], list[Sample]]:
    """The packaged model, calibration samples, and held-out questions to judge on: so many of each mode."""
    checkpoint = Checkpoint(checkpoint_path())
    model = read_model(checkpoint, Recipe())
    reference = FloatReference(folder / "float", checkpoint, model, Recipe(), open_sessions=4096)
    manifest = reference.manifest
    reader = SampleReader(folder / "float", manifest)
    calibration = [reader.read(q) for q in packaged_questions(MODES, items, is_general=False)]
    questions = [
        reader.read(Question(mode=mode, messages=item.messages, answer=item.expected))
        for mode in MODES
        for item in held_out_items(mode, judged, 0)  # type: ignore[arg-type]
    ]
    return reference, calibration, questions


def smollm2(
    folder: Path, gguf: Path, items: int, judged: int, length: int
) -> tuple[FloatReference, list[Sample], list[Sample]]:
    """SmolLM2 off its grid, and passages of English."""
    from benchmarks.smollm2 import english, float_model, read_gguf, rotated, tokenizer

    arrays, fields = read_gguf(gguf)
    tokens = tokenizer(fields)
    model = float_model(rotated(arrays), folder / "float", open_sessions=4)
    calibration = english(tokens, part="calibration", length=length, count=items)
    return model, calibration, english(tokens, part="evaluation", length=length, count=judged)


def quantized(
    model: FloatReference, statistics: StatisticsFolder, method: str, scheme: Scheme
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Every linear layer, table and head by one method, dequantised, by part and name."""
    changed: dict[str, dict[str, NDArray[np.float32]]] = {}
    quantize = None if method == "k_quant" else on_every_core(METHODS[method])
    for part, graph in model.graphs.items():
        for name, (_, linear) in graph.linears().items():
            weight, inputs = graph.weight(linear), statistics.find(f"{part}: {name}")
            if quantize is None:
                changed.setdefault(part, {})[name] = k_quant(weight, scheme)
            elif inputs is None and method in CALIBRATED:
                changed.setdefault(part, {})[name] = dequantize(search(weight, scheme))
            else:
                changed.setdefault(part, {})[name] = dequantize(quantize(weight, scheme, inputs))
    return changed


def quantized_in_order(
    model: FloatReference, calibration: list[Sample], method: str, scheme: Scheme
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Likewise, layer after layer; what no sample has used by clipped search."""
    changed: dict[str, dict[str, NDArray[np.float32]]] = {part: {} for part in model.graphs}

    def keep(key: str, tensor: QuantizedTensor) -> None:
        part, _, name = key.partition(": ")
        changed[part][name] = dequantize(tensor)

    every = {f"{part}: {name}": scheme for part, graph in model.graphs.items() for name in graph.linears()}
    quantize_in_order(model, calibration, every, on_every_core(with_fallback(METHODS[method])), keep)
    for part, graph in model.graphs.items():
        for name, (_, linear) in graph.linears().items():
            if name not in changed[part]:
                changed[part][name] = dequantize(search(graph.weight(linear), scheme))
    return changed


def bits_a_weight(model: FloatReference, scheme: Scheme) -> float:
    """Scales and zero points counted."""
    shapes = [graph.shape(linear) for graph in model.graphs.values() for _, linear in graph.linears().values()]
    stored = sum(sum(scheme.tensor_bytes(*shape)) for shape in shapes)
    return 8 * stored / sum(rows * columns for rows, columns in shapes)


@click.command()
@click.option(
    "--gguf", type=click.Path(path_type=Path, exists=True), help="SmolLM2's file instead of the packaged model."
)
@click.option("--items", type=int, default=64, show_default=True, help="Calibration samples of each mode.")
@click.option("--judged", type=int, default=None, help="Judged samples of each mode (default: 100; 16 of SmolLM2).")
@click.option("--length", type=int, default=256, show_default=True, help="Tokens of a passage of English.")
@click.option("--bits", type=int, default=4, show_default=True)
@click.option("--group", type=int, default=32, show_default=True)
@click.option("--symmetric", is_flag=True)
@click.option("--method", "methods", multiple=True, default=("rtn", "k_quant", "search", "gptq", "gptq-in-order"))
@click.option("--by-kind", is_flag=True, help="Print what each kind of tensor loses when it alone is quantised.")
@click.option("--write", is_flag=True, help="Renew the model's table in docs/quantise.md.")
def main(
    gguf: Path | None,
    items: int,
    judged: int | None,
    length: int,
    bits: int,
    group: int,
    symmetric: bool,
    methods: tuple[str, ...],
    by_kind: bool,
    write: bool,
) -> None:
    """Print a line a method."""
    scheme = Scheme(bits=bits, group=group, symmetric=symmetric, scale_bits=16)
    judged = judged or (100 if gguf is None else 16)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, calibration, questions = (
            reference(folder, items, judged) if gguf is None else smollm2(folder, gguf, items, judged, length)
        )
        (folder / "statistics").mkdir()
        statistics = StatisticsFolder(folder / "statistics")
        if any(method in CALIBRATED and method not in IN_ORDER for method in methods):
            calibrate(model, calibration, statistics)
        meter = LossMeter(model, questions, from_start=True)
        positions = sum(len(s.positions) for s in questions)
        about = (
            f"{bits_a_weight(model, scheme):.3f} bits a weight ({bits} bits in {group}s, scales of 16,"
            f" {'no ' if symmetric else ''}zero points), {len(calibration)} samples to calibrate on,"
            f" {len(questions)} others with {positions} judged tokens; {machine()}."
        )
        click.echo(about)
        lines = ["| method | mean KL, nats | of rtn's | same top token | KL by mode |", "|---|---|---|---|---|"]
        plain = None
        for method in methods:
            started = time.perf_counter()
            if method in IN_ORDER:
                changed = quantized_in_order(model, calibration, method, scheme)
            else:
                changed = quantized(model, statistics, method, scheme)
            seconds = time.perf_counter() - started
            loss = meter.loss(changed)
            plain = loss.mean_kl if method == "rtn" else plain
            share = "" if plain is None else f"{loss.mean_kl / plain:.2f}"
            modes = ", ".join(f"{mode} {kl:.5f}" for mode, kl in loss.kl.items())
            lines.append(f"| `{method}` | {loss.mean_kl:.5f} | {share} | {loss.mean_top1:.2%} | {modes} |")
            click.echo(f"{lines[-1]} {seconds:.0f} s")
            if by_kind:
                for kind in dict.fromkeys(
                    tensor_class(f"{part}: {name}") for part in changed for name in changed[part]
                ):
                    alone = {
                        part: {name: w for name, w in own.items() if tensor_class(f"{part}: {name}") == kind}
                        for part, own in changed.items()
                    }
                    click.echo(f"    {kind} alone: {meter.loss(alone).mean_kl:.5f}")
        if write:
            mark = "methods, packaged model" if gguf is None else "methods, SmolLM2"
            put_between(PAGE, mark, "\n".join(lines) + f"\n\n{about}")


if __name__ == "__main__":
    main()
