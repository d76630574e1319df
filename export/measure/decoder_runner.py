"""Runner of a decoder stage by stage over many prompts at once, each with a KV cache.

The arithmetic is that of a session with the whole graph that reads a prompt and then its continuation: every chunk goes
through a stage with the keys and values of the chunks before it. Only one stage's weights and one stage's keys and
values are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .float_reference import judged, rows_of
from .layerwise import Live, StagedGraph
from .onnx_decoder import DecoderPrompt

Report = Callable[[int, int], None]  # stages done, stages in total
OnCache = Callable[[int, Live], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One prompt with its gates and continuation.

    Attributes:
        prompt: input arrays of the prompt.
        gates: [A] adapter weights; ignored by a graph without adapters.
        tokens: [T] the continuation; the last token is predicted and not fed.
        chunk: tokens of the continuation that are read at once, with logits behind the last of them alone; 0 for the
            runner's step and the logits of every token.
        is_long: whether to use the long LongRoPE factors.
    """

    prompt: DecoderPrompt
    gates: NDArray[np.float32]
    tokens: NDArray[np.int64]
    chunk: int = 0
    is_long: bool = False


@dataclass(slots=True, eq=False)
class _Chunk:
    """Tokens that are read at once, with their values between two stages.

    Attributes:
        run: number of the run.
        live: values by name.
        positions: positions whose logits are computed; None for the last one, as in the graph.
    """

    run: int
    live: Live
    positions: NDArray[np.int64] | None


class DecoderRunner:
    """Stage-by-stage runner of a decoder graph, float or quantised."""

    def __init__(self, graph: StagedGraph, *, step: int = 1) -> None:
        """Set up the runner; nothing is loaded yet.

        Args:
            graph: stages of the decoder.
            step: tokens of a continuation that are read at once; a session reads 1.
        """
        self._graph, self._step = graph, step

    def logits(
        self, runs: Sequence[Run], report: Report | None = None, on_cache: OnCache | None = None
    ) -> list[NDArray[np.float32]]:
        """Return the logits of every run, [T, V]: row t predicts token t of its continuation.

        Args:
            runs: the runs; one with a chunk has a row for its prompt and one for each chunk.
            report: called with the progress.
            on_cache: called with the number of each run and the keys and values of its prompt, a stage at a time.

        Raises:
            BundleError: onnxruntime cannot load or run a stage.
        """
        graph, tell = self._graph, report or (lambda done, total: None)
        rounds = self._chunks(runs)
        count = len(graph.stages)
        for number, stage in enumerate(graph.stages):
            past = [name for name in stage.inputs if name.startswith("past_key_values.")]
            present = [name for name in stage.made if name.startswith("present.")]
            if not past and not present:  # chunks are independent: the weights are read once for all
                self._step_all(number, [chunk for some in rounds for chunk in some], ())
            caches: dict[int, Live] = {}
            for place, some in enumerate(rounds if past or present else ()):
                for chunk in some:
                    chunk.live |= caches.get(chunk.run) or {name: graph.empty(name) for name in past}
                self._step_all(number, some, present)
                for chunk in some:
                    caches[chunk.run] = {
                        name.replace("present.", "past_key_values."): chunk.live.pop(name) for name in present
                    }
                    for name in past:
                        chunk.live.pop(name, None)
                    if on_cache is not None and place == 0:
                        on_cache(chunk.run, caches[chunk.run])
            for some in rounds:
                for chunk in some:
                    graph.forget(chunk.live, number)
            tell(number + 1, count)
        graph.close()
        rows: list[list[NDArray[np.float32]]] = [[] for _ in runs]
        for some in rounds:
            for chunk in some:
                rows[chunk.run].append(rows_of(chunk.live["logits"]))
        return [np.concatenate(own) for own in rows]

    def greedy(self, runs: Sequence[Run], steps: int, ends: Collection[int], context: int) -> list[NDArray[np.int64]]:
        """Return the greedy continuation of every run, at most ``steps`` tokens, up to one of ``ends`` or the context.

        Each token runs the whole model, so all stages should stay loaded.
        """
        graph = self._graph
        found: list[list[int]] = [[] for _ in runs]
        caches: list[Live] = [{} for _ in runs]
        for _ in range(steps):
            going = [
                n
                for n, tokens in enumerate(found)
                if not (tokens and tokens[-1] in ends) and len(runs[n].prompt.input_ids) + len(tokens) <= context
            ]
            if not going:
                break
            chunks = []
            for n in going:
                ids = np.array(found[n][-1:], np.int64) if found[n] else runs[n].prompt.input_ids
                total = len(runs[n].prompt.input_ids) + len(found[n])
                chunks.append(_Chunk(n, self._inputs(runs[n], ids, total), None))
            for number, stage in enumerate(graph.stages):
                present = [name for name in stage.made if name.startswith("present.")]
                for chunk in chunks:
                    past = [name for name in stage.inputs if name.startswith("past_key_values.")]
                    chunk.live |= {name: caches[chunk.run].get(name, graph.empty(name)) for name in past}
                self._step_all(number, chunks, present)
                for chunk in chunks:
                    caches[chunk.run] |= {
                        name.replace("present.", "past_key_values."): chunk.live.pop(name) for name in present
                    }
            for chunk in chunks:
                found[chunk.run].append(int(chunk.live["logits"][0, -1].argmax()))
        graph.close()
        return [np.array(tokens, np.int64) for tokens in found]

    def _step_all(self, number: int, chunks: Sequence[_Chunk], exposed: Sequence[str]) -> None:
        graph = self._graph
        lives = [judged(graph, number, chunk.live, chunk.positions) for chunk in chunks]
        for chunk, found in zip(chunks, graph.run_all(number, lives, exposed=exposed), strict=True):
            chunk.live |= found

    def _chunks(self, runs: Sequence[Run]) -> list[list[_Chunk]]:
        """Chunks of the runs in rounds: prompts first, then the tokens behind them."""
        rounds: list[list[_Chunk]] = []
        for number, run in enumerate(runs):
            fed, start, step = run.tokens[:-1], 0, run.chunk or self._step
            parts = [run.prompt.input_ids, *(fed[at : at + step] for at in range(0, len(fed), step))]
            for place, ids in enumerate(parts):
                positions = np.arange(len(ids)) if place and len(ids) > 1 and not run.chunk else None
                chunk = _Chunk(number, self._inputs(run, ids, start + len(ids)), positions)
                if place == len(rounds):
                    rounds.append([])
                rounds[place].append(chunk)
                start += len(ids)
        return rounds

    def _inputs(self, run: Run, ids: NDArray[np.int64], total: int) -> Live:
        """Graph inputs of one chunk, without its caches."""
        places = run.prompt.media_places
        index = np.zeros(max(total, len(places)), np.int64)
        index[: len(places)] = places
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": ids[None],
            "attention_mask": np.ones((1, total), np.int64),
            "media_index": index,
            "media_features": run.prompt.features,
            "adapter_gates": run.gates,
            "rope_long": np.array([run.is_long]),
        }
        return {name: value for name, value in feeds.items() if name in self._graph.inputs}
