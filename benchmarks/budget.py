"""Plans against uniform bundles at eight equal sizes, on the packaged model: measured loss, predicted loss, size.

    python -m benchmarks.budget --write

Sizes are those of uniform schemes. Both sides use the same method and the same calibration samples; losses are
measured on held-out questions that neither planning nor calibration has seen, weights alone (activations float32).
Each plan is then written as a bundle, whose files are counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.quantisation import reference
from benchmarks.tables import machine, put_between
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.convert import export_model
from palmtop.export.mixed_precision.allocation import BitAllocation
from palmtop.export.mixed_precision.allocator import Allocator, measure
from palmtop.export.mixed_precision.budget import Request
from palmtop.export.mixed_precision.bundle_size import bundle_bytes
from palmtop.export.mixed_precision.calibrate import StatisticsFolder, calibrate
from palmtop.export.mixed_precision.quantized_cache import QuantizedCache
from palmtop.export.mixed_precision.sensitivity import LossMeter
from palmtop.export.mixed_precision.splits import JUDGED_BESIDE, in_turns, in_two, judged_beside, judged_of
from palmtop.export.recipe import METHODS, Recipe
from palmtop.quantize.scheme import Scheme
from palmtop.runtime.reference import checkpoint_path

PAGE, MARK = Path(__file__).parent.parent / "docs" / "quantise.md", "plans"
SIZES = ((2, 16, 16), *((4, group, 16) for group in (128, 64, 32, 16)), (4, 32, 32), (8, 64, 16), (8, 32, 16))
HEADER = (
    "| uniform | bytes | KL, uniform | KL, plan | share | KL predicted | single sum | of measured | written bytes |"
)


def written_bytes(plan: BitAllocation, folder: Path) -> int:
    """Of a bundle that follows a plan, without quality.json; rounding gives as many bytes as any method."""
    request = Request(plan=replace(plan, method="rtn"))
    bundle = export_model(checkpoint_path(), folder, Recipe(method="rtn"), request=request, overwrite=True)
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


@click.command()
@click.option("--method", default="gptq", show_default=True)
@click.option("--items", type=int, default=160, show_default=True, help="Samples of each mode to plan with.")
@click.option("--judged", type=int, default=600, show_default=True, help="Held-out questions of each mode.")
@click.option("--write", is_flag=True, help="Renew the table of docs/quantise.md.")
def main(method: str, items: int, judged: int, write: bool) -> None:
    """Print a line a size."""
    checkpoint, recipe, quantizer = Checkpoint(checkpoint_path()), Recipe(method=method), METHODS[method]
    model = read_model(checkpoint, recipe)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        float_model, samples, held_out = reference(folder, items, judged)
        (folder / "statistics").mkdir()
        statistics = StatisticsFolder(folder / "statistics")
        apart = judged_of(samples)
        calibrate(float_model, [s for s in samples if all(s is not other for other in apart)], statistics)
        alone, together = in_two(apart)
        choosing, verdict = in_turns(judged_beside(folder / "float", float_model.manifest, items))
        together += choosing
        coded = QuantizedCache(float_model, quantizer, statistics.find, kept_bytes=1 << 30)
        sensitivities = measure(float_model, LossMeter(float_model, alone), coded)
        click.echo("every tensor is measured", err=True)

        def size_of(tensors: Mapping[str, Scheme | None]) -> int:
            own = BitAllocation(method=method, tensors=tensors)
            return bundle_bytes(folder / "float", float_model.manifest, model, recipe, own)

        def planner(meter: LossMeter, last: LossMeter | None = None) -> Allocator:
            return Allocator(float_model, meter, sensitivities, coded, method, size_of, last)

        meters = [LossMeter(float_model, some, from_start=True) for some in (together, verdict, held_out)]
        planning, judging = planner(meters[0], meters[1]), planner(meters[2])
        lines = [HEADER, "|---|---|---|---|---|---|---|---|---|"]
        for bits, group, scale_bits in SIZES:
            uniform = judging.uniform(Scheme(bits=bits, group=group, scale_bits=scale_bits))
            assert uniform.size_bytes is not None and uniform.loss is not None
            plan = planning.for_size(uniform.size_bytes)
            assert plan.loss is not None and plan.size_bytes is not None
            found = judging.measured(plan.tensors).mean_kl
            alone_sum = sum(s.losses[s.schemes.index(scheme)] for s in sensitivities if (scheme := plan.tensors[s.key]))
            share = written_bytes(plan, folder / "bundle") / plan.size_bytes
            lines.append(
                f"| {bits} bits in {group}s, scales of {scale_bits} | {uniform.size_bytes:,} | {uniform.loss:.2e}"
                f" | {found:.2e} | {found / uniform.loss:.2f} | {plan.loss:.2e} | {alone_sum:.2e}"
                f" | {plan.loss / found:.2f} | {share:.5f} |"
            )
            click.echo(lines[-1])
        if write:
            under = (
                f"{items} samples of each mode to plan with, every fourth of them and {JUDGED_BESIDE} more to judge"
                f" plans, three in four of those to predict with; {judged} other questions of each mode for this table;"
                f" {method}; {machine()}."
            )
            put_between(PAGE, MARK, "\n".join(lines) + f"\n\n{under}")


if __name__ == "__main__":
    main()
