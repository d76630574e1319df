"""Logits of the float reference, of the bundle, and of the bundle without adapters, all under the same gates.

Requests are collected first and then run at once: each model is run a single time, a layer in memory at a time, over
every prompt under every setting of the gates (``measure.decoder_runner``). So a model of any size is compared within
the memory of a few of its layers. The float reference is built by the exporter itself; it shows the effect of rounding
and adapters, not that the graphs are the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.errors import BundleError
from palmtop.export.adapters.adapter_source import read_peft
from palmtop.export.adapters.fused_projections import fused_pair, parts_of
from palmtop.export.adapters.graph import DecoderGraph
from palmtop.export.arch import Model
from palmtop.export.bundle.bundle_writer import build_graph, merged_weights
from palmtop.export.bundle.manifest_builder import PLAN_FILE, gated_adapters, served_routes
from palmtop.export.checkpoint.lora import Adapter
from palmtop.export.kv.stored_cache import stored_cache
from palmtop.export.measure.decoder_runner import DecoderRunner, Run
from palmtop.export.measure.divergence import kl
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.layerwise import StagedGraph
from palmtop.export.measure.lazy_weights import LazySink
from palmtop.export.recipe import Recipe
from palmtop.export.verify.judging.verdict import compute_in_float, with_float_activations
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.chat.routing import gates_of

from .questions import Asked, clock, encoded, rows_for
from .stored_precision import StoredPrecision

TWIN = "palmtop-twin"
STEP = 64  # tokens of a continuation that the float reference reads at once: equal up to float32's rounding

AdapterWeights = Mapping[str, float]
Logits = NDArray[np.float32]
Key = tuple[tuple[str, float], ...]  # weights that are not 0, by name
Report = Callable[[str], None]
Of = Callable[[int, AdapterWeights], Logits]
"""Logits [T, V] of a question under a setting of the gates."""


def float_model(model: Model, recipe: Recipe, loras: Mapping[str, Path], bundle: Bundle) -> tuple[Model, Recipe]:
    """Return the reference model of a comparison: its base with merged adapters, and every adapter twice.

    The twins' gates are behind all others. Half of an adapter plus half of its twin must equal the adapter.
    """
    adapters = [*gated_adapters(model, recipe), *(_fitted(read_peft(p, n), bundle) for n, p in loras.items())]
    twins = [replace(adapter, name=f"{TWIN}-{place}") for place, adapter in enumerate(adapters)]
    own = replace(
        model,
        weights=merged_weights(model, recipe),
        routes=served_routes(model, recipe),
        adapters=(*adapters, *twins),
    )
    return own, replace(recipe, adapters="gated" if adapters else "none")


def _fitted(adapter: Adapter, bundle: Bundle) -> Adapter:
    """Adapter of separate projections for the bundle's fused ones."""
    graph = DecoderGraph(bundle.file(bundle.manifest.decoder.file))
    attention = graph.heads(bundle.manifest.decoder)
    found = {
        name: pair
        for name, (rows, _) in graph.linears.items()
        if (pair := fused_pair(adapter, name, parts_of(name, rows, attention))) is not None
    }
    return replace(adapter, pair=found.get, targets=tuple(found))


