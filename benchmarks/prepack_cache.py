"""Would a cache of prepacked weights start a bundle faster? Measures onnxruntime's own, and compares logits.

    python -m benchmarks.prepack_cache BUNDLE FOLDER

FOLDER takes the cache, up to 2.5 times the decoder's bytes. Each step is a process of its own; the table has the time
of loading, memory after it, and a hash of the logits for every gate alone and all at half.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.measured_process import memory_of

STEPS = ("plain", "parallel", "save", "cached", "cached again")
SAVE = {
    "session.optimized_model_external_initializers_file_name": "decoder.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    "session.save_external_prepacked_constant_initializers": "1",
}


def memory() -> dict[str, float]:
    """Of this process, in GB."""
    return {name: round(size / 1e9, 2) for name, size in memory_of().items() if name in ("VmHWM", "RssAnon", "RssFile")}


def measure(bundle: Path, cache: Path, step: str) -> dict[str, Any]:
    """Load once in this process, and run a few tokens under every gate setting."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    path = (cache if step.startswith("cached") else bundle) / "decoder.onnx"
    if step == "save":
        options.optimized_model_filepath = str(cache / "decoder.onnx")
        for key, value in SAVE.items():
            options.add_session_config_entry(key, value)
    if step == "parallel":
        options.add_session_config_entry("session.prepack.enable_parallel", "1")
    started = time.perf_counter()
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: dict[str, Any] = {"load_s": round(time.perf_counter() - started, 2), **memory()}
    inputs = {i.name: i for i in session.get_inputs()}
    count = int(inputs["adapter_gates"].shape[0]) if "adapter_gates" in inputs else 0
    settings = [np.zeros(count), *np.eye(count), np.full(count, 0.5)]
    found["logits"] = [_logits(session, inputs, gates.astype(np.float32)) for gates in settings]
    return found


def _logits(session: ort.InferenceSession, inputs: dict[str, Any], gates: np.ndarray[Any, Any]) -> str:
    tokens = np.arange(10, 15)[None]
    feeds: dict[str, Any] = {
        "input_ids": tokens,
        "attention_mask": np.ones_like(tokens),
        "media_index": np.zeros(64, np.int64),
        "media_features": np.zeros((1, inputs["media_features"].shape[1] if "media_features" in inputs else 1), "f4"),
        "adapter_gates": gates,
        "rope_long": np.zeros(1, np.bool_),
    }
    for name, value in inputs.items():
        if name.startswith("past_key_values."):
            feeds[name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    logits = session.run(["logits"], {k: v for k, v in feeds.items() if k in inputs})[0]
    return hashlib.sha256(logits.tobytes()).hexdigest()[:8]


def main() -> None:
    """Every step in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measure(arguments.bundle, arguments.cache, arguments.step)))
        return
    arguments.cache.mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        command = [sys.executable, "-m", "benchmarks.prepack_cache", *sys.argv[1:], "--step", step]
        print(
            f"{step:13}", subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True
        )


if __name__ == "__main__":
    main()
