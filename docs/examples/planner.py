"""Merged LoRAs in the manner of Octo-planner: an adapter for each domain of actions, and one made of all of them.

    python -m docs.examples.planner                     # two minutes on two cores

Octo-planner fine-tunes Phi-3-mini to write the steps of a plan, a LoRA for each domain, and merges LoRAs of equal
hyper-parameters into one that plans in all domains, at some loss that grows with their number. The stand-in has two
domains. Separate adapters need to know which domain a request is of; the merged one does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import palmtop
from docs.examples.training import Base, Sample, smollm2_bundle
from palmtop.export.adapters.install import add_adapter
from palmtop.export.adapters.merge_job import Source, merge_sources

SYSTEM = "Plan."
ROOMS = ("kitchen", "bedroom", "garage", "office", "attic")
MOODS = {"bright": "light on", "dark": "light off", "warm": "heat up", "cool": "heat down"}
GENRES, LEVELS = ("jazz", "rock", "opera", "folk"), {"softly": "volume 10", "loudly": "volume 90"}
HELD_OUT = "office"  # a room that no domain has in training


def home(rooms: tuple[str, ...]) -> Iterator[Sample]:
    """Orders that change a room in two ways."""
    for room, (first, one), (second, two) in product(rooms, MOODS.items(), MOODS.items()):
        if one.split()[0] != two.split()[0]:
            yield Sample(SYSTEM, f"Make the {room} {first} and {second}.", f"1. {room} {one} 2. {room} {two}")


def media(rooms: tuple[str, ...]) -> Iterator[Sample]:
    """Orders that play something."""
    for room, genre, (how, level) in product(rooms, GENRES, LEVELS.items()):
        yield Sample(SYSTEM, f"Play {genre} {how} in the {room}.", f"1. {room} {level} 2. {room} play {genre}")


DOMAINS = {"home": home, "media": media}


def main(work: Path, steps: int = 30, base: Base | None = None, bundle: Path | None = None) -> dict[str, float]:
    """Train both, merge, ask; right plans for the held-out room by adapter and domain."""
    model = base or Base.read()
    rooms = tuple(room for room in ROOMS if room != HELD_OUT)
    folders = {name: model.train([(list(make(rooms)), steps)], work / name) for name, make in DOMAINS.items()}
    merge_sources([Source(str(path), 1.0) for path in folders.values()], work / "both", method="svd", rank=16)
    folder = bundle or smollm2_bundle(work / "smollm2")
    for name in (*DOMAINS, "both"):
        add_adapter(folder, work / name, name)
    found = {}
    with palmtop.load(folder, context=512) as session:
        for adapter, (domain, make) in product(("home", "media", "both"), DOMAINS.items()):
            asked = list(make((HELD_OUT,)))
            answers = [session.answer(s.messages, adapters={adapter: 1.0}, max_tokens=32).text for s in asked]
            right = sum(answer.strip() == s.answer for answer, s in zip(answers, asked, strict=True))
            found[f"{adapter} on {domain}"] = right / len(asked)
            print(f"{adapter} on {domain}: {right} of {len(asked)}; '{asked[0].question}' -> '{answers[0]}'")
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
