"""The decoder over graphs of fixed shapes, for providers that genai does not support.

Holds the cache, pads chunks, computes the mask and rotary positions, inserts media rows into the embedded tokens, and
selects the graphs of the active mix of adapters. Uses numpy only: graphs are functions passed in, so the loop is the
same for every provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.json_fields import refuse
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.states import TOKENS, StateSpec
from palmtop.runtime.bundle.targets import StaticRoute, StaticSpec
from palmtop.runtime.decoding.decoder import DecoderInputs, LayerState

from .static_rope import RopeTables

Feeds = dict[str, NDArray[np.generic]]


class StaticGraphs(Protocol):
    """Interface to the graphs of one static decoder, loaded at first use."""

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows of the embedding table: [1, S] -> [1, S, H]."""

    def run(self, route: StaticRoute, role: str, feeds: Feeds) -> Mapping[str, NDArray[np.float32]]:
        """Run the route's "prefill" or "decode" graph; return its outputs by name."""


class StaticDecoder:
    """One sequence and its KV cache over graphs of fixed shapes (``decoder.Decoder``).

    Args:
        graphs: graphs of this bundle; several decoders may share them.
        spec: description of the graphs.
        manifest: manifest of the bundle.
        inputs: arrays that the caller changes in place between two calls of ``append``.
    """

    def __init__(self, graphs: StaticGraphs, spec: StaticSpec, manifest: Manifest, inputs: DecoderInputs) -> None:
        self.inputs = inputs
        self._graphs: StaticGraphs | None = graphs
        self._spec = spec
        self._manifest = manifest
        self._rope = RopeTables(spec.rope)
        self._cache: Feeds = {}
        self._axis: dict[str, int] = {}
        for state in manifest.decoder.states:
            if state.rewind != "cut":
                raise refuse("decoder.states", state.name, "states that can be cut; this loop keeps no checkpoints")
            shape = replace(state, dtype="float32").stored_shape(spec.context)
            for layer in state.layers:
                name = f"{state.name}.{layer}"
                self._cache[f"past_{name}"] = np.zeros(shape, np.float32)
                self._axis[f"past_{name}"] = state.shape.index(TOKENS)
        self._count = 0
        self._logits: NDArray[np.float32] | None = None

    @property
    def token_count(self) -> int:
        """Number of tokens in the cache."""
        return self._count

    def append(self, ids: NDArray[np.int32]) -> None:
        """Run the graphs over more tokens, [S], in as many runs as they need.

        Raises:
            InputError: more tokens than the cache can hold, a mix of adapters without graphs in the target, or the
                session is closed.
            BundleError: a graph's outputs differ from its spec.
        """
        if self._graphs is None:
            raise InputError("the session of this conversation is closed, expected an open one")
        if self._count + len(ids) > self._spec.context:
            raise InputError(
                f"the sequence would have {self._count + len(ids)} tokens, the graphs hold {self._spec.context}"
            )
        route = self._route()
        for start in range(0, len(ids), self._spec.chunk):
            self._run(self._graphs, route, ids[start : start + self._spec.chunk])

    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the last token, [V]."""
        if self._logits is None:
            raise InputError("the decoder has read no token yet, expected tokens before logits")
        return self._logits

    def draft_logits(self, count: int) -> NDArray[np.float32]:
        """Raise an error: these graphs return the logits of the last position only.

        Raises:
            BundleError: always.
        """
        raise BundleError(f"the graphs of {self._spec.routes[0].prefill} give no logits of {count} positions")

    def rewind_to(self, count: int) -> None:
        """Remove all tokens but the first ``count``; keys and values of later ones are masked until overwritten."""
        self._count = min(count, self._count)
        self._logits = None

    def read_state(self, state: StateSpec, layer: int) -> NDArray[np.generic]:
        """Return a view of one layer's state, cut to the tokens read."""
        name = f"past_{state.name}.{layer}"
        return self._cache[name][(*(slice(None),) * self._axis[name], slice(self._count))]

    def write_states(self, states: Iterable[LayerState], count: int) -> None:
        """Take over the states of ``count`` tokens.

        Raises:
            BundleError: a state is missing, or of another shape or type.
        """
        self._count = count
        missing = set(self._cache)
        for state, layer, array in states:
            target = self.read_state(state, layer)
            if array.shape != target.shape or array.dtype != target.dtype:
                found, expected = (f"{a.dtype.name} {list(a.shape)}" for a in (array, target))
                raise BundleError(f"state '{state.name}.{layer}' is {found}, expected {expected}")
            target[...] = array
            missing.discard(f"past_{state.name}.{layer}")
        if missing:
            raise BundleError(f"state '{min(missing)}' is missing, expected one of every layer")
        self._logits = None

    def close(self) -> None:
        """Free the KV cache."""
        self._graphs, self._logits = None, None
        self._cache.clear()

    def _run(self, graphs: StaticGraphs, route: StaticRoute, ids: NDArray[np.int32]) -> None:
        count, used = self._count, len(ids)
        role, rows = ("decode", 1) if used == 1 else ("prefill", self._spec.chunk)
        cos, sin = self._rope.rows(count, rows, is_long=self._is_long)
        feeds: Feeds = {
            **self._cache,
            "inputs_embeds": self._rows(graphs, ids, rows),
            "rope_cos": cos,
            "rope_sin": sin,
            "attention_bias": attention_bias(self._spec, count, used, rows),
        }
        if role == "prefill":
            feeds["last_row"] = np.array([used - 1], np.int32)
        found = graphs.run(route, role, feeds)
        for name, cache in self._cache.items():
            new = found.get(name.replace("past_", "present_"))
            axis = self._axis[name]
            if new is None or new.shape[axis] != rows:
                raise BundleError(f"{getattr(route, role)}: gives no '{name}' of {rows} rows, expected the cache's")
            before = (slice(None),) * axis
            cache[(*before, slice(count, count + used))] = new[(*before, slice(used))]
        self._logits = self._checked(found["logits"], getattr(route, role))
        self._count += used

    @property
    def _is_long(self) -> bool:
        return self.inputs.rope_long is not None and bool(self.inputs.rope_long[0])

    def _checked(self, logits: NDArray[np.float32], file: str) -> NDArray[np.float32]:
        flat: NDArray[np.float32] = np.asarray(logits, np.float32).reshape(-1)
        if len(flat) != self._manifest.decoder.vocab_size:
            expected = self._manifest.decoder.vocab_size
            raise BundleError(f"{file}: gives {len(flat)} logits, expected decoder.vocab_size, {expected}")
        return flat

    def _rows(self, graphs: StaticGraphs, ids: NDArray[np.int32], rows: int) -> NDArray[np.float32]:
        """Return [1, rows, H]: embedded tokens, media rows at the positions of ``media_index``, zeros as padding."""
        out = np.zeros((1, rows, self._manifest.decoder.hidden_size), np.float32)
        out[:, : len(ids)] = graphs.embed(ids[None].astype(np.int64))
        index, features = self.inputs.media_index, self.inputs.media_features
        if index is not None and features is not None:
            row = index[self._count : self._count + len(ids)]
            there = np.flatnonzero(row > 0)
            out[0, there] = features[row[there] - 1]
        return out

    def _route(self) -> StaticRoute:
        """Return the graphs of the active mix of adapters."""
        gates = self.inputs.adapter_gates
        on = {}
        if gates is not None:
            on = {a.name: float(gates[a.gate]) for a in self._manifest.adapters if gates[a.gate] != 0}
        for route in self._spec.routes:
            if {name: np.float32(weight) for name, weight in route.adapters.items()} == on:
                return route
        wanted = mix_name(on)
        there = ", ".join(mix_name(route.adapters) for route in self._spec.routes)
        raise InputError(
            f"adapters {wanted} are switched on, this target has graphs for: {there}; provider 'cpu' runs any"
        )


