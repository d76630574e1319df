"""A native generator of onnxruntime-genai and the arrays it reads in place.

The native module is passed in, because only ``session.py`` imports it. genai keeps no reference to the arrays, so this
class keeps them as long as the generator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.manifest import DRAFT_LOGITS, Manifest
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.bundle.states import StateSpec
from palmtop.runtime.memory.plan import MemoryPlan

from .decoder import DecoderInputs, LayerState
from .loop_decoder import cut_state


class GenaiDecoder:
    """Decoder of onnxruntime-genai (``decoder.Decoder``).

    Raises:
        BundleError: in the constructor, in ``append`` or where logits are read: the graph differs from the manifest.
    """

    def __init__(self, native: ModuleType, model: Any, inputs: DecoderInputs, context: int, bundle: Bundle) -> None:
        self.inputs = inputs
        self._folder = bundle.path
        self._vocab_size = bundle.manifest.decoder.vocab_size
        self._generator: Any = None
        with native_errors(self._folder, "prepare a conversation"):
            parameters = native.GeneratorParams(model)
            parameters.set_search_options(max_length=context, batch_size=1, do_sample=False)
            self._generator = native.Generator(model, parameters)
            for name in ("media_index", "media_features", "adapter_gates", "rope_long"):
                array = getattr(inputs, name)
                if array is not None:  # set before the first append, and never again
                    self._generator.set_model_input(name, array)

    @property
    def _live(self) -> Any:
        if self._generator is None:
            raise InputError("the session of this conversation is closed, expected an open one")
        return self._generator

    @property
    def token_count(self) -> int:
        """Number of tokens in the KV cache."""
        return int(self._live.token_count())

    def append(self, ids: NDArray[np.int32]) -> None:
        """Run the graph over more tokens, [S]."""
        generator = self._live
        with native_errors(self._folder, "run the decoder"):
            generator.append_tokens(np.ascontiguousarray(ids, np.int32))

    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the last token, [V]."""
        generator = self._live
        with native_errors(self._folder, "give logits"):
            logits: NDArray[np.float32] = np.asarray(generator.get_logits(), np.float32).reshape(-1)
        if len(logits) != self._vocab_size:
            raise BundleError(
                f"{self._folder}: the decoder gives {len(logits)} logits, expected decoder.vocab_size, "
                f"{self._vocab_size}"
            )
        return logits

    def draft_logits(self, count: int) -> NDArray[np.float32]:
        """Return the logits of the last ``count`` tokens, which were appended together: [count, V]."""
        generator = self._live
        with native_errors(self._folder, f"give {DRAFT_LOGITS}"):
            logits: NDArray[np.float32] = np.asarray(generator.get_output(DRAFT_LOGITS), np.float32)
        if logits.shape != (1, count, self._vocab_size):
            raise BundleError(
                f"{self._folder}: the decoder's {DRAFT_LOGITS} are {list(logits.shape)}, expected "
                f"{[1, count, self._vocab_size]}"
            )
        rows: NDArray[np.float32] = logits[0]
        return rows

    def rewind_to(self, count: int) -> None:
        """Remove all tokens from the cache but the first ``count``."""
        self._live.rewind_to(count)

    def read_state(self, state: StateSpec, layer: int) -> NDArray[np.generic]:
        """Return a copy of one layer's state, cut to the tokens read."""
        generator = self._live
        with native_errors(self._folder, "give its states"):
            return cut_state(state, np.asarray(generator.get_output(state.output % layer)), self.token_count)

    def write_states(self, states: Iterable[LayerState], count: int) -> None:
        """Raise an error: genai takes no states back.

        Raises:
            BundleError: always.
        """
        raise BundleError(f"{self._folder}: onnxruntime-genai takes no states back, expected another decoder")

    def close(self) -> None:
        """Free the generator, and after it its arrays."""
        self._generator = None


def decoder_inputs(manifest: Manifest, plan: MemoryPlan) -> DecoderInputs:
    """Allocate arrays for the inputs that the bundle's graph has."""
    decoder = manifest.decoder
    has_media = manifest.vision is not None or manifest.audio is not None
    has_gates = manifest.adapter_mode == "gated" and bool(manifest.adapters)
    return DecoderInputs(
        media_index=np.zeros(plan.context, np.int64) if has_media else None,
        media_features=np.zeros((plan.media_rows, decoder.hidden_size), np.float32) if has_media else None,
        adapter_gates=np.zeros(len(manifest.adapters), np.float32) if has_gates else None,
        rope_long=np.zeros(1, np.bool_) if decoder.original_context is not None else None,
    )


@contextmanager
def native_errors(folder: Path, doing: str) -> Iterator[None]:
    """Convert exceptions of genai to ``BundleError``: RuntimeError, and what pybind11 makes of C++ exceptions."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        raise BundleError(
            f"{folder}: onnxruntime-genai cannot {doing} ({' '.join(str(error).split())}), expected files that agree"
        ) from error
