"""Plans against uniform bundles at eight equal sizes, on the packaged model: measured loss, predicted loss, size.

    python -m benchmarks.budget

Sizes are those of uniform schemes. Both sides use the same method and the same calibration samples; losses are
measured on held-out questions that neither has seen, weights alone (activations float32).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from palmtop.export.arch import find
from palmtop.export.checkpoint import Checkpoint
from palmtop.export.plan import Plan
from palmtop.export.plan.calibrate import StatisticsFolder, calibrate
from palmtop.export.plan.loss import LossMeter
from palmtop.export.plan.planner import Planner, measure
from palmtop.export.plan.size import graph_bytes
from palmtop.export.recipe import METHODS, Recipe
from palmtop.quantize.scheme import Scheme
from palmtop.runtime.reference import checkpoint_path

from .quantisation import reference

SIZES = (*((4, group, 16) for group in (16, 32, 64, 128)), (4, 32, 32), (8, 32, 16), (8, 64, 16), (2, 16, 16))


@click.command()
@click.option("--method", default="gptq", show_default=True)
@click.option("--items", type=int, default=24, show_default=True, help="Samples of each mode, for either purpose.")
@click.option("--alone", type=int, default=8, show_default=True, help="That tensors are judged on by themselves.")
@click.option("--json", "as_json", is_flag=True)
def main(method: str, items: int, alone: int, as_json: bool) -> None:
    """Print a line a size."""
    checkpoint, recipe, quantizer = Checkpoint(checkpoint_path()), Recipe(method=method), METHODS[method]
    model = find("phi4mm").read_model(checkpoint, recipe.context)
    with tempfile.TemporaryDirectory() as temporary:
        float_model, calibration, judged = reference(Path(temporary), items)
        (Path(temporary) / "statistics").mkdir()
        statistics = StatisticsFolder(Path(temporary) / "statistics")
        calibrate(float_model, calibration, statistics)
        few = [s for place, s in enumerate(calibration) if place % items < alone]
        sensitivities = measure(float_model, LossMeter(float_model, few), quantizer, statistics.find)

        def size_of(tensors: object) -> int:
            return graph_bytes(model, recipe, Plan(method=method, tensors=tensors))  # type: ignore[arg-type]

        planner = Planner(
            float_model, LossMeter(float_model, calibration), sensitivities, quantizer, method, statistics.find, size_of
        )
        held_out = Planner(
            float_model, LossMeter(float_model, judged), sensitivities, quantizer, method, statistics.find, size_of
        )
        for bits, group, scale_bits in SIZES:
            uniform = held_out.uniform(Scheme(bits=bits, group=group, scale_bits=scale_bits))
            assert uniform.size_bytes is not None
            plan = planner.for_size(uniform.size_bytes)
            assert plan.loss is not None
            found = held_out.measured(plan.tensors).mean_kl
            row = {
                "uniform": f"{bits} bits in {group}s, scales of {scale_bits}",
                "size_bytes": uniform.size_bytes,
                "plan_bytes": plan.size_bytes,
                "uniform_kl": uniform.loss,
                "plan_kl": found,
                "predicted_kl": plan.loss,
            }
            click.echo(json.dumps(row) if as_json else "  ".join(f"{k} {v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
