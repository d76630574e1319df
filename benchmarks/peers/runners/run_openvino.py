"""OpenVINO GenAI on its CPU device: the pipeline counts its own times, as it gives no step of its own."""

from __future__ import annotations

import time
from importlib.metadata import version

import numpy as np
import openvino
import openvino_genai
from protocol import finish, memory, prompt, settings


def main() -> None:
    """Measure."""
    given = settings()
    started = time.perf_counter()
    pipe = openvino_genai.LLMPipeline(given["model"], "CPU", INFERENCE_NUM_THREADS=given["threads"])
    found = {"load_s": time.perf_counter() - started, "contexts": {}, "version": version("openvino-genai")}
    for context in (64, *given["contexts"]):
        ids = np.array([prompt(given, context, context)], np.int64)
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = given["answer"] + 1, True, False
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        took = pipe.generate(inputs, config).perf_metrics
        first_ms, each_ms = took.get_ttft().mean, took.get_tpot().mean
        found["contexts"][context] = {"prefill_tok_s": 1e3 * context / first_ms, "decode_ms": each_ms}
    if 64 not in given["contexts"]:
        del found["contexts"][64]  # the warm-up
    finish(found | memory())


main()
