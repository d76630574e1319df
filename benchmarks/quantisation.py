"""Methods at equal bytes: KL divergence from the float model on the packaged model or on SmolLM2.

    python -m benchmarks.quantisation                                 # the packaged reference model
    python -m benchmarks.quantisation --gguf SmolLM2-135M-Instruct.Q4_1.gguf

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

from palmtop.export.arch import find
from palmtop.export.checkpoint import Checkpoint
from palmtop.export.plan import with_fallback
from palmtop.export.plan.calibrate import StatisticsFolder, calibrate
from palmtop.export.plan.float_model import FloatModel
from palmtop.export.plan.loss import LossMeter
from palmtop.export.plan.samples import Question, Sample, SampleReader, packaged_questions
from palmtop.export.plan.size import float_bundle
from palmtop.export.recipe import METHODS, Recipe
from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.statistics import Statistics
from palmtop.runtime.manifest import MODES
from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import held_out_items


def k_quant(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None) -> NDArray[np.float32]:
    """What onnxruntime's k_quant makes of the weights."""
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor_k_quant_cpu

    rows, columns = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -columns % scheme.group)))
    codes, scales, zeros = quant_tensor_k_quant_cpu(padded, scheme.bits, scheme.group)
    scales = scheme.stored(scales.astype(np.float32))
    return np.asarray(((codes - zeros) * scales).reshape(rows, -1)[:, :columns], np.float32)


def reference(folder: Path, items: int) -> tuple[FloatModel, list[Sample], list[Sample]]:
    """The packaged model, calibration samples, and held-out questions to judge on."""
    checkpoint = Checkpoint(checkpoint_path())
    model = find("phi4mm").read_model(checkpoint, Recipe().context)
    manifest = float_bundle(folder / "float", checkpoint, model, Recipe())
    reader = SampleReader(folder / "float", manifest)
    calibration = [reader.read(q) for q in packaged_questions(MODES, items, manifest.decoder.vocab_size)]
    judged = [
        reader.read(Question(mode=mode, messages=item.messages, answer=item.expected))
        for mode in MODES
        for item in held_out_items(mode, items, 0)  # type: ignore[arg-type]
    ]
    return FloatModel(folder / "float", manifest, open_sessions=4096), calibration, judged


def smollm2(folder: Path, gguf: Path, items: int, length: int) -> tuple[FloatModel, list[Sample], list[Sample]]:
    """SmolLM2 off its grid, and passages of English."""
    from .smollm2 import english, float_model, read_gguf, rotated, tokenizer

    arrays, fields = read_gguf(gguf)
    tokens = tokenizer(fields)
    model = float_model(rotated(arrays), folder / "float", open_sessions=4096)
    calibration = english(tokens, part="calibration", length=length, count=items)
    return model, calibration, english(tokens, part="evaluation", length=length, count=max(1, items // 4))


@click.command()
@click.option(
    "--gguf", type=click.Path(path_type=Path, exists=True), help="SmolLM2's file instead of the packaged model."
)
@click.option("--items", type=int, default=24, show_default=True, help="Calibration samples of each mode.")
@click.option("--length", type=int, default=256, show_default=True, help="Tokens of a passage.")
@click.option("--bits", type=int, default=4, show_default=True)
@click.option("--group", type=int, default=32, show_default=True)
@click.option("--symmetric", is_flag=True)
@click.option("--method", "methods", multiple=True, default=("rtn", "k_quant", "search", "hqq", "awq", "gptq"))
def main(
    gguf: Path | None, items: int, length: int, bits: int, group: int, symmetric: bool, methods: tuple[str, ...]
) -> None:
    """Print a line a method."""
    scheme = Scheme(bits=bits, group=group, symmetric=symmetric, scale_bits=16)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, calibration, judged = reference(folder, items) if gguf is None else smollm2(folder, gguf, items, length)
        (folder / "statistics").mkdir()
        statistics = StatisticsFolder(folder / "statistics")
        calibrate(model, calibration, statistics)
        meter = LossMeter(model, judged)
        weights = {
            (part, name): graph.weight(linear)
            for part, graph in model.graphs.items()
            for name, (_, linear) in graph.linears().items()
        }
        stored = sum(sum(scheme.tensor_bytes(*w.shape)) for w in weights.values())  # type: ignore[misc]
        click.echo(f"{8 * stored / sum(w.size for w in weights.values()):.3f} bits a weight, {scheme}")
        for method in methods:
            started = time.perf_counter()
            changed: dict[str, dict[str, NDArray[np.float32]]] = {}
            for (part, name), weight in weights.items():
                inputs = statistics.find(f"{part}: {name}")
                if method == "k_quant":
                    changed.setdefault(part, {})[name] = k_quant(weight, scheme)
                else:
                    quantized = with_fallback(METHODS[method])(weight, scheme, inputs)
                    if inputs is None and method in ("rtn", "hqq"):
                        quantized = METHODS[method](weight, scheme)
                    changed.setdefault(part, {})[name] = dequantize(quantized)
            seconds = time.perf_counter() - started
            loss = meter.loss(changed)
            modes = ", ".join(f"{mode} {kl:.4f}/{loss.top1[mode]:.1%}" for mode, kl in loss.kl.items())
            click.echo(f"{method:8} KL {loss.mean_kl:.5f}  top-1 {loss.mean_top1:.2%}  ({modes})  {seconds:.0f} s")


if __name__ == "__main__":
    main()