def mix_name(mix: Mapping[str, float]) -> str:
    """Return a readable name for a mix of adapters.

    >>> mix_name({"vision": 1.0, "mine": 0.5}), mix_name({})
    ('vision + mine=0.5', 'none')
    """
    return " + ".join(name if weight == 1 else f"{name}={weight:g}" for name, weight in mix.items()) or "none"


def attention_bias(spec: StaticSpec, count: int, used: int, rows: int) -> NDArray[np.float32]:
    """Return the mask that is added to the attention scores of a run.

    Args:
        spec: context C, window, and the number that masks.
        count: number of tokens in the cache.
        used: rows of this run that are tokens; later rows are padding.
        rows: S, rows of the run.

    Returns:
        [1, 1, S, C + S]: row i is position count + i; columns are the cache's positions, then the run's rows.
    """
    row = np.arange(rows)[:, None]
    position = count + row
    cached, new = np.arange(spec.context)[None, :], np.arange(rows)[None, :]
    sees_cached = np.broadcast_to(cached < count, (rows, spec.context))
    # padding attends to itself: no row may have an empty softmax
    sees_new = (new <= row) & ((new < used) | (row >= used))
    if spec.window is not None:
        sees_cached = sees_cached & (position - cached < spec.window)
        sees_new = sees_new & (row - new < spec.window)
    seen = np.concatenate([sees_cached, sees_new], axis=1)
    return np.where(seen, np.float32(0), np.float32(spec.masked))[None, None]
