"""Float model of a checkpoint, built by this exporter and run stage by stage: encoders, then the decoder.

No float bundle is written: graphs are built on weights that are read from the checkpoint when a stage is opened
(``lazy_weights``), so that one layer's are in memory at a time. It gives the results of the exported graphs before
rounding; the comparison with transformers proves that these graphs are the model (``tests/test_parity.py``).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.arch import Model
from palmtop.export.bundle.bundle_writer import build_graph
from palmtop.export.bundle.manifest_builder import expected_manifest, list_files
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.tokenizer_files import write_tokenizer
from palmtop.export.recipe import Recipe
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.genai_config import GENAI_CONFIG_FILE, genai_config
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.chat.routing import gates_of

from .layerwise import Live, StagedGraph
from .lazy_weights import LazySink, LazyTensor
from .samples import MediaInput, Sample
from .stages import Linear, Stage

ENCODED_AT_ONCE = 64  # images or sounds whose values between two stages are in memory
Changed = Mapping[str, NDArray[np.float32]]
"""Weights [N, K] by linear name, instead of the stored ones."""


class Observer(Protocol):
    """Reader of values inside the stages of a walk; several observe one walk, so that weights are read once."""

    def values(self, stage: Stage) -> Sequence[str]:
        """Return the values that are needed of a stage; none where it need not be run for this observer."""

    def observe(self, run: int, stage: Stage, found: Live) -> None:
        """Take these values of one run."""

    def end_stage(self) -> None:
        """Finish a stage that has processed every run."""


def as_float(recipe: Recipe) -> Recipe:
    """Return the recipe with weights and cache in float32, for the CPU provider, logits of the last position only."""
    return replace(
        recipe,
        bits=32,
        head_bits=None,
        encoder_bits=None,
        kv=32,
        draft_rows=1,
        target=None,
        target_context=None,
        soc=None,
    )


class FloatReference:
    """Staged float graphs of one checkpoint.

    Attributes:
        folder: folder of tokenizer and configuration, as in a bundle.
        manifest: manifest of the equivalent float bundle.
        graphs: graphs by name: "decoder" and, where the model has them, "vision" and "audio".
    """

    def __init__(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        model: Model,
        recipe: Recipe,
        *,
        workers: Workers | None = None,
        threads: int = 0,
        open_sessions: int = 1,
        laid_open: bool = True,
        is_quantized: bool = False,
    ) -> None:
        """Build the graphs; of the weights only small ones, such as norms, are read.

        Args:
            folder: new folder for tokenizer and configuration.
            checkpoint: checkpoint of the model.
            model: model; may have more adapters than the checkpoint.
            recipe: recipe of the bundle; its adapters and context are used, its bits are not.
            workers: threads that read.
            threads: number of onnxruntime's threads; 0 for one per core.
            open_sessions: stages that are kept loaded.
            laid_open: see ``StagedGraph``.
            is_quantized: take the recipe's own bits, which makes it a bundle's model that is quantised on the way.
        """
        own = recipe if is_quantized else as_float(recipe)
        folder.mkdir()
        write_tokenizer(checkpoint, folder, model.chat_template)
        manifest = expected_manifest(checkpoint, model, own, workers)
        config = genai_config(manifest.decoder, model.processor.text)
        (folder / GENAI_CONFIG_FILE).write_text(json.dumps(config, indent=1), "utf-8")
        self.folder = folder
        self.manifest = replace(manifest, files=list_files(folder))
        self._options: dict[str, Any] = {"threads": threads, "laid_open": laid_open}
        self._built: dict[str, tuple[onnx.ModelProto, list[LazyTensor]]] = {}
        for part in model.graphs:
            sink = LazySink(workers)
            self._built[part] = ir.to_proto(build_graph(model, own, part, sink)), sink.tensors
        self.graphs = self._opened(open_sessions)

    @classmethod
    def of_files(cls, folder: Path, manifest: Manifest, *, threads: int = 0, open_sessions: int = 1) -> FloatReference:
        """Return the reference of a float bundle that is on disk."""
        own = object.__new__(cls)
        own.folder, own.manifest = folder, manifest
        own._options, own._built = {}, {}
        there = {"decoder": True, "vision": manifest.vision is not None, "audio": manifest.audio is not None}
        own.graphs = {
            part: StagedGraph.of_file(folder / f"{part}.onnx", threads=threads, open_sessions=open_sessions)
            for part, is_there in there.items()
            if is_there
        }
        return own

    def with_sessions(self, open_sessions: int) -> FloatReference:
        """Return the same model with another number of stages that stay loaded."""
        other = object.__new__(FloatReference)
        other.__dict__.update(self.__dict__)
        other.graphs = self._opened(open_sessions)
        return other

    def _opened(self, open_sessions: int) -> dict[str, StagedGraph]:
        return {
            part: StagedGraph(model, tensors=tensors, open_sessions=open_sessions, **self._options)
            for part, (model, tensors) in self._built.items()
        }

    def adapters_of(self, mode: str) -> Mapping[str, float]:
        """Return the gates of the mode's route."""
        gated = {adapter.name for adapter in self.manifest.adapters}
        return {n: w for n, w in self.manifest.routes[mode].adapters.items() if n in gated}

    def decoder_inputs(self, sample: Sample, features: Sequence[NDArray[np.float32]]) -> Live:
        """Return graph inputs for a whole sample at once, with an empty cache."""
        spec, length = self.manifest.decoder, len(sample.input_ids)
        gates = gates_of(self.manifest, self.adapters_of(sample.mode))
        rows = np.concatenate(features) if features else np.zeros((1, spec.hidden_size), np.float32)
        live: Live = {
            "input_ids": sample.input_ids[None],
            "attention_mask": np.ones((1, length), np.int64),
            "media_index": sample.places,
            "media_features": rows,
            "adapter_gates": gates,
            "rope_long": np.array([False]),
        }
        for state in spec.states:
            live |= dict.fromkeys(state.inputs(), np.zeros(state.stored_shape(0), np.float32))
        return live

    def changed_weights(self, part: str, number: int, changed: Changed) -> dict[str, NDArray[np.float32]]:
        """Return the changed weights that a stage reads, by initialiser and in its layout."""
        return {
            linear.weight: np.ascontiguousarray(changed[linear.name].T) if linear.is_turned else changed[linear.name]
            for linear in self.graphs[part].stages[number].linears
            if linear.name in changed
        }

    def step(
        self,
        part: str,
        number: int,
        live: Live,
        positions: NDArray[np.int64] | None = None,
        given: Mapping[str, NDArray[np.float32]] | None = None,
        exposed: Sequence[str] = (),
        outputs: Collection[str] | None = None,
    ) -> Live:
        """Run one stage; before the head the positions become a batch, so that the logits of each are computed.

        Args:
            part: name of the graph.
            number: number of the stage.
            live: values that it may read.
            positions: positions that are compared; None in encoders.
            given: changed weights of the stage (``changed_weights``).
            exposed: values inside the stage to return as well.
            outputs: outputs of the stage to return; None for all.
        """
        return self.steps(part, number, [live], [positions], given, exposed, outputs)[0]

    def steps(
        self,
        part: str,
        number: int,
        lives: Sequence[Live],
        positions: Sequence[NDArray[np.int64] | None],
        given: Mapping[str, NDArray[np.float32]] | None = None,
        exposed: Sequence[str] = (),
        outputs: Collection[str] | None = None,
    ) -> list[Live]:
        """Run one stage for several runs as ``step`` does, with the stage's weights read once."""
        graph = self.graphs[part]
        at_positions = [judged(graph, number, live, some) for live, some in zip(lives, positions, strict=True)]
        return graph.run_all(number, at_positions, changed=given, exposed=exposed, outputs=outputs)

    def walk(
        self,
        part: str,
        lives: list[Live],
        positions: Sequence[NDArray[np.int64] | None],
        observers: Sequence[Observer],
        report: Callable[[str], None] = lambda at: None,
    ) -> None:
        """Run every stage over several runs, one stage loaded at a time.

        Logits are not computed: those of every token of every sample would take more time than all else.

        Args:
            part: name of the graph.
            lives: graph inputs of each run, replaced by the encoder's outputs; values that no later stage reads are
                dropped.
            positions: positions of each run that are compared; None in encoders.
            observers: observers of all runs.
            report: called with the graph and the number of each stage that begins.
        """
        graph = self.graphs[part]
        for number, stage in enumerate(graph.stages):
            report(f"{part} {number + 1}/{len(graph.stages)}")
            wanted = [name for observer in observers for name in observer.values(stage)]
            kept = stage.outputs if part != "decoder" else tuple(n for n in stage.outputs if n not in graph.outputs)
            for run, live in enumerate(lives):
                found = self.step(part, number, live, positions[run], exposed=wanted, outputs=kept)
                for observer in observers:
                    observer.observe(run, stage, found)
                live |= {name: found[name] for name in kept}
                graph.forget(live, number, keep_outputs=part != "decoder")
            for observer in observers:
                observer.end_stage()
        graph.close()

    def features(
        self,
        samples: Sequence[Sample],
        observers: Callable[[str], Sequence[Observer]] = lambda part: (),
        report: Callable[[str], None] = lambda at: None,
    ) -> dict[int, NDArray[np.float32]]:
        """Return the feature rows of every image and sound of samples, by its identity.

        Args:
            samples: samples; a medium that several of them have runs once.
            observers: returns the observers of one encoder's walk.
            report: called with the graph and the number of each stage that begins.
        """
        found: dict[int, NDArray[np.float32]] = {}
        for part in ("vision", "audio"):
            media = media_of(samples, part)
            if media:
                lives: list[Live] = [dict(feeds) for item in media.values() for feeds in item.feeds]
                self.walk(part, lives, [None] * len(lives), observers(part), report)
                found |= feature_rows(media, lives)
        return found

    def encode(self, media: Sequence[MediaInput], changed: Changed | None = None) -> list[NDArray[np.float32]]:
        """Return the feature rows of images or sounds of one part; a stage runs many of them at a time."""
        part = media[0].part
        found: list[NDArray[np.float32]] = []
        for begin in range(0, len(media), ENCODED_AT_ONCE):
            some = media[begin : begin + ENCODED_AT_ONCE]
            lives: list[list[Live]] = [[dict(feeds) for feeds in item.feeds] for item in some]
            for number in range(len(self.graphs[part].stages)):
                given = self.changed_weights(part, number, changed) if changed else None
                for live in itertools.chain(*lives):
                    live |= self.step(part, number, live, given=given)
                    self.graphs[part].forget(live, number)
            found += [item.features(runs) for item, runs in zip(some, lives, strict=True)]
        return found


