"""Synthesize the training and held-out recordings: `python -m tests.reference.make_speech --work DIR`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tests.reference.speech import held_out_requests, save, synthesize, training_requests


def make_speech(work: Path, piper_wheel: Path, seed: int) -> None:
    """Write `speech-train.npz` and `speech-heldout.npz`; what is there already is kept."""
    work.mkdir(parents=True, exist_ok=True)
    for name, plan in (("heldout", held_out_requests(seed + 1)), ("train", training_requests(seed))):
        path = work / f"speech-{name}.npz"
        if not path.exists():
            save(path, *synthesize(plan, piper_wheel, seed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--piper-wheel", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    make_speech(arguments.work, arguments.piper_wheel, arguments.seed)
