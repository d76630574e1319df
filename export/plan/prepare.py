"""All that has to happen before a planned or calibrated export: float model, samples, statistics, plan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from palmtop.errors import InputError
from palmtop.export.arch import Model
from palmtop.export.bundle_files import Making
from palmtop.export.checkpoint import Checkpoint
from palmtop.export.recipe import CALIBRATED, METHODS, Recipe
from palmtop.export.workers import plan_workers
from palmtop.quantize.scheme import Scheme
from palmtop.runtime.machine import available_memory, rss_bytes
from palmtop.runtime.manifest import Manifest

from . import Plan, Planned, with_fallback
from .calibrate import StatisticsFolder, calibrate
from .coded import CodedModel
from .float_model import FloatModel
from .loss import LossMeter
from .planner import Planner, measure
from .request import Request
from .samples import Sample, SampleReader, later_questions, packaged_questions, read_questions
from .size import bundle_bytes, float_bundle, linear_names

JUDGED_EVERY = 4  # of a mode's samples the fourth, the eighth ... are not calibrated on: plans are judged on them
SPLIT_FROM = 8  # fewer samples serve both purposes
JUDGED_BESIDE = 1000  # packaged samples of each mode that whole plans are judged on besides
JUDGED_LOGITS_BYTES = 256 << 20  # of those
JUDGED_ALONE = 8  # of those, that every tensor is judged on by itself, twice; whole plans are on the others
Report = Callable[[str], None]


@contextmanager
def prepared(
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    request: Request,
    report: Report | None = None,
    ram_bytes: int | None = None,
) -> Iterator[Planned]:
    """A plan and its statistics, which are on disk while the block runs.

    Raises:
        InputError: a size or loss cannot be had, samples cannot be used, a plan names what is not there, or the
            work needs more than the memory limit.
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
        making = Making(workers=plan_workers(ram_bytes, rss_bytes() or 0))
        manifest = float_bundle(folder / "float", checkpoint, model, recipe, making)
        float_model = FloatModel(folder / "float", manifest)
        samples = _samples(folder / "float", manifest, request)
        judged = judged_of(samples) if request.is_solved else []
        more = judged_beside(folder / "float", manifest, request.items) if judged and request.samples is None else []
        alone, together = in_two(judged)
        together += more
        refuse_little_memory(float_model, samples, alone, together, ram_bytes)
        (folder / "statistics").mkdir()
        statistics = StatisticsFolder(folder / "statistics")
        apart = {id(sample) for sample in judged} if len(judged) < len(samples) else set()
        seen = [sample for sample in samples if id(sample) not in apart]
        calibrate(float_model, seen, statistics, lambda part: tell(f"calibration: {part}"))
        if request.is_solved:
            opened = FloatModel(folder / "float", manifest, open_sessions=_stages_in_memory(checkpoint, ram_bytes))
            coded = CodedModel(opened, quantizer, statistics.find)
            meter = LossMeter(opened, alone)
            sensitivities = measure(opened, meter, coded, lambda key: tell(f"sensitivity: {key}"))

            def size_of(tensors: Mapping[str, Scheme | None]) -> int:
                own = Plan(method=plan.method, tensors=tensors)
                return bundle_bytes(folder / "float", manifest, model, recipe, own)

            tell("solver")
            whole = LossMeter(opened, together, from_start=True)
            planner = Planner(opened, whole, sensitivities, coded, plan.method, size_of)
            if request.size_bytes is not None:
                plan = planner.for_size(request.size_bytes)
            elif request.loss is not None:
                plan = planner.for_loss(request.loss)
        elif not plan.tensors:
            plan = replace(plan, tensors=_uniform(float_model, recipe))
        _check_names(plan, model, recipe)
        yield Planned(plan=plan, quantizer=with_fallback(quantizer), statistics=statistics.find)


def _samples(folder: Path, manifest: Manifest, request: Request) -> list[Sample]:
    reader, vocabulary = SampleReader(folder, manifest), manifest.decoder.vocab_size
    questions = (
        packaged_questions(list(manifest.routes), request.items, vocabulary)
        if request.samples is None
        else read_questions(request.samples)
    )
    return [reader.read(question) for question in questions]


def judged_of(samples: Sequence[Sample]) -> list[Sample]:
    """Of every mode those that plans are judged on; a mode with few samples gives all of them."""
    found: list[Sample] = []
    for mode in dict.fromkeys(sample.mode for sample in samples):
        own = [sample for sample in samples if sample.mode == mode]
        found += own[JUDGED_EVERY - 1 :: JUDGED_EVERY] if len(own) >= SPLIT_FROM else own
    return found


def judged_beside(folder: Path, manifest: Manifest, seen: int) -> list[Sample]:
    """More packaged samples to judge whole plans on: what they lose hangs on few tokens, so it takes many to tell.

    As many of each mode as the float model's logits have room for.

    Args:
        folder: of the float model.
        manifest: its own.
        seen: packaged samples of each mode that are used already.
    """
    reader, vocabulary = SampleReader(folder, manifest), manifest.decoder.vocab_size
    left = JUDGED_LOGITS_BYTES
    most = left // (4 * vocabulary * len(manifest.routes))  # each has a position at least
    questions = list(later_questions(manifest.routes, seen, min(JUDGED_BESIDE, most), vocabulary))
    by_mode = [[q for q in questions if q.mode == mode] for mode in manifest.routes]
    found: list[Sample] = []
    for row in zip_longest(*by_mode):
        some = [reader.read(question) for question in row if question is not None]
        left -= 4 * vocabulary * sum(len(sample.positions) for sample in some)
        if left < 0:
            break
        found += some
    return found


def in_two(judged: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Those that single tensors are judged on, and others for whole plans.

    A solver takes what seems harmless on its samples; how harmless that is, other samples have to say.
    """
    alone: list[Sample] = []
    together: list[Sample] = []
    for mode in dict.fromkeys(sample.mode for sample in judged):
        own = [sample for sample in judged if sample.mode == mode]
        count = min(JUDGED_ALONE, len(own) // 2)
        alone += own[:count] or own
        together += own[count:]
    return alone, together


def refuse_little_memory(
    model: FloatModel,
    samples: Sequence[Sample],
    alone: Sequence[Sample],
    together: Sequence[Sample],
    ram_bytes: int | None,
) -> None:
    """Refuse a memory limit that one layer, its statistics and the judged samples do not fit into.

    An estimate from below: a layer's weights mapped, copied and prepacked; second moments in float32 and four
    times in float64 while they are solved; float32 logits, and a sample's three times in float64; hidden states
    between layers, of the samples that single tensors are judged on those of every layer.
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
    needed = (rss_bytes() or 0) + 3 * layer + moments + 36 * widest**2 + logits + kept
    if needed > ram_bytes:
        raise InputError(
            f"ram is {ram_bytes / 1e6:.0f} MB, expected at least {needed / 1e6:.0f} MB to calibrate or plan this model;"
            " --plan-file replays a plan that was made with rtn, search or hqq in less"
        )


def _stages_in_memory(checkpoint: Checkpoint, ram_bytes: int | None) -> int:
    """Every stage where the float model fits three times into memory, else one at a time."""
    free = [count for count in (available_memory(), ram_bytes) if count is not None]
    return 1 if free and 6 * checkpoint.size_bytes > min(free) else 4096


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
