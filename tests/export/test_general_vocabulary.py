"""Models with other tokens than the packaged one's: what they are asked follows from the tokens, not their number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.convert import export_model
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.samples import SampleReader, later_questions, packaged_questions
from palmtop.export.mixed_precision.budget import Request
from palmtop.export.mixed_precision.prepare import _samples
from palmtop.export.recipe import Recipe
from palmtop.export.verify import verify
from palmtop.runtime.bundle.opening import open_bundle
from tests.export.test_phi3 import write_phi3


def with_other_tokens(folder: Path) -> Path:
    """Rename one entry of a tokenizer's vocabulary, so that it is as large as the packaged one and not the same."""
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text("utf-8"))
    vocabulary = data["model"]["vocab"]
    last = [token for token in vocabulary if token.isascii()][-1]
    vocabulary[f"{last}\u0109"] = vocabulary.pop(last)
    made = [merge if isinstance(merge, list) else merge.split(" ") for merge in data["model"]["merges"]]
    data["model"]["merges"] = [merge for merge in made if last not in ("".join(merge), *merge)]
    path.write_text(json.dumps(data), "utf-8")
    return folder


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("general") / "checkpoint"
    write_phi3(folder, 3)
    return with_other_tokens(folder)


def test_a_small_vocabulary_of_other_tokens_is_calibrated_on_prose(general: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(general)
    reference = FloatReference(tmp_path / "float", checkpoint, read_model(checkpoint, Recipe()), Recipe(context=200))
    assert SampleReader(reference.folder, reference.manifest).is_general
    samples, of_cache = _samples(reference.folder, reference.manifest, Request(items=2), 1)
    assert of_cache == [samples[0], samples[2]]  # of passages and of questions the first: the same objects
    assert [len(sample.positions) > 100 for sample in samples] == [True, True, False, False]  # prose, then tasks


def test_the_packaged_tokens_are_calibrated_on_the_tasks_whatever_the_size_of_the_matrix(tmp_path: Path) -> None:
    write_phi3(tmp_path / "padded", 3, vocab_size=9000)  # rows beyond the tokens, as published models have
    checkpoint = open_checkpoint(tmp_path / "padded")
    reference = FloatReference(tmp_path / "float", checkpoint, read_model(checkpoint, Recipe()), Recipe(context=200))
    samples, of_cache = _samples(reference.folder, reference.manifest, Request(items=2), 1)
    assert of_cache == samples[:1]
    assert [len(sample.positions) < 30 for sample in samples] == [True, True]


def test_later_questions_are_behind_the_first() -> None:
    first = [q.answer for q in packaged_questions(["text"], 2, is_general=True)]
    later = [q.answer for q in later_questions(["text"], 2, 2, is_general=True)]
    assert len(first) == len(later) == 4
    assert not set(first) & set(later)


@pytest.mark.parametrize("context", [16, 64])
def test_verify_of_a_context_shorter_than_its_questions(general: Path, tmp_path: Path, context: int) -> None:
    bundle = export_model(general, tmp_path / "bundle", Recipe(context=context, kv=8))
    quality = verify(open_bundle(bundle), open_checkpoint(general), items=2, answers=True)
    assert quality.verdict != "failed"
    assert quality.kv_cache["modes"]["text"]["positions"] > 0
    assert len(quality.worst) == 2
