"""The float bundle of a checkpoint, run stage by stage: encoders, then the decoder, answers teacher-forced."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.bundle.manifest import Manifest

from .layerwise import Linear, Live, StagedGraph
from .samples import MediaInput, Sample

ENCODED_AT_ONCE = 64  # images or sounds whose values between two stages are in memory
Changed = Mapping[str, NDArray[np.float32]]
"""[N, K] weights by linear name, in place of the stored ones"""

Tap = Callable[[Linear, int, NDArray[np.float32]], None]
"""told a linear, the number of the run, and what entered: [T, K]"""


class FloatModel:
    """Staged graphs of one float bundle.

    Attributes:
        manifest: of the bundle.
        graphs: "decoder" and, where the model has them, "vision" and "audio".
    """

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 0, open_sessions: int = 1) -> None:
        self.manifest = manifest
        there = {"decoder": True, "vision": manifest.vision is not None, "audio": manifest.audio is not None}
        self.graphs = {
            part: StagedGraph(folder / f"{part}.onnx", threads=threads, open_sessions=open_sessions)
            for part, is_there in there.items()
            if is_there
        }

    def adapters_of(self, mode: str) -> Mapping[str, float]:
        """What the mode's route switches on."""
        gated = {adapter.name for adapter in self.manifest.adapters}
        return {n: w for n, w in self.manifest.routes[mode].adapters.items() if n in gated}

    def decoder_inputs(self, sample: Sample, features: Sequence[NDArray[np.float32]]) -> Live:
        """Graph inputs for a whole sample at once, nothing cached."""
        spec, length = self.manifest.decoder, len(sample.input_ids)
        gates = np.zeros(len(self.manifest.adapters), np.float32)
        for adapter in self.manifest.adapters:
            gates[adapter.gate] = self.adapters_of(sample.mode).get(adapter.name, 0.0)
        rows = np.concatenate(features) if features else np.zeros((1, spec.hidden_size), np.float32)
        live: Live = {
            "input_ids": sample.input_ids[None],
            "attention_mask": np.ones((1, length), np.int64),
            "media_index": sample.places,
            "media_features": rows,
            "adapter_gates": gates,
            "rope_long": np.array([False]),
        }
        empty = np.zeros((1, spec.num_kv_heads, 0, spec.head_size), np.float32)
        for layer in range(spec.num_layers):
            live |= {f"past_key_values.{layer}.{which}": empty for which in ("key", "value")}
        return live

    def changed_weights(self, part: str, number: int, changed: Changed) -> dict[str, NDArray[np.float32]]:
        """By initialiser, in its own layout: those of the changed weights that a stage reads."""
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
    ) -> Live:
        """One stage; before the head the positions become a batch, so that each one's logits are computed.

        Args:
            part: of the graph.
            number: of the stage.
            live: what it reads.
            positions: that are judged; None in encoders.
            given: changed weights of the stage (``changed_weights``).
            exposed: values inside the stage that are wanted as well.
        """
        graph = self.graphs[part]
        hidden = graph.last_hidden
        if positions is not None and hidden in graph.stages[number].inputs and number == len(graph.stages) - 1:
            assert hidden is not None
            live = {**live, hidden: np.ascontiguousarray(live[hidden][0, positions][:, None])}  # [P, 1, H]
        return graph.run(number, live, changed=given, exposed=exposed)

    def walk(
        self,
        part: str,
        lives: list[Live],
        positions: Sequence[NDArray[np.int64] | None],
        tap: Tap,
        done: Callable[[], None],
    ) -> None:
        """Run every stage over several runs, one stage loaded at a time.

        Logits are computed and not kept: of every token of every sample they would take more than all else.

        Args:
            part: of the graph.
            lives: graph inputs of each run, which end as the encoder's outputs; what no later stage reads goes.
            positions: of each run that are judged; None in encoders.
            tap: told what enters each linear layer whose result is used.
            done: called when a stage has seen every run.
        """
        graph = self.graphs[part]
        for number, stage in enumerate(graph.stages):
            wanted = [name for linear in stage.linears for name in (linear.input, linear.condition) if name]
            for run, live in enumerate(lives):
                found = self.step(part, number, live, positions[run], exposed=wanted)
                for linear in stage.linears:
                    if linear.input is not None and is_used(linear, found):
                        entered = found[linear.input]
                        tap(linear, run, entered.reshape(-1, entered.shape[-1]))
                live |= {name: found[name] for name in stage.outputs}
                graph.forget(live, number, keep_outputs=part != "decoder")
            done()
        graph.close()

    def encode(self, media: Sequence[MediaInput], changed: Changed | None = None) -> list[NDArray[np.float32]]:
        """Feature rows of images or sounds, all of one part; a stage sees many of them before the next is loaded."""
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


def feature_rows(media: Mapping[int, MediaInput], runs: Iterable[Live]) -> dict[int, NDArray[np.float32]]:
    """Rows of every image or sound by its identity, from the encoder's outputs of all their runs in order."""
    left = iter(runs)
    return {key: item.features([next(left) for _ in item.feeds]) for key, item in media.items()}


def is_used(linear: Linear, found: Live) -> bool:
    """The linear's side of its condition was taken in a run that gave these values."""
    return linear.condition is None or bool(found[linear.condition]) == linear.wanted


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def rows_of(value: NDArray[Any]) -> NDArray[np.float32]:
    """[P, 1, V] logits as [P, V]."""
    return np.asarray(value.reshape(-1, value.shape[-1]))
