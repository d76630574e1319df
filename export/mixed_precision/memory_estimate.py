"""Estimate of the memory for calibration and planning, checked before hours of work."""

from __future__ import annotations

from collections.abc import Sequence

from palmtop.errors import OptionError
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.samples import Sample
from palmtop.runtime.memory.machine import available_memory, rss_bytes


def refuse_little_memory(
    model: FloatReference,
    samples: Sequence[Sample],
    alone: Sequence[Sample],
    together: Sequence[Sample],
    ram_bytes: int | None,
    runs: int = 1,
) -> None:
    """Refuse a memory limit that is too small for one layer, its statistics and the samples.

    A lower bound: a layer's weights mapped, copied and prepacked; second moments in float32 and four times in float64
    while they are solved; float32 logits, and a sample's three times in float64; hidden states between layers, those of
    every layer for the samples that measure single tensors; all of it twice where two runs go side by side.
    """
    if ram_bytes is None:
        return
    stages = [stage for graph in model.graphs.values() for stage in graph.stages]
    shapes = [
        [graph.shape(linear) for linear in stage.linears] for graph in model.graphs.values() for stage in graph.stages
    ]
    layer = max(sum(4 * rows * columns for rows, columns in of_stage) for of_stage in shapes)
    widest = max((columns for of_stage in shapes for _, columns in of_stage), default=0)
    moments = max(sum(4 * columns**2 for _, columns in of_stage) for of_stage in shapes)
    judged = [*alone, *together]
    positions = [len(sample.positions) for sample in judged]
    logits = model.manifest.decoder.vocab_size * (4 * sum(positions) + 24 * max(positions, default=0))
    kept = (
        4
        * model.manifest.decoder.hidden_size
        * (
            max(sum(len(sample.input_ids) for sample in some) for some in (samples, together))
            + len(stages) * sum(len(sample.input_ids) for sample in alone)
        )
    )
    needed = (rss_bytes() or 0) + 3 * runs * layer + moments + 36 * widest**2 + logits + kept
    if needed > ram_bytes:
        raise OptionError(
            "ram",
            f"found {ram_bytes / 1e6:.0f} MB, expected at least {needed / 1e6:.0f} MB to calibrate or plan this model;"
            " --plan-file replays a plan that was made with rtn or search in less",
        )


def stages_in_memory(checkpoint: Checkpoint, ram_bytes: int | None) -> int:
    """Return how many stages stay loaded: all if the float model fits three times into memory, else one."""
    free = [count for count in (available_memory(), ram_bytes) if count is not None]
    return 1 if free and 6 * checkpoint.size_bytes > min(free) else 4096