class Comparison:
    """Decoders of a comparison, and their logits.

    Attributes:
        manifest: manifest of the bundle.
        float_manifest: manifest of the float reference; its twins are adapters too.
        asked: questions in order.
    """

    def __init__(self, bundle: Bundle, reference: FloatReference, asked: Sequence[Asked], *, is_limited: bool) -> None:
        """Set up the comparison; nothing is run yet.

        Raises:
            BundleError: the decoder is not a graph, or has another number of gates than the manifest.
        """
        self.manifest, self.float_manifest, self.asked = bundle.manifest, reference.manifest, asked
        self._bundle, self._reference, self._is_limited = bundle, reference, is_limited
        self._graph = StagedGraph.of_file(bundle.file(bundle.manifest.decoder.file), laid_open=False)
        gates = self._graph.shape_of("adapter_gates")
        if (gates[0] if gates else 0) != len(bundle.manifest.adapters):
            raise BundleError(
                f"{bundle.path}: the decoder has {gates[0] if gates else 0} adapter gates,"
                f" expected {len(bundle.manifest.adapters)} as the manifest says"
            )
        self._exact: dict[tuple[int, Key], Logits] = {}
        self._found: dict[tuple[int, Key], Logits] = {}
        self._plain: dict[int, Logits] = {}
        self._between: dict[tuple[int, Key], Logits] = {}

    @property
    def originals(self) -> list[str]:
        """Adapters of the float reference, without their twins."""
        return [adapter.name for adapter in self.float_manifest.adapters if not adapter.name.startswith(TWIN)]

    def places(self, mode: str) -> list[int]:
        """Return the indices of the questions of a mode."""
        return [place for place, asked in enumerate(self.asked) if asked.mode == mode]

    def weights_of(self, mode: str) -> AdapterWeights:
        """Return the adapters of the mode's route, in both models."""
        return self.float_manifest.routes[mode].adapters if self.manifest.adapters else {}

    def acting(self, name: str) -> list[int]:
        """Return questions for measuring an adapter's effect: all; for a large model text and the modes that use it."""
        return [
            place
            for place, asked in enumerate(self.asked)
            if not self._is_limited or asked.mode == "text" or name in self.weights_of(asked.mode)
        ]

    def blended(self) -> list[int]:
        """Return questions for blends: all; for a large model the shortest."""
        lengths = [len(asked.sample.input_ids) for asked in self.asked]
        return [lengths.index(min(lengths))] if self._is_limited else list(range(len(self.asked)))

    @property
    def off_places(self) -> list[int]:
        """Return the questions that were run with every gate 0."""
        return sorted(place for place, weights in self._found if not weights)

    def exact(self, place: int, weights: AdapterWeights) -> Logits:
        """[T, V] of the float reference."""
        return self._exact[place, _key(weights)]

    def found(self, place: int, weights: AdapterWeights) -> Logits:
        """[T, V] of the bundle; adapters that only the reference has do nothing."""
        return self._found[place, _key(weights)]

    def plain(self, place: int) -> Logits:
        """Return the logits of the bundle without adapters, [T, V]."""
        return self._plain[place]

    def float_activations(self, place: int) -> Logits:
        """Return the logits of the bundle with float activations in the question's own mode, [T, V]."""
        return self.on_float_activations(place, self.weights_of(self.asked[place].mode))

    def of_graph(self, graph: StagedGraph, manifest: Manifest, report: Report, what: str) -> list[Logits]:
        """Return the logits of another decoder by place, in the questions' own modes on the bundle's feature rows.

        Args:
            graph: stages of the decoder.
            manifest: its adapters.
            report: called with the progress.
            what: name of the decoder.
        """
        wanted = [(place, _key(self.weights_of(asked.mode))) for place, asked in enumerate(self.asked)]
        return list(self._walk(DecoderRunner(graph, step=STEP), wanted, manifest, 1, report, what).values())

    def run(self, plain: StagedGraph | None, report: Report) -> None:
        """Run every model over everything that will be compared.

        Args:
            plain: the decoder without adapters, as the exporter makes it from the checkpoint; None to leave it out.
            report: called with the progress.
        """
        names = [adapter.name for adapter in self.manifest.adapters]
        once: set[tuple[int, Key]] = set()
        for place, asked in enumerate(self.asked):
            once.add((place, _key(self.weights_of(asked.mode))))
        for name in names:
            once |= {(place, _key(weights)) for place in self.acting(name) for weights in ({}, {name: 1.0})}
        own = {name: n for n, name in enumerate(self.originals)}
        twice = {(place, _halves(name, number)) for place in self.blended() for name, number in own.items()}
        whole = {(place, _key({name: 1.0})) for place in self.blended() for name in names}
        wanted = sorted(once | twice | {key for key in whole if dict(key[1]).keys() <= own.keys()})
        exact = DecoderRunner(self._reference.graphs["decoder"], step=STEP)
        self._exact = self._walk(exact, wanted, self.float_manifest, 0, report, "float reference")
        wanted = sorted(once | whole)
        self._found = self._walk(DecoderRunner(self._graph), wanted, self.manifest, 1, report, "bundle")
        if names:
            twins = {(place, _halves(name, number)) for place in self.blended() for number, name in enumerate(names)}
            graph, manifest = self._twins()  # with float activations: a sum of rounded halves is not the whole
            self._found |= self._walk(DecoderRunner(graph), sorted(twins), manifest, 1, report, "blends")
        own_modes = {(place, _key(self.weights_of(asked.mode))) for place, asked in enumerate(self.asked)}
        blended = {
            (place, _key(weights)) for place in self.blended() for name in names for weights in ({}, {name: 1.0})
        }
        self._between = self._with_float_activations(own_modes | blended, report)
        if plain is not None:
            off = sorted(key for key in wanted if not key[1])
            found = self._walk(DecoderRunner(plain), off, replace(self.manifest, adapters=()), 1, report, "no adapters")
            self._plain = {place: logits for (place, _), logits in found.items()}

    def effects(self, graph: StagedGraph, manifest: Manifest, names: Sequence[str], report: Report) -> tuple[Of, Of]:
        """Return the logits of another decoder and the bundle's with float activations, with each adapter off and on.

        Args:
            graph: stages of the decoder; it reads the bundle's feature rows.
            manifest: its adapters.
            names: adapters.
            report: called with the progress.
        """
        wanted = {
            (place, _key(weights)) for name in names for place in self.acting(name) for weights in ({}, {name: 1.0})
        }
        runner = DecoderRunner(graph, step=STEP)
        exact = self._walk(runner, sorted(wanted), manifest, 1, report, "float adapters on rounded weights")
        found = self._between | self._with_float_activations(wanted - self._between.keys(), report)
        return (
            lambda place, weights: exact[place, _key(weights)],
            lambda place, weights: (found or self._found)[place, _key(weights)],
        )

    def on_float_activations(self, place: int, weights: AdapterWeights) -> Logits:
        """Return the logits of the bundle with float activations under these gates, [T, V]."""
        return (self._between or self._found)[place, _key(weights)]

    def _with_float_activations(
        self, wanted: Collection[tuple[int, Key]], report: Report
    ) -> dict[tuple[int, Key], Logits]:
        """Logits of the bundle at accuracy level 0; none if that is its own level."""
        graph = with_float_activations(self._bundle.file(self.manifest.decoder.file))
        if graph is None or not wanted:
            return {}
        staged = StagedGraph(onnx.load_from_string(graph), folder=self._bundle.path.resolve(), laid_open=False)
        runner = DecoderRunner(staged, step=STEP)
        return self._walk(runner, sorted(wanted), self.manifest, 1, report, "float activations")

    def losses(self) -> dict[str, dict[str, float]]:
        """Return the loss by mode: of the weights with float activations, and of the kernels' 8-bit activations."""
        found = {}
        for mode in dict.fromkeys(asked.mode for asked in self.asked):
            weights, places = self.weights_of(mode), self.places(mode)
            exact, rounded = (
                np.concatenate([of(place, weights) for place in places]) for of in (self.exact, self.found)
            )
            between = (
                rounded
                if not self._between
                else np.concatenate([self._between[place, _key(weights)] for place in places])
            )
            found[mode] = {
                "weights": round(float(kl(exact, between).mean()), 6),
                "weights_top1": float((exact.argmax(-1) == between.argmax(-1)).mean()),
                "activations": round(float(kl(between, rounded).mean()), 6),
                "activations_top1": float((between.argmax(-1) == rounded.argmax(-1)).mean()),
            }
        return found

    def loss_of(self, other: FloatReference, report: Report) -> dict[str, float]:
        """Return the KL by mode of another model of the checkpoint, media encoded by its own encoders."""
        features = encoded(other, [asked.sample for asked in self.asked], report, "plain rounding's")
        width = self.manifest.decoder.hidden_size
        runs = [
            Run(
                prompt=replace(asked.pair[0], features=rows_for(features, asked.sample, width)),
                gates=gates_of(other.manifest, self.weights_of(asked.mode)),
                tokens=asked.tokens,
            )
            for asked in self.asked
        ]
        found = DecoderRunner(other.graphs["decoder"], step=STEP).logits(runs, clock(report, "plain rounding"))
        by_mode: dict[str, list[NDArray[np.float64]]] = {}
        for place, (asked, logits) in enumerate(zip(self.asked, found, strict=True)):
            by_mode.setdefault(asked.mode, []).append(kl(self.exact(place, self.weights_of(asked.mode)), logits))
        return {mode: float(np.concatenate(values).mean()) for mode, values in by_mode.items()}

    def _twins(self) -> tuple[StagedGraph, Manifest]:
        """The bundle's decoder with float activations and every adapter twice, on the same bytes."""
        graph = DecoderGraph(self._bundle.file(self.manifest.decoder.file))
        adapters = list(self.manifest.adapters)
        for place, name in enumerate(graph.adapters):
            gate = graph.insert(f"{TWIN}-{place}", graph.deltas(name))
            adapters.append(replace(adapters[place], name=f"{TWIN}-{place}", gate=gate))
        compute_in_float(graph.model)
        staged = StagedGraph(ir.to_proto(graph.model), folder=self._bundle.path.resolve(), laid_open=False)
        return staged, replace(self.manifest, adapters=tuple(adapters))

    def _walk(
        self,
        runner: DecoderRunner,
        wanted: Sequence[tuple[int, Key]],
        manifest: Manifest,
        side: int,
        report: Report,
        what: str,
    ) -> dict[tuple[int, Key], Logits]:
        runs = [
            Run(
                prompt=self.asked[place].pair[side],
                gates=gates_of(manifest, dict(weights)),
                tokens=self.asked[place].tokens,
            )
            for place, weights in wanted
        ]
        return dict(zip(wanted, runner.logits(runs, clock(report, what)), strict=True))


def plain_decoder(bundle: Bundle, model: Model, recipe: Recipe, workers: Workers) -> StagedGraph:
    """The decoder of the same export without gated adapters; its weights are quantised when a stage is opened."""
    planned = StoredPrecision(bundle.path) if PLAN_FILE in bundle.manifest.files else None
    decoder = bundle.manifest.decoder
    cache = stored_cache(bundle.file(decoder.file), decoder)
    own = replace(recipe, target=None, soc=None, adapters="none" if recipe.adapter_mode == "gated" else recipe.adapters)
    sink = LazySink(workers)
    return StagedGraph.of_built(build_graph(model, own, "decoder", sink, planned, cache), sink.tensors)


def _key(weights: AdapterWeights) -> Key:
    return tuple(sorted((name, float(weight)) for name, weight in weights.items() if weight))


def _halves(name: str, number: int) -> Key:
    """Half of an adapter and half of its twin."""
    return _key({name: 0.5, f"{TWIN}-{number}": 0.5})
