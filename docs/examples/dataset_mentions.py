"""Detection of data sets that a text mentions: a small gate before the model, and a LoRA trained in two stages.

    python -m docs.examples.dataset_mentions            # a minute on two cores

In the literature a small encoder lets only likely sentences through to Phi-3.5-mini, which was fine-tuned first on many
weakly labelled sentences and then on few good ones. The stand-in has the same three parts: a logistic regression on
words as the gate, a first stage of sentences whose labels are sometimes wrong, a second one of clean sentences. The
answer is JSON by a schema, so that it can always be read.
"""

from __future__ import annotations

import json
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import palmtop
from docs.examples.training import Base, Sample, smollm2_bundle
from palmtop.export.adapters.install import add_adapter
from palmtop.runtime.decoding.grammar import Grammar

SYSTEM = "Data sets."
FORM = Grammar.json_schema({"type": "array", "items": {"type": "string"}, "maxItems": 2})
PLACES = ("Nile", "Alpine", "Baltic", "Andean", "Sahel", "Coastal", "Delta", "Highland")
KINDS = ("Household Survey", "Labour Census", "Health Panel", "Crop Register")
USES = (
    "We use the {name} to estimate income.",
    "Our results rest on the {name} of 2012.",
    "Data come from the {name}.",
    "The {name} covers 4,000 families.",
)
OTHERS = (
    "Prices rose sharply in the {place} region.",
    "We thank the {place} office for its help.",
    "The model is estimated by least squares.",
    "Rain in the {place} area was low that year.",
    "Section 3 describes the method.",
    "The {place} economy grew slowly.",
)
WORDS = 512  # of the gate: hashed, so that it needs no vocabulary


def sentences(places: tuple[str, ...], seed: int) -> list[tuple[str, list[str]]]:
    """Sentences in random order, with the data sets that each mentions."""
    found = [(use.format(name=f"{p} {k}"), [f"{p} {k}"]) for use, p, k in product(USES, places, KINDS)]
    found += [(other.format(place=place), []) for other, place in product(OTHERS, places)] * 3
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[i] for i in order]


class Gate:
    """Logistic regression on the words of a sentence: whether it may mention a data set."""

    def __init__(self, labelled: list[tuple[str, list[str]]], steps: int = 300) -> None:
        x = np.stack([self._words(text) for text, _ in labelled])
        y = np.array([bool(names) for _, names in labelled], np.float64)
        self._weights = np.zeros(WORDS + 1)
        for _ in range(steps):
            error = 1 / (1 + np.exp(-x @ self._weights)) - y
            self._weights -= 0.5 * (x.T @ error / len(y) + 1e-4 * self._weights)

    def probability(self, text: str) -> float:
        """Probability that a sentence mentions a data set."""
        return float(1 / (1 + np.exp(-self._words(text) @ self._weights)))

    @staticmethod
    def _words(text: str) -> NDArray[np.float64]:
        counts = np.zeros(WORDS + 1)
        counts[-1] = 1.0
        for word in text.lower().replace(".", "").split():
            counts[sum(ord(letter) * 31**i for i, letter in enumerate(word)) % WORDS] = 1.0
        return counts


def labelled(found: list[tuple[str, list[str]]], wrong: float = 0.0, seed: int = 0) -> list[Sample]:
    """Samples to learn; a share of the labels is lost, as in weak ones."""
    lost = np.random.default_rng(seed).random(len(found)) < wrong
    return [
        Sample(SYSTEM, text, json.dumps([] if gone else names)) for (text, names), gone in zip(found, lost, strict=True)
    ]


def main(work: Path, steps: int = 20, base: Base | None = None, bundle: Path | None = None) -> dict[str, float]:
    """Train gate and adapter, read held-out sentences; recall and share of sentences that the model was asked."""
    weak, clean, held_out = (sentences(PLACES[at : at + n], at) for at, n in ((0, 5), (5, 1), (6, 2)))
    gate = Gate(weak + clean)
    stages = [(labelled(weak, wrong=0.15), steps), (labelled(clean), steps // 2)]
    adapter = (base or Base.read()).train(stages, work / "mentions")
    folder = bundle or smollm2_bundle(work / "smollm2")
    add_adapter(folder, adapter, "mentions")
    held_out = held_out[:40]
    asked = [(text, names) for text, names in held_out if gate.probability(text) >= 0.2]
    right = dict.fromkeys((0.0, 1.0), 0)
    with palmtop.load(folder, context=512) as session:
        for weight in right:
            for text, names in asked:
                messages = Sample(SYSTEM, text, "").messages
                reply = session.answer(messages, adapters={"mentions": weight}, grammar=FORM, max_tokens=32)
                right[weight] += reply.unfinished is None and json.loads(reply.text) == names
    mentions = sum(bool(names) for _, names in held_out)
    found = {
        "asked": len(asked) / len(held_out),
        "let through": sum(bool(names) for _, names in asked) / mentions,
        "right, adapter off": right[0.0] / len(asked),
        "right": right[1.0] / len(asked),
    }
    print(", ".join(f"{name} {value:.0%}" for name, value in found.items()))
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
