"""Protein generation in the manner of protein language models with LoRA on Phi-3-mini and Llama-3.

    python -m docs.examples.proteins                    # a minute on two cores

There a LoRA of 4 % of the parameters teaches a chat model to write amino acids between ``Seq=<`` and ``>`` for a family
that the prompt names. The stand-in has two families that differ in what they are made of: membrane proteins are mostly
hydrophobic, soluble ones mostly are not. Two things come together: the adapter knows the family, the grammar keeps the
alphabet and the length.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import palmtop
from docs.examples.training import Base, Sample, smollm2_bundle
from palmtop.export.adapters.install import add_adapter
from palmtop.runtime.decoding.grammar import Grammar

SYSTEM = "Protein."
HYDROPHOBIC, OTHERS = "AILMFVW", "DEGHKNPQRST"
FAMILIES = {"membrane": 0.9, "soluble": 0.2}  # share of hydrophobic residues
FORM = Grammar.regex(f"Seq=<[{HYDROPHOBIC}{OTHERS}]{{16,24}}>")


def samples(count: int, seed: int) -> list[Sample]:
    """Random sequences of both families."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        family = list(FAMILIES)[number % len(FAMILIES)]
        kinds = random.random(random.integers(16, 25)) < FAMILIES[family]
        residues = "".join(str(random.choice(list(HYDROPHOBIC if kind else OTHERS))) for kind in kinds)
        found.append(Sample(SYSTEM, f"A {family} protein.", f"Seq=<{residues}>"))
    return found


def hydrophobic(answer: str) -> float:
    """Share of hydrophobic residues in an answer that follows the form."""
    residues = answer.removeprefix("Seq=<").removesuffix(">")
    return sum(residue in HYDROPHOBIC for residue in residues) / len(residues)


def main(work: Path, steps: int = 40, base: Base | None = None, bundle: Path | None = None) -> dict[str, float]:
    """Train, add, sample; mean hydrophobic share of each family, and without the adapter."""
    adapter = (base or Base.read()).train([(samples(256, seed=0), steps)], work / "proteins")
    folder = bundle or smollm2_bundle(work / "smollm2")
    add_adapter(folder, adapter, "proteins")
    found = {}
    with palmtop.load(folder, context=512) as session:
        for weight in (0.0, 1.0):
            for family in FAMILIES:
                question = Sample(SYSTEM, f"A {family} protein.", "").messages
                answers = [
                    session.answer(
                        question,
                        adapters={"proteins": weight},
                        grammar=FORM,
                        temperature=1.0,
                        seed=seed,
                        max_tokens=48,
                    )
                    for seed in range(8)
                ]
                whole = [answer.text for answer in answers if answer.unfinished is None]
                name = family if weight else f"{family}, adapter off"
                found[name] = float(np.mean([hydrophobic(text) for text in whole]))
                print(f"{name}: {found[name]:.0%} hydrophobic; {whole[0]}")
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
