"""The exporter's float graph on a bundle's stored weights: the effect of rounding them, and nothing else.

A bundle's decoder with float activations must compute the same up to float32's rounding, however much its weights have
lost. So a wrong graph is distinguished from a loss without a limit on losses, in a bundle of another version, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.errors import BundleError
from palmtop.export.arch import Model
from palmtop.export.bundle.bundle_writer import build_graph
from palmtop.export.graph.building.builder import Blocks
from palmtop.export.kv.stored_cache import stored_cache
from palmtop.export.measure.divergence import agreement
from palmtop.export.measure.float_reference import as_float
from palmtop.export.measure.layerwise import StagedGraph
from palmtop.export.measure.lazy_weights import LazySink
from palmtop.export.recipe import Recipe
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.manifest import AdapterSpec, Manifest
from palmtop.runtime.bundle.opening import Bundle

from .quality import Check
from .tensors import stored_tensors

MAX_SHARE = 1e-3  # largest difference of a logit, as a share of the range: sums in another order


class _StoredSink(LazySink):
    """Weight sink that makes every float tensor from the bundle's stored one."""

    def __init__(self, graph: Path, workers: Workers | None, *, float_adapters: bool) -> None:
        super().__init__(workers)
        self._float_adapters = float_adapters
        self._stored = stored_tensors(ir.load(graph))

    def add(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[NDArray[Any]]
    ) -> ir.ExternalTensor:
        """Store how a tensor is read from the bundle, or of an adapter that stays in float from the checkpoint.

        Raises:
            BundleError: the bundle has no such tensor.
        """
        if self._float_adapters and ".lora_" in name:
            return super().add(name, shape, dtype, blocks)
        stored = self._stored.get(name) or self._stored.get(name.removesuffix(".weight"))
        if stored is None:
            raise BundleError(f"the decoder stores no tensor '{name}', expected one of shape {list(shape)}")

        def read() -> Iterator[NDArray[Any]]:
            rows = stored.rows(0, stored.shape[0])
            if stored.scheme is None:
                yield rows.reshape(shape).astype(dtype, copy=False)
                return
            whole = rows[:, : shape[1]] if stored.is_table else rows.T  # a table's last group is padded
            yield np.ascontiguousarray(whole, dtype)

        def matrix(start: int, stop: int) -> NDArray[np.float32]:
            columns = shape[1] if stored.is_table else shape[0]
            return stored.rows(start, stop)[:, :columns]  # a table's last group is padded

        is_matrix = stored.scheme is not None and len(shape) == 2
        return super().add(name, shape, dtype, Blocks(read, matrix if is_matrix else None))


def rounded_decoder(
    bundle: Bundle, model: Model, recipe: Recipe, workers: Workers | None = None, *, float_adapters: bool = False
) -> tuple[StagedGraph, Manifest]:
    """Return the float decoder on a bundle's rounded weights, with the bundle's cache, and a manifest of its gates.

    Args:
        bundle: the bundle; adapters that the model does not have are left out.
        model: model of its checkpoint.
        recipe: recipe of the bundle.
        workers: threads that read.
        float_adapters: whether the adapters are the model's own in float32, on the rounded base.

    Raises:
        BundleError: a tensor is missing.
    """
    manifest = bundle.manifest
    path = bundle.file(manifest.decoder.file)
    kept: tuple[AdapterSpec, ...] = ()
    if recipe.adapter_mode == "gated":
        there = {adapter.name: adapter for adapter in manifest.adapters}
        model = replace(model, adapters=tuple(a for a in model.adapters if a.name in there))
        kept = tuple(replace(there[a.name], gate=gate) for gate, a in enumerate(model.adapters))
    sink = _StoredSink(path, workers, float_adapters=float_adapters)
    own = replace(as_float(recipe), kv=recipe.kv)
    graph = build_graph(model, own, "decoder", sink, None, stored_cache(path, manifest.decoder))
    return StagedGraph.of_built(graph, sink.tensors), replace(manifest, adapters=kept)


def judge_rounded(
    modes: Sequence[str], expected: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]]
) -> list[Check]:
    """Check that a decoder with float activations computes the result of its rounded weights: one check for each mode.

    Args:
        modes: mode of the input of each question.
        expected: [T, V] logits of the float graph on the rounded weights.
        found: [T, V] logits of the bundle's decoder.
    """
    checks = []
    for mode in dict.fromkeys(modes):
        own = [(one, other) for m, one, other in zip(modes, expected, found, strict=True) if m == mode]
        both = agreement(*(np.concatenate(side) for side in zip(*own, strict=True)))
        checks.append(
            Check(
                name=f"{mode}: logits that the rounded weights give",
                passed=bool(both.max_abs <= MAX_SHARE),  # false for NaN
                value=round(both.max_abs, 9),
                limit=MAX_SHARE,
                detail=f"with float activations the decoder differs by {both.max_abs:.2g} of the logit range from the"
                f" float graph on its own weights, KL {both.mean_kl:.2g} nats over {both.positions} positions",
            )
        )
    return checks
