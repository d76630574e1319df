"""Where the time of prefill and of decoding goes, by operator, in onnxruntime's own profile of a bundle's decoder.

    python -m benchmarks.peers.profile BUNDLE --prompt 512 --steps 32

The cache is written in place, as genai does it; adapters are off. Profiling itself costs some microseconds a node.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort

from benchmarks.tables import machine
from palmtop.export.measure.onnx_decoder import OnnxDecoder
from palmtop.runtime.bundle.opening import Bundle, open_bundle
from palmtop.runtime.memory.processors import OtherWork, usable_cores

Times = Counter[str]
"""Microseconds by operator."""


def profile(bundle: Bundle, prompt: int, steps: int, threads: int) -> tuple[Times, Times]:
    """Times of reading a prompt at once, and of one decode step behind it on average."""
    decoder = OnnxDecoder(bundle.file(bundle.manifest.decoder.file), bundle.manifest.decoder, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        path = bundle.file(bundle.manifest.decoder.file)
        decoder._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        read(decoder, bundle, prompt, 0)  # the first run allocates
        read(decoder, bundle, prompt, steps)
        runs = by_run(json.loads(Path(decoder._session.end_profiling()).read_text("utf-8")))
    decode: Times = Counter()
    for run in runs[2:]:
        decode.update(run)
    return runs[1], Counter({name: took / steps for name, took in decode.items()})


def read(decoder: OnnxDecoder, bundle: Bundle, prompt: int, steps: int) -> None:
    """Read a prompt of random ids, then more ids one at a time."""
    spec, session = bundle.manifest.decoder, decoder._session
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, prompt + steps)
    binding = session.io_binding()
    binding.bind_output("logits")
    for name, array in decoder._caches(len(ids)).items():
        cache = ort.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_input(name, cache)
        binding.bind_ortvalue_output(name.replace("past_key_values.", "present."), cache)
    for start, stop in ((0, prompt), *((at, at + 1) for at in range(prompt, prompt + steps))):
        fed: dict[str, Any] = {
            "input_ids": ids[None, start:stop],
            "attention_mask": np.ones((1, stop), np.int64),
            "media_index": np.zeros(len(ids), np.int64),
            "media_features": np.zeros((1, spec.hidden_size), np.float32),
            "adapter_gates": np.zeros(decoder.num_gates, np.float32),
            "rope_long": np.array([False]),
        }
        for name in fed.keys() & decoder._inputs.keys():
            binding.bind_cpu_input(name, np.ascontiguousarray(fed[name]))
        session.run_with_iobinding(binding)


def by_run(events: list[dict[str, Any]]) -> list[Times]:
    """Times of each run in order; "between operators" is what no operator took."""
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    runs: list[Times] = []
    for whole in (event for event in events if event["name"] == "model_run"):
        begun, ended = whole["ts"], whole["ts"] + whole["dur"]
        times: Times = Counter()
        for node in nodes:
            if begun <= node["ts"] < ended:
                times[label(node)] += node["dur"]
        times["between operators"] = max(0, whole["dur"] - sum(times.values()))
        runs.append(times)
    return runs


def label(node: dict[str, Any]) -> str:
    """An operator's name; the LM head apart from other products."""
    operator = str(node["args"].get("op_name", "?"))
    return f"{operator}, LM head" if "lm_head" in node["name"] else operator


def table(prefill: Times, decode: Times, smallest: float = 0.005) -> str:
    """Markdown: milliseconds and shares of both, the largest of decoding first."""
    sums = sum(prefill.values()), sum(decode.values())
    lines = ["| operator | prefill, ms | | decode, ms | |", "|---|---|---|---|---|"]
    for name in sorted({*prefill, *decode}, key=lambda name: -decode[name]):
        shares = prefill[name] / sums[0], decode[name] / sums[1]
        if max(shares) >= smallest:
            cells = f"{prefill[name] / 1e3:.1f} | {shares[0]:.1%} | {decode[name] / 1e3:.3f} | {shares[1]:.1%}"
            lines.append(f"| {name} | {cells} |")
    return "\n".join([*lines, f"| all | {sums[0] / 1e3:.1f} | | {sums[1] / 1e3:.3f} | |"])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--prompt", type=int, default=512, show_default=True, help="Tokens read at once.")
@click.option("--steps", type=int, default=32, show_default=True, help="Decode steps that are averaged.")
@click.option("--threads", type=int, default=usable_cores, help="Default: every core.")
def main(folder: Path, prompt: int, steps: int, threads: int) -> None:
    """Print the table."""
    others = OtherWork()
    found = table(*profile(open_bundle(folder), prompt, steps, threads))
    click.echo(f"{found}\n\n{machine()}, {threads} threads; other processes took {others.share() or 0:.0%}.")


if __name__ == "__main__":
    main()
