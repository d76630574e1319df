"""Comparison of every stored tensor with the checkpoint's, with a limit by its bits."""

from __future__ import annotations

from dataclasses import replace

from palmtop.export.arch import Model
from palmtop.export.bundle.bundle_writer import build_graph
from palmtop.export.recipe import Recipe
from palmtop.export.verify.quality import Check
from palmtop.export.verify.tensors import ComparingSink, Likeness
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.opening import Bundle

MIN_TENSOR_SNR_DB = {2: 5.0, 4: 12.0, 8: 30.0, 32: 120.0}  # dB; a halved tensor has 6 dB, one of another model about 0


def compare_tensors(bundle: Bundle, model: Model, recipe: Recipe, workers: Workers | None) -> dict[str, Likeness]:
    """Return the likeness of every stored tensor, over all three graphs."""
    found: dict[str, Likeness] = {}
    as_float = replace(recipe, bits=32, head_bits=None, encoder_bits=None)
    for part in model.graphs:
        sink = ComparingSink(bundle.file(f"{part}.onnx"), workers)
        build_graph(model, as_float, part, sink)
        found |= {f"{part}: {name}": likeness for name, likeness in sink.found.items()}
    return found


def judge_tensors(tensors: dict[str, Likeness]) -> list[Check]:
    """Return one check for each group of tensors, naming the one furthest below the limit of its bits."""
    groups: dict[str, list[tuple[float, str, Likeness]]] = {}
    for name, likeness in tensors.items():
        part, tensor = name.split(": ", 1)
        adapter = tensor.rsplit(".", 1)[-1] if ".lora_" in tensor else None
        margin = likeness.snr_db - MIN_TENSOR_SNR_DB[likeness.bits]
        groups.setdefault(f"adapter {adapter}" if adapter else part, []).append((margin, tensor, likeness))
    checks = []
    for group, values in groups.items():
        margin, tensor, worst = min(values, key=lambda v: v[0])
        checks.append(
            Check(
                name=f"{group}: stored tensors",
                passed=margin >= 0,
                value=round(worst.snr_db, 2),
                limit=MIN_TENSOR_SNR_DB[worst.bits],
                detail=f"least exact of {len(values)} tensors is '{tensor}' with {worst.snr_db:.1f} dB"
                f" at {worst.bits} bits",
            )
        )
    return checks
