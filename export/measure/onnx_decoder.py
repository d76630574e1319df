"""Teacher-forced run of a decoder graph in onnxruntime, without genai: the same tokens through two graphs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError
from palmtop.runtime.bundle.manifest import DRAFT_LOGITS, DecoderSpec
from palmtop.runtime.bundle.native_files import graph_source

LOG_ERRORS = 3
CACHE_TYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderPrompt:
    """One prompt as input arrays of the decoder.

    Attributes:
        mode: "text", "image", "audio" or "image+audio".
        input_ids: [S] int64 token ids.
        media_places: [S] int64, 0 for text, k for row k of the features.
        features: [M, H] float32, M >= 1.
    """

    mode: str
    input_ids: NDArray[np.int64]
    media_places: NDArray[np.int64]
    features: NDArray[np.float32]


class OnnxDecoder:
    """One decoder graph, run step by step with a cache of its own."""

    def __init__(self, path: Path, spec: DecoderSpec, *, threads: int = 0, graph: bytes | None = None) -> None:
        """Load the graph in onnxruntime.

        Args:
            path: path of the .onnx file.
            spec: sizes of the decoder.
            threads: number of onnxruntime's threads; 0 for its default.
            graph: another graph instead of the file's, with weights in the files beside it.

        Raises:
            BundleError: onnxruntime cannot load it.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = LOG_ERRORS
        options.intra_op_num_threads = threads
        try:
            with graph_source(path, graph) as source:
                self._session: Any = source.open(ort.InferenceSession, options, providers=["CPUExecutionProvider"])
        except BundleError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise BundleError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from error
        self._spec, self._path = spec, path
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs() if o.name != DRAFT_LOGITS]  # the same, more rows

    @property
    def num_gates(self) -> int:
        """Number of adapters in the graph."""
        gates = self._inputs.get("adapter_gates")
        return 0 if gates is None else int(gates.shape[0])

    def logits(
        self,
        prompt: DecoderPrompt,
        gates: NDArray[np.float32],
        continuation: NDArray[np.int64],
        *,
        is_long: bool = False,
    ) -> NDArray[np.float32]:
        """Return the logits after the prompt and after each token of a given continuation.

        Args:
            prompt: input arrays of the prompt.
            gates: [A] adapter weights; ignored by a graph without adapters.
            continuation: [T] tokens to feed; the successor of the last one is not predicted.
            is_long: whether to use the long LongRoPE factors.

        Returns:
            The logits, [T, V] float32: row t predicts ``continuation[t]``.
        """
        rows, cache, length = [], None, 0
        for ids in [prompt.input_ids, *(continuation[t : t + 1] for t in range(len(continuation) - 1))]:
            logits, cache = self._run(ids, prompt, gates, cache, length, is_long)
            length += len(ids)
            rows.append(logits)
        return np.stack(rows)

    def greedy(
        self, prompt: DecoderPrompt, gates: NDArray[np.float32], steps: int, ends: Collection[int] = ()
    ) -> NDArray[np.int64]:
        """Return at most ``steps`` tokens of the greedy answer; it stops behind one of ``ends``, and at the context."""
        tokens: list[int] = []
        cache, length, ids = None, 0, prompt.input_ids
        for _ in range(min(steps, self._spec.context_length + 1 - len(ids))):  # the last token is not read
            logits, cache = self._run(ids, prompt, gates, cache, length, False)
            length += len(ids)
            tokens.append(int(logits.argmax()))
            if tokens[-1] in ends:
                break
            ids = np.array(tokens[-1:], np.int64)
        return np.array(tokens, np.int64)

    def cache(self, prompt: DecoderPrompt, gates: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return keys and values of a prompt, [1, KV, S, D] by name: ``key.0``, ``value.0``, ``key.1``, ..."""
        _, cache = self._run(prompt.input_ids, prompt, gates, None, 0, False)
        return {".".join(reversed(name.split(".")[1:])): array for name, array in cache.items()}

    def stream(
        self, ids: NDArray[np.int64], gates: NDArray[np.float32], chunk: int, *, is_long: bool = False
    ) -> Iterator[NDArray[np.float32]]:
        """Yield logits [V] after each chunk of a text, in one cache that is allocated once and written in place.

        Args:
            ids: [S] token ids of the text.
            gates: [A] adapter weights; ignored by a graph without adapters.
            chunk: tokens read at a time.
            is_long: whether to use the long LongRoPE factors.
        """
        import onnxruntime as ort

        binding = self._session.io_binding()
        binding.bind_output("logits")  # the first of its outputs
        for name, array in self._caches(len(ids)).items():
            cache = ort.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(name.replace("past_key_values.", "present."), cache)
        fixed: dict[str, NDArray[Any]] = {
            "media_index": np.zeros(len(ids), np.int64),
            "media_features": np.zeros((1, self._spec.hidden_size), np.float32),
            "adapter_gates": gates,
            "rope_long": np.array([is_long]),
        }
        for start in range(0, len(ids), chunk):
            stop = min(start + chunk, len(ids))
            fed = {"input_ids": ids[None, start:stop], "attention_mask": np.ones((1, stop), np.int64), **fixed}
            for name in fed.keys() & self._inputs.keys():
                binding.bind_cpu_input(name, np.ascontiguousarray(fed[name]))
            binding.bind_output("logits")
            self._session.run_with_iobinding(binding)
            yield binding.get_outputs()[0].numpy()[0, -1]

    def _caches(self, length: int) -> dict[str, NDArray[Any]]:
        """Zeros for every input of the cache, in the graph's type."""
        return {
            name: np.zeros(
                (*state.stored_shape(length)[:-1], self._inputs[name].shape[-1]), CACHE_TYPES[self._inputs[name].type]
            )
            for state in self._spec.states
            for name in state.inputs()
        }

    def _run(
        self,
        ids: NDArray[np.int64],
        prompt: DecoderPrompt,
        gates: NDArray[np.float32],
        cache: dict[str, NDArray[np.float32]] | None,
        length: int,
        is_long: bool,
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        total = length + len(ids)
        index = np.zeros(max(total, len(prompt.media_places)), np.int64)
        index[: len(prompt.media_places)] = prompt.media_places
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": ids[None],
            "attention_mask": np.ones((1, total), np.int64),
            "media_index": index,
            "media_features": prompt.features,
            "adapter_gates": gates,
            "rope_long": np.array([is_long]),
        }
        feeds |= self._caches(0) if cache is None else cache
        try:
            found = self._session.run(self._outputs, {k: v for k, v in feeds.items() if k in self._inputs})
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise BundleError(f"{self._path}: onnxruntime cannot run it ({str(error).splitlines()[0]})") from error
        by_name = dict(zip(self._outputs, found, strict=True))
        logits = by_name.pop("logits")[0, -1]
        return logits, {k.replace("present.", "past_key_values."): v for k, v in by_name.items()}
