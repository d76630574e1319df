"""All that has to happen before a planned or calibrated export: float model, samples, statistics, plan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from palmtop.errors import InputError
from palmtop.export.arch import Model
from palmtop.export.checkpoint import Checkpoint
from palmtop.export.recipe import CALIBRATED, METHODS, Recipe
from palmtop.quantize.scheme import Scheme
from palmtop.runtime.machine import available_memory

from . import Plan, Planned, with_fallback
from .calibrate import StatisticsFolder, calibrate
from .float_model import FloatModel
from .loss import LossMeter
from .planner import Planner, measure
from .request import Request
from .samples import SampleReader, packaged_questions, read_questions
from .size import float_bundle, graph_bytes, linear_names, other_bytes

JUDGED_ALONE = 4  # samples of a mode that every tensor is judged on by itself, twice
JUDGED_TOGETHER = 32  # that whole plans are judged on
Report = Callable[[str], None]


@contextmanager
def prepared(
    checkpoint: Checkpoint, model: Model, recipe: Recipe, request: Request, report: Report | None = None
) -> Iterator[Planned]:
    """A plan and its statistics, which are on disk while the block runs.

    Raises:
        InputError: a size or loss cannot be had, samples cannot be used, or a plan names what is not there.
    """
    tell = report or (lambda _: None)
    plan = request.plan or Plan(method=recipe.method, tensors={})
    if plan.method not in METHODS:
        raise InputError(f"plan: method is '{plan.method}', expected one of {', '.join(METHODS)}")
    quantizer = METHODS[plan.method]
    if not request.is_solved and plan.method not in CALIBRATED:
        _check_names(plan, model, recipe)
        yield Planned(plan=plan, quantizer=with_fallback(quantizer), statistics=lambda key: None)
        return
    with tempfile.TemporaryDirectory(prefix="palmtop-plan-") as temporary:
        folder = Path(temporary)
        tell("float model")
        manifest = float_bundle(folder / "float", checkpoint, model, recipe)
        float_model = FloatModel(folder / "float", manifest)
        reader = SampleReader(folder / "float", manifest)
        prose = manifest.decoder.vocab_size
        questions = (
            packaged_questions(list(manifest.routes), request.items, prose)
            if request.samples is None
            else read_questions(request.samples)
        )
        samples = [reader.read(question) for question in questions]
        (folder / "statistics").mkdir()
        statistics = StatisticsFolder(folder / "statistics")
        calibrate(float_model, samples, statistics, lambda part: tell(f"calibration: {part}"))
        if request.is_solved:
            few, many = (
                [s for mode in manifest.routes for s in [x for x in samples if x.mode == mode][-count:]]
                for count in (JUDGED_ALONE, JUDGED_TOGETHER)
            )
            opened = FloatModel(folder / "float", manifest, open_sessions=_stages_in_memory(checkpoint))
            alone = LossMeter(opened, few)
            sensitivities = measure(opened, alone, quantizer, statistics.find, lambda key: tell(f"sensitivity: {key}"))
            rest = other_bytes(folder / "float") - (folder / "float" / "bundle.json").stat().st_size

            def size_of(tensors: object) -> int:
                graphs = graph_bytes(model, recipe, Plan(method=plan.method, tensors=tensors))  # type: ignore[arg-type]
                return graphs + rest

            tell("solver")
            planner = Planner(
                opened, LossMeter(opened, many), sensitivities, quantizer, plan.method, statistics.find, size_of
            )
            if request.size_bytes is not None:
                plan = planner.for_size(request.size_bytes)
            elif request.loss is not None:
                plan = planner.for_loss(request.loss)
        elif not plan.tensors:
            plan = replace(plan, tensors=_uniform(float_model, recipe))
        _check_names(plan, model, recipe)
        yield Planned(plan=plan, quantizer=with_fallback(quantizer), statistics=statistics.find)


def _stages_in_memory(checkpoint: Checkpoint) -> int:
    """Every stage where the float model fits twice into memory, else one at a time."""
    free = available_memory()
    return 1 if free is not None and 12 * checkpoint.size_bytes // 2 > free else 4096


def _uniform(model: FloatModel, recipe: Recipe) -> dict[str, Scheme | None]:
    """What the recipe says, tensor by tensor."""
    found: dict[str, Scheme | None] = {}
    for part, graph in model.graphs.items():
        for name in graph.linears():
            is_head = name in ("embed_tokens", "lm_head")
            scheme = recipe.head_scheme if is_head else recipe.decoder_scheme
            found[f"{part}: {name}"] = recipe.encoder_scheme if part != "decoder" else scheme
    return found


def _check_names(plan: Plan, model: Model, recipe: Recipe) -> None:
    """Refuse a plan for tensors that the model does not have."""
    there = linear_names(model, recipe)
    if unknown := sorted(plan.tensors.keys() - there):
        raise InputError(f"plan: the model has no tensor '{unknown[0]}', expected names as in a plan made for it")
