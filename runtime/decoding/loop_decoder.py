"""The decoder over a plain onnxruntime session, with states that can be read and written.

onnxruntime-genai returns a copy of its states and takes none back, so a conversation that continues from a file or
from another conversation is decoded here. Past and present states are one array each, bound once; graph, kernels and
options are genai's, and the logits are equal bit for bit. Unlike genai, onnxruntime releases Python's lock during a
step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError, RuntimeMissingError
from palmtop.packages import install_command
from palmtop.runtime.bundle.manifest import DRAFT_LOGITS
from palmtop.runtime.bundle.native_files import graph_source
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.bundle.specs import DecoderSpec
from palmtop.runtime.bundle.states import StateSpec
from palmtop.runtime.memory.processors import usable_cores

from .decoder import DecoderInputs, LayerState

LOG_ERRORS = 3
STORED_TYPES: dict[str, type[np.generic]] = {"float32": np.float32, "int8": np.int8, "int4": np.uint8}
"""Type of the graph's tensor for each type of state; two int4 elements share a byte."""
States = dict[str, NDArray[np.generic]]
"""States of one sequence by the graph's input name."""


class LoopDecoder:
    """Decoder of onnxruntime (``decoder.Decoder``).

    Args:
        session: session of the decoder's graph; several decoders may share it.
        inputs: arrays that the caller changes in place between two calls of ``append``.
        context: most tokens of the states.
        bundle: bundle of the graph.

    Raises:
        BundleError: in ``append`` or where logits are read: the graph differs from the manifest.
    """

    def __init__(self, session: Any, inputs: DecoderInputs, context: int, bundle: Bundle) -> None:
        self.inputs = inputs
        self._folder = bundle.path
        self._spec = bundle.manifest.decoder
        self._context = context
        self._count = 0
        self._states: States = allocate_states(self._spec, context)
        self._mask = np.ones((1, context), np.int64)
        self._found: dict[str, NDArray[np.float32]] = {}
        self._session: Any = session
        with _native_errors(self._folder, "prepare a conversation"):
            self._binding = self._bound()
            self._drafting = self._bound() if self._spec.draft_rows > 1 else None

    @property
    def token_count(self) -> int:
        """Number of tokens in the states."""
        return self._count

    def append(self, ids: NDArray[np.int32]) -> None:
        """Run the graph over more tokens, [S]."""
        session = self._session
        if session is None:
            raise InputError("the session of this conversation is closed, expected an open one")
        total = self._count + len(ids)
        if total > self._context:
            raise InputError(f"the sequence would have {total} tokens, the session's context is {self._context}")
        tokens = np.ascontiguousarray(ids[None], np.int64)
        found = {"logits": np.empty((1, 1, self._spec.vocab_size), np.float32)}
        binding, self._found = self._binding, {}
        if self._drafting is not None and len(ids) <= self._spec.draft_rows:
            binding = self._drafting
            found[DRAFT_LOGITS] = np.empty((1, len(ids), self._spec.vocab_size), np.float32)
        states = self._states  # kept alive: another thread may call ``close`` while the graph runs
        with _native_errors(self._folder, "run the decoder"):
            _bind(binding.bind_input, "input_ids", tokens)
            _bind(binding.bind_input, "attention_mask", self._mask[:, :total])
            for name, array in found.items():
                _bind(binding.bind_output, name, array)
            session.run_with_iobinding(binding)
        del states
        self._count, self._found = total, found

    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the last token, [V]."""
        row: NDArray[np.float32] = self._rows("logits", 1)[0]
        return row

    def draft_logits(self, count: int) -> NDArray[np.float32]:
        """Return the logits of the last ``count`` tokens, which were appended together: [count, V]."""
        return self._rows(DRAFT_LOGITS, count)

    def rewind_to(self, count: int) -> None:
        """Remove all tokens from the states but the first ``count``.

        Raises:
            BundleError: a state cannot be cut there.
        """
        if count and count < self._count and any(state.rewind != "cut" for state in self._spec.states):
            raise BundleError(f"{self._folder}: has states that cannot be cut, expected to continue or to begin again")
        self._count = min(count, self._count)
        self._found = {}
        if not self._count:
            for state in self._spec.states:
                if not state.is_per_token:
                    for name in state.inputs():
                        self._states[name][...] = 0

    def read_state(self, state: StateSpec, layer: int) -> NDArray[np.generic]:
        """Return a view of one layer's state, cut to the tokens read."""
        return cut_state(state, self._states[state.input % layer], self._count)

    def write_states(self, states: Iterable[LayerState], count: int) -> None:
        """Take over the states of ``count`` tokens.

        Raises:
            BundleError: a state is missing, or of another shape or type.
        """
        write_states(self._folder, self._spec, self._states, states, count)
        self._count, self._found = count, {}

    def close(self) -> None:
        """Free the states."""
        self._session, self._binding, self._drafting = None, None, None
        self._states, self._found = {}, {}

    def _bound(self) -> Any:
        """Return a binding of all inputs and outputs but those of one step."""
        binding = self._session.io_binding()
        for state in self._spec.states:
            for layer in state.layers:
                array = self._states[state.input % layer]
                _bind(binding.bind_input, state.input % layer, array)
                _bind(binding.bind_output, state.output % layer, array)
        for name in ("media_index", "media_features", "adapter_gates", "rope_long"):
            if (fed := getattr(self.inputs, name)) is not None:
                _bind(binding.bind_input, name, fed)
        return binding

    def _rows(self, name: str, count: int) -> NDArray[np.float32]:
        found = self._found.get(name)
        if found is None or found.shape[1] != count:
            shape = "nothing" if found is None else list(found.shape)
            raise BundleError(f"{self._folder}: the decoder's {name} are {shape}, expected {count} rows")
        rows: NDArray[np.float32] = found[0]
        return rows


