"""onnxruntime-genai with a model of its own builder, through its own loop."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import onnxruntime_genai as og
from protocol import Runtime, finish, measure, settings


class Genai:
    """A model and a generator."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._model = og.Model(given["model"])
        self._length = max(given["contexts"]) + given["answer"] + 8
        self._generator: Any = None

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt (``Runtime``)."""
        self._generator = None
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=self._length, min_length=self._length, batch_size=1, do_sample=False)
        self._generator = og.Generator(self._model, parameters)
        self._generator.append_tokens(np.array(ids, np.int32))
        return self._next()

    def step(self, token: int) -> int:
        """Read a token (``Runtime``)."""
        return self._next()

    def _next(self) -> int:
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])


def main() -> None:
    """Measure."""
    given = settings()

    def load() -> Runtime:
        return Genai(given)

    finish(measure(load, given) | {"version": version("onnxruntime-genai")})


main()