def judged(graph: StagedGraph, number: int, live: Live, positions: NDArray[np.int64] | None) -> Live:
    """Return the stage's inputs; before the head the positions [P] of one sequence become a batch [P, 1, H]."""
    hidden = graph.last_hidden
    if positions is None or hidden not in graph.stages[number].inputs or number != len(graph.stages) - 1:
        return live
    return {**live, hidden: np.ascontiguousarray(live[hidden][0, positions][:, None])}


def media_of(samples: Iterable[Sample], part: str) -> dict[int, MediaInput]:
    """Return the images or sounds of samples by identity, each once."""
    return {id(item): item for sample in samples for item in sample.media if item.part == part}


def feature_rows(media: Mapping[int, MediaInput], runs: Iterable[Live]) -> dict[int, NDArray[np.float32]]:
    """Return the rows of every image or sound by its identity, from the encoder's outputs of all runs in order."""
    left = iter(runs)
    return {key: item.features([next(left) for _ in item.feeds]) for key, item in media.items()}


def is_used(linear: Linear, found: Live) -> bool:
    """Return whether the linear's branch was taken in the run with these values."""
    return linear.condition is None or bool(found[linear.condition]) == linear.wanted


def rows_of(value: NDArray[Any]) -> NDArray[np.float32]:
    """Return logits [P, 1, V] as [P, V]."""
    return np.asarray(value.reshape(-1, value.shape[-1]))