def _bind(bind: Any, name: str, array: NDArray[np.generic]) -> None:
    bind(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)


def allocate_states(spec: DecoderSpec, context: int) -> States:
    """Return zeroed states of one sequence, by the graph's input name."""
    return {
        name: np.zeros(state.stored_shape(context), STORED_TYPES[state.dtype])
        for state in spec.states
        for name in state.inputs()
    }


def cut_state(state: StateSpec, array: NDArray[np.generic], count: int) -> NDArray[np.generic]:
    """Return a view of one layer's state, cut to ``count`` tokens if it grows with them."""
    if not state.is_per_token:
        return array
    axis = state.shape.index("tokens")
    return array[(*(slice(None),) * axis, slice(count))]


def write_states(
    folder: Path, spec: DecoderSpec, own: Mapping[str, NDArray[np.generic]], given: Iterable[LayerState], count: int
) -> None:
    """Copy the states of ``count`` tokens into allocated ones, by the graph's input name.

    Raises:
        BundleError: a state is missing, or of another shape or type.
    """
    missing = {name for state in spec.states for name in state.inputs()}
    for state, layer, array in given:
        name = state.input % layer
        target = cut_state(state, own[name], count)
        if array.shape != target.shape or array.dtype != target.dtype:
            found, expected = (f"{a.dtype.name} {list(a.shape)}" for a in (array, target))
            raise BundleError(f"{folder}: state '{name}' is {found}, expected {expected}")
        target[...] = array
        missing.discard(name)
    if missing:
        raise BundleError(f"{folder}: state '{min(missing)}' is missing, expected one of every layer")


def open_decoder_session(bundle: Bundle, threads: int | None) -> Any:
    """Open the decoder's graph in onnxruntime, with genai's options.

    Raises:
        BundleError: onnxruntime cannot load it.
        RuntimeMissingError: onnxruntime is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise RuntimeMissingError(
            f"onnxruntime cannot be imported ({error}); {install_command(only='onnxruntime')}"
        ) from error
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    options.enable_mem_pattern = False
    options.intra_op_num_threads = threads or default_threads()
    path = bundle.file(bundle.manifest.decoder.file)
    with _native_errors(bundle.path, "load it"), graph_source(path) as source:
        return source.open(ort.InferenceSession, options, providers=["CPUExecutionProvider"])


def runtime_version() -> str:
    """Return the version of onnxruntime, which genai runs on too."""
    import onnxruntime as ort

    return str(ort.__version__)


def default_threads() -> int:
    """Return the threads that genai takes by default: half of the processors that this process may use, at most 16."""
    return max(1, min(usable_cores() // 2, 16))


@contextmanager
def _native_errors(folder: Path, doing: str) -> Iterator[None]:
    """Convert exceptions of onnxruntime, which have no common base of their own."""
    try:
        yield
    except (BundleError, InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise BundleError(
            f"{folder}: onnxruntime cannot {doing} ({' '.join(str(error).split())}), expected files that agree"
        ) from error
