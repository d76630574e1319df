"""llama.cpp through the C functions of llama-cpp-python: its defaults, the argmax in numpy instead of its sampler."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as c
import numpy as np
from protocol import Runtime, finish, measure, settings


class Llama:
    """A model and a context of llama.cpp."""

    def __init__(self, given: dict[str, Any]) -> None:
        c.llama_backend_init()
        silent = c.llama_log_callback(lambda level, text, data: None)
        c.llama_log_set(silent, ctypes.c_void_p(0))
        self._silent = silent  # ctypes keeps no reference
        self._model = c.llama_model_load_from_file(given["model"].encode(), c.llama_model_default_params())
        parameters = c.llama_context_default_params()
        parameters.n_ctx = max(given["contexts"]) + given["answer"] + 8
        parameters.n_threads = parameters.n_threads_batch = given["threads"]
        self._context = c.llama_init_from_model(self._model, parameters)
        self._vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self._batch = c.llama_n_batch(self._context)

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt (``Runtime``)."""
        c.llama_memory_clear(c.llama_get_memory(self._context), True)
        for at in range(0, len(ids), self._batch):
            token = self._decode(ids[at : at + self._batch])
        return token

    def step(self, token: int) -> int:
        """Read a token (``Runtime``)."""
        return self._decode([token])

    def _decode(self, ids: list[int]) -> int:
        tokens = (c.llama_token * len(ids))(*ids)
        if c.llama_decode(self._context, c.llama_batch_get_one(tokens, len(ids))):
            raise SystemExit("llama_decode failed")
        logits = c.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())


def main() -> None:
    """Measure."""
    given = settings()

    def load() -> Runtime:
        return Llama(given)

    finish(measure(load, given) | {"version": c.__version__, "features": c.llama_print_system_info().decode()})


main()
