"""Adapters on a base that has lost much: rounding of the base is told from a wrong adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.export.verify import adapters as proofs
from palmtop.export.verify import verify
from palmtop.export.verify.quality import Quality
from palmtop.runtime.bundle.opening import open_bundle
from tests.export.test_decoder import SMALL_TOWERS
from tests.export.test_verify import rehash, zero_adapter
from tests.reference.port import random_checkpoint

# As a checkpoint of the true dimensions with random weights: there the cosine against the float base is 0.575.
STRICT = 0.95


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of random weights and its bundle in groups of 256, which loses 0.6 nats a token."""
    folder = tmp_path_factory.mktemp("lossy")
    sizes = {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32}
    random_checkpoint(folder / "c", 1, num_hidden_layers=3, **sizes, **SMALL_TOWERS)
    recipe = Recipe(context=512, group=256, symmetric=True, method="rtn", adapters="gated")
    return folder / "c", export_model(folder / "c", folder / "b", recipe)


def judged(checkpoint: Path, bundle: Path) -> Quality:
    return verify(open_bundle(bundle), open_checkpoint(checkpoint), items=1)


def test_a_right_adapter_on_a_lossy_base_is_right(lossy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "MIN_EFFECT_COSINE", STRICT)
    quality = judged(*lossy)
    assert quality.verdict == "lossy"
    assert [c.name for c in quality.checks if not c.passed and not c.is_loss] == []
    for numbers in quality.adapters.values():
        assert numbers["cosine"] < STRICT < numbers["cosine_on_rounded_base"]


def test_a_zeroed_adapter_on_a_lossy_base_is_wrong(lossy: tuple[Path, Path]) -> None:
    zero_adapter(lossy[1], "vision")
    rehash(lossy[1])
    quality = judged(*lossy)
    assert quality.verdict == "failed"
    names = [c.name for c in quality.checks if not c.passed and not c.is_loss]
    assert "adapter vision: changes the logits as in the checkpoint" in names
    assert not any("speech" in name for name in names)


def test_halves_of_an_adapter_are_the_whole_to_float_rounding(int4_bundle: Path, reference_checkpoint: Path) -> None:
    """Activations of 8 bits would add noise that depends on the model: they are left out."""
    halves = [c for c in judged(reference_checkpoint, int4_bundle).checks if "0.5 + 0.5" in c.name]
    assert len(halves) == 4
    assert max(check.value for check in halves) < 1e-5


def test_logits_that_would_fill_the_memory_reduce_the_questions(
    int4_bundle: Path, reference_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a vocabulary of 200,064 the logits of 16 questions were 3 GB, whatever the size of the model."""
    monkeypatch.setattr("palmtop.export.verify.questions.MOST_LOGITS_BYTES", 1)
    quality = verify(open_bundle(int4_bundle), open_checkpoint(reference_checkpoint), items=3)
    assert quality.verdict == "passed"
    assert all(mode.positions <= 6 for mode in quality.modes.values())
    assert "logits: of the large model 1 questions of each mode were compared" in quality.skipped
