"""One bundle under emulated processors: three generations of x86 and one arm64 core must give the same tokens.

    python -m benchmarks.phone_isa [BUNDLE] [--items 2] [--level 0] [--cpu Nehalem ...] [--json]

Without BUNDLE the reference model is exported, with ``--level`` as accuracy level of its products. At level 0 (weights
made float, products in float) the order of sums and fused multiply-adds are all that differs between processors, so
tokens are expected to be equal; at level 4 activations are rounded to 8 bits and kernels differ, so tokens may.

On x86 the Python runtime of this interpreter runs under ``qemu-x86_64``; on arm64 the libraries of the APK run under
``qemu-aarch64`` in an arm64 Java machine (packages: ``python android_demo/packages.py fetch``).

What qemu's emulation cannot do: AVX-512, VNNI and AMX (it has none of them, so those kernels run natively or not at
all); and it says nothing about speed, caches or the order of memory accesses between threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

import palmtop
from android_demo.packages import unpack_group
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import TASKS, held_out_items

X86 = ("Nehalem", "SandyBridge", "Haswell")  # SSE4.2; AVX; AVX2 with fused multiply-add
ARM = "cortex-a76"  # dot products of 8-bit integers, no i8mm, no SME
HOST = "this machine"
FEATURES = ("SSE42", "AVX", "FMA3", "AVX2", "AVX512F", "AVX512_SPR")
CONTEXT = 512
MAX_TOKENS = 12
LIMIT_S = 3600


def answers(bundle: Path, items: int) -> dict[str, Any]:
    """Tokens of each question, by the Python runtime on the processor that this process sees."""
    from numpy._core._multiarray_umath import __cpu_features__ as seen  # type: ignore[attr-defined]

    tokens, logprobs = [], []
    options = GenerationOptions(max_tokens=MAX_TOKENS, top_logprobs=1)
    with palmtop.load(bundle, threads=1, context=CONTEXT) as session:
        for task in TASKS:
            for item in held_out_items(task, items, 0):
                reply = session.answer(item.messages, options=options)
                tokens.append(list(reply.token_ids))
                logprobs.append([entry.logprob for entry in reply.logprobs])
    return {"tokens": tokens, "logprobs": logprobs, "features": [name for name in FEATURES if seen.get(name)]}


def emulated_x86(bundle: Path, items: int, cpu: str) -> dict[str, Any]:
    """``answers`` in a process of this interpreter under ``qemu-x86_64``."""
    qemu = unpack_group("qemu") / "usr/bin/qemu-x86_64"
    child = [sys.executable, "-m", "benchmarks.phone_isa", str(bundle), "--items", str(items), "--child"]
    command = [str(qemu), "-cpu", cpu, *child]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment)
    if done.returncode:
        raise click.ClickException(f"{cpu}: the emulated process ended with {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def emulated_arm(bundle: Path, items: int, cpu: str, work: Path) -> dict[str, Any]:
    """The same questions to the phone's Java core over the APK's arm64 libraries, under ``qemu-aarch64``."""
    from tests.android.jvm import Core, compile_core
    from tests.android.phone_libraries import aar, arm64_java, make_libraries, take_classes

    jar = take_classes(aar("genai"), work / "genai.jar")
    libraries = make_libraries(work / "libraries", "arm64-v8a").folder
    classes = compile_core(work / "classes", jar)
    with Core(classes, jar, work, libraries, java=arm64_java(libraries, cpu)) as core:
        core.ask("load", folder=str(bundle), context=CONTEXT)
        questions = [item for task in TASKS for item in held_out_items(task, items, 0)]
        tokens = [core.respond(item.messages, max_tokens=MAX_TOKENS)["ids"] for item in questions]
    return {"tokens": tokens, "logprobs": None, "features": ["onnxruntime 1.29 of the APK"]}


def compare(found: dict[str, Any], host: dict[str, Any]) -> dict[str, Any]:
    """Share of questions with equal tokens, and the largest difference of a chosen token's log-probability."""
    pairs = list(zip(found["tokens"], host["tokens"], strict=True))
    equal = [n for n, (one, other) in enumerate(pairs) if one == other]
    logprobs = found["logprobs"]
    differences = [abs(a - b) for n in equal if logprobs for a, b in zip(logprobs[n], host["logprobs"][n], strict=True)]
    return {
        "equal": len(equal),
        "questions": len(pairs),
        "tokens": sum(len(tokens) for tokens in found["tokens"]),
        "logprob_difference": max(differences) if differences else None,
        "features": found["features"],
    }


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--items", default=2, show_default=True, help="Questions of each mode.")
@click.option("--level", default=0, show_default=True, help="Accuracy level of the exported bundle.")
@click.option(
    "--cpu", "cpus", multiple=True, help=f"Processors, as qemu names them (default: {', '.join((*X86, ARM))})."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--child", is_flag=True, hidden=True)
def main(bundle: Path | None, items: int, level: int, cpus: tuple[str, ...], as_json: bool, child: bool) -> None:
    """Compare each processor with this machine; exit code 1 when tokens differ at level 0."""
    if child:
        assert bundle is not None
        print(json.dumps(answers(bundle, items)))
        return
    with tempfile.TemporaryDirectory(prefix="palmtop-isa-") as folder:
        work = Path(folder)
        if bundle is None:
            bundle = export_model(checkpoint_path(), work / "bundle", Recipe(accuracy_level=level))
        host = answers(bundle, items)
        rows: dict[str, dict[str, Any]] = {HOST: {**compare(host, host), "seconds": None}}
        for cpu in cpus or (*X86, ARM):
            started = time.monotonic()
            is_arm = cpu.startswith(("cortex", "neoverse", "a64fx"))
            found = emulated_arm(bundle, items, cpu, work) if is_arm else emulated_x86(bundle, items, cpu)
            rows[cpu] = {**compare(found, host), "seconds": round(time.monotonic() - started, 1)}
            if not as_json:
                show(cpu, rows[cpu])
    if as_json:
        print(json.dumps(rows, indent=2))
    if level == 0 and any(row["equal"] != row["questions"] for row in rows.values()):
        sys.exit(1)


def show(cpu: str, row: dict[str, Any]) -> None:
    """One line of the table."""
    difference = row["logprob_difference"]
    said = "" if difference is None else f", log-probabilities differ by at most {difference:.1e}"
    print(
        f"{cpu:12} {row['equal']} of {row['questions']} answers equal ({row['tokens']} tokens){said}; "
        f"{' '.join(row['features'])}; {row['seconds']} s"
    )


if __name__ == "__main__":
    main()
