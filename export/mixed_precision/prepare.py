"""Preparation of a planned or calibrated export: float model, samples, statistics, plan."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from palmtop.errors import InputError
from palmtop.export.arch import Model
from palmtop.export.bundle.bundle_writer import accuracy_level_of
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.kv.calibrate import ITEMS, CacheObserver
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.samples import Sample, SampleReader, packaged_questions, read_questions
from palmtop.export.recipe import CALIBRATED, IN_ORDER, METHODS, Recipe
from palmtop.quantize.parallel_rows import on_every_core
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.workers import plan_workers
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.memory.machine import rss_bytes

from .allocation import BitAllocation, Planned, with_fallback
from .allocator import Allocator, fastest_decode, measure, refuse_speed
from .budget import Request
from .bundle_size import bundle_bytes, linear_names
from .calibrate import StatisticsFolder, calibrate, starved_note
from .kernel_time import ENCODER_TOKENS, refuse_without_kernel
from .memory_estimate import refuse_little_memory, stages_in_memory
from .quantized_cache import QuantizedCache
from .quantized_store import QuantizedStore
from .sensitivity import LossMeter
from .sequential import quantize_in_order
from .splits import in_turns, in_two, judged_beside, judged_of

ANY_SIZE = 1 << 62  # size limit in bytes, where only a speed is given
Report = Callable[[str], None]


@contextmanager
def prepared(
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    request: Request,
    report: Report | None = None,
    ram_bytes: int | None = None,
    *,
    with_cache: bool = False,
) -> Iterator[Planned]:
    """Yield a plan with its statistics, which are on disk while the block runs.

    Args:
        checkpoint: checkpoint of the model.
        model: model of the checkpoint.
        recipe: export options.
        request: limits of the plan, and samples.
        report: called with a sentence on each step.
        ram_bytes: memory limit of this process; None for no limit.
        with_cache: whether the scales of the recipe's KV cache are found as well, in the same walk where there is one.

    Raises:
        InputError: a size or loss is not possible, samples cannot be used, a plan names an unknown tensor, or the work
            needs more than the memory limit.
    """
    tell = report or (lambda _: None)
    plan = request.plan or BitAllocation(method=recipe.method, tensors={})
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
        workers = plan_workers(ram_bytes, rss_bytes() or 0)
        float_model = FloatReference(folder / "float", checkpoint, model, recipe, workers=workers)
        manifest = float_model.manifest
        if request.speed is not None:  # before the hours of calibration
            refuse_speed(fastest_decode(float_model.graphs["decoder"], recipe.accuracy_level), 1 / request.speed)
        has_cache = with_cache and recipe.kv != 32
        samples, of_cache = _samples(folder / "float", manifest, request, ITEMS if has_cache else 0)
        cache = CacheObserver(manifest.decoder, model.decoder.rope.rotary_size, of_cache) if has_cache else None
        judged = judged_of(samples) if request.is_solved else []
        more = judged_beside(folder / "float", manifest, request.items) if judged and request.samples is None else []
        alone, together = in_two(judged)
        choosing, verdict = in_turns(more)
        together += choosing
        is_in_order = plan.method in IN_ORDER
        walked = [*samples, *(sample for sample, _ in (cache.runs if cache else ()))]
        refuse_little_memory(float_model, walked, alone, [*together, *verdict], ram_bytes, runs=2 if is_in_order else 1)
        work = _Work(folder, checkpoint, model, recipe, float_model, ram_bytes, tell, request.speed)
        apart = {id(sample) for sample in judged} if len(judged) < len(samples) else set()
        seen = [sample for sample in samples if id(sample) not in apart]
        if request.is_solved or not is_in_order:
            calibrate(float_model, seen, work.statistics, lambda at: tell(f"calibration: {at}"), cache)
        elif cache is not None:
            cache.walk(float_model, tell)
        planner: Allocator | None = None
        if request.is_solved:
            planner = work.planner(plan.method, alone, together, verdict)
            tell("solver")
            if request.loss is not None:
                plan = planner.for_loss(request.loss)
            else:
                plan = planner.for_size(ANY_SIZE if request.size_bytes is None else request.size_bytes)
        elif not plan.tensors or is_in_order:  # quantisation in order needs the schemes of all tensors before
            plan = replace(plan, tensors=_uniform(float_model, recipe) | dict(plan.tensors))
        _check_names(plan, model, recipe)
        if is_in_order:
            work.quantize_in_order(plan, seen)
            plan = plan if planner is None else _judged_again(plan, planner)
        yield Planned(
            plan=plan,
            quantizer=with_fallback(quantizer),
            statistics=work.statistics.find,
            stored=work.codes.rows,
            cache=None if cache is None else cache.cache(recipe.kv),
            notes=tuple(note for note in (starved_note(work.statistics.starved),) if note),
        )


class _Work:
    """One float model with its samples, statistics and codes."""

    def __init__(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        model: Model,
        recipe: Recipe,
        reference: FloatReference,
        ram_bytes: int | None,
        report: Report,
        speed: float | None = None,
    ) -> None:
        self._speed = speed
        self._folder, self._model, self._recipe, self._reference = folder, model, recipe, reference
        self._open_sessions = stages_in_memory(checkpoint, ram_bytes)
        self._report = report
        for name in ("statistics", "codes"):
            (folder / name).mkdir()
        self.statistics = StatisticsFolder(folder / "statistics")
        self.codes = QuantizedStore(folder / "codes")
        self._coded: QuantizedCache | None = None

    def planner(
        self, method: str, alone: Sequence[Sample], together: Sequence[Sample], verdict: Sequence[Sample]
    ) -> Allocator:
        """Return a planner: tensors on the first samples, whole plans on the second, the verdict on the last."""
        opened = self._reference.with_sessions(self._open_sessions)
        coded = self._coded = QuantizedCache(opened, METHODS[method], self.statistics.find)
        meter = LossMeter(opened, alone)
        levels = {part: accuracy_level_of(part, self._recipe) for part in opened.graphs}
        sensitivities = measure(opened, meter, coded, levels, lambda key: self._report(f"sensitivity: {key}"))

        def size_of(tensors: Mapping[str, Scheme | None]) -> int:
            own = BitAllocation(method=method, tensors=tensors)
            return bundle_bytes(self._folder / "float", self._reference.manifest, self._model, self._recipe, own)

        whole = LossMeter(opened, together, from_start=True)
        last = LossMeter(opened, verdict, from_start=True) if verdict else None
        limit = None if self._speed is None else 1 / self._speed
        return Allocator(opened, whole, sensitivities, coded, method, size_of, last, limit)

    def quantize_in_order(self, plan: BitAllocation, samples: Sequence[Sample]) -> None:
        """Fill ``codes`` layer after layer; later measurements use them."""
        model = self._reference.with_sessions(2)

        def keep(key: str, tensor: QuantizedTensor) -> None:
            kept = self.codes.keep(key, tensor)
            if self._coded is not None:
                self._coded.take(key, kept)

        quantizer = on_every_core(with_fallback(METHODS[plan.method]))
        report, starved = lambda at: self._report(f"in order: {at}"), self.statistics.starved
        starved.clear()
        quantize_in_order(model, samples, plan.tensors, quantizer, keep, report, starved)


def _judged_again(plan: BitAllocation, planner: Allocator) -> BitAllocation:
    """Return the plan with the loss of the codes made in order; losses of neighbours are scaled by the same factor."""
    loss = planner.predicted(plan.tensors).mean_kl
    share = loss / max(plan.loss or loss, 1e-12)
    return replace(plan, loss=loss, frontier=tuple((size, lost * share) for size, lost in plan.frontier))


def _samples(folder: Path, manifest: Manifest, request: Request, of_cache: int) -> tuple[list[Sample], list[Sample]]:
    """Return the samples of the weights, and those of a KV cache's scales: so many packaged ones of each mode."""
    reader = SampleReader(folder, manifest)
    if request.samples is not None:
        own = [reader.read(question) for question in read_questions(request.samples)]
        return own, own
    found: tuple[list[Sample], list[Sample]] = [], []
    passed = Counter[tuple[str, bool]]()
    count, is_general = max(request.items, of_cache), reader.is_general
    for question in packaged_questions(list(manifest.routes), count, is_general=is_general):
        kind = question.mode, bool(question.messages)  # prose and questions are counted separately
        passed[kind] += 1
        sample = reader.read(question)
        for chosen, most in zip(found, (request.items, of_cache), strict=True):
            chosen += [sample] if passed[kind] <= most else []
    return found


def _uniform(model: FloatReference, recipe: Recipe) -> dict[str, Scheme | None]:
    """Return the recipe's schemes, tensor by tensor."""
    found: dict[str, Scheme | None] = {}
    for part, graph in model.graphs.items():
        for name in graph.linears():
            is_head = name in ("embed_tokens", "lm_head")
            scheme = recipe.head_scheme if is_head else recipe.decoder_scheme
            found[f"{part}: {name}"] = recipe.encoder_scheme if part != "decoder" else scheme
    return found


def _check_names(plan: BitAllocation, model: Model, recipe: Recipe) -> None:
    """Refuse a plan for tensors that the model does not have."""
    there = linear_names(model, recipe)
    if unknown := sorted(plan.tensors.keys() - there):
        raise InputError(f"plan: the model has no tensor '{unknown[0]}', expected names as in a plan made for it")
    for key, scheme in plan.tensors.items():
        if scheme is not None:
            part = key.partition(": ")[0]
            tokens = 1 if part == "decoder" else ENCODER_TOKENS
            refuse_without_kernel(key, scheme, accuracy_level_of(part, recipe), tokens)
