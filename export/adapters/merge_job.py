"""Merge of adapters from folders or a bundle into a folder, and its loss on samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palmtop.errors import InputError
from palmtop.runtime.bundle.opening import Bundle

from .adapter_source import read_origin, read_peft, refuse_without_effect
from .in_memory_bundle import Trial
from .merge import merge, read_products, report
from .peft_writer import Products, products_of, write_peft

BASE = "base"


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter to be merged, with its coefficient.

    Attributes:
        place: path of a PEFT folder, or a name in a bundle.
        weight: its coefficient.
    """

    place: str
    weight: float

    @property
    def label(self) -> str:
        """Name for reports and the manifest."""
        return Path(self.place).resolve().name


def merge_sources(
    sources: Sequence[Source],
    target: Path,
    bundle: Bundle | None = None,
    *,
    method: str = "svd",
    rank: int | None = None,
) -> dict[str, Any]:
    """Merge PEFT folders, or adapters of a bundle, and write the result as a PEFT folder.

    Returns:
        The report: method, rank, coefficients, and the error against the exact weighted sum.

    Raises:
        InputError: a coefficient or the rank is not possible, bases differ, or the folder cannot be written.
        CheckpointError: a folder is not a LoRA.
    """
    coefficients: dict[str, float] = {}
    for source in sources:
        if not math.isfinite(source.weight):
            raise InputError(f"source '{source.place}' has weight {source.weight}, expected a finite number")
        if source.label in coefficients:
            raise InputError(f"source '{source.label}' is there twice, expected each name once")
        coefficients[source.label] = source.weight
    base = _common_base(sources, bundle)
    merged = merge([(_products(s, bundle), s.weight) for s in sources], method, rank)
    found = report(merged, coefficients, method, target)
    origin = {"base_sha256": base, "merged_from": coefficients, "method": method}
    write_peft(target, merged.products, float(found["rank"]), origin)
    return found


def losses(
    bundle: Bundle, samples: Path, sources: Sequence[str], merged: Path, *, from_bundle: bool
) -> dict[str, dict[str, float]]:
    """Measure the loss of the base, of each source and of the merged adapter on samples, by task.

    Args:
        bundle: bundle of their base; it is not changed.
        samples: samples as in ``runtime.evaluate``.
        sources: PEFT folders, or names of the bundle's adapters.
        merged: folder that ``merge_sources`` wrote.
        from_bundle: whether ``sources`` are names of the bundle's adapters.

    Raises:
        InputError: a sample cannot be read.
        CheckpointError: an adapter does not fit the bundle.
    """
    from palmtop.export.measure.answer_loss import answer_losses
    from palmtop.runtime.chat.routing import Wanted
    from palmtop.runtime.evaluate import read_questions

    questions = list(read_questions(samples))
    trial = Trial(bundle)
    requests: dict[str, Wanted] = {BASE: {}}
    for place in sources:
        requests[Path(place).resolve().name] = {place if from_bundle else trial.add(Path(place)): 1.0}
    requests["merged"] = {trial.add(merged): 1.0}
    return answer_losses(replace(bundle, manifest=trial.manifest), questions, requests, graph=trial.graph_bytes())


def _products(source: Source, bundle: Bundle | None) -> Products:
    if bundle is not None:
        return products_of(bundle, source.place)
    adapter = read_peft(Path(source.place), source.label)
    pairs = {target: pair for target in adapter.targets if (pair := adapter.pair(target)) is not None}
    refuse_without_effect(pairs, Path(source.place))
    return read_products(adapter)


def _common_base(sources: Sequence[Source], bundle: Bundle | None) -> str | None:
    if bundle is not None:
        return bundle.manifest.source_sha256
    bases = {s.place: base for s in sources if (base := read_origin(Path(s.place)).base_sha256) is not None}
    if len(set(bases.values())) > 1:
        raise InputError(f"{' and '.join(bases)} belong to different bases, expected adapters of one")
    return next(iter(bases.values()), None)
