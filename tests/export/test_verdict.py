"""What a right bundle loses is judged apart from whether it is right; questions fit the model; foreign checkpoints."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from palmtop.__main__ import cli, main
from palmtop.errors import InputError, PalmtopError, RuntimeMissingError
from palmtop.export.bundle.manifest_builder import list_files, write_manifest
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.cli import export_command
from palmtop.export.convert import export_model
from palmtop.export.measure.decoder_prompts import chosen_questions
from palmtop.export.measure.divergence import Agreement
from palmtop.export.recipe import Recipe
from palmtop.export.verify import verify
from palmtop.export.verify.cli import verify_command
from palmtop.export.verify.greedy_answers import Compared, accuracy, prompt_text
from palmtop.export.verify.judging.verdict import judge_modes
from palmtop.export.verify.quality import Quality
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.evaluate import read_samples
from tests.export.test_phi3 import edit_config, write_phi3

CONTEXT = 256
COARSE_SETTINGS = ("--set", "group=256", "--set", "symmetric=true", "--set", "method=rtn")
COARSE = Recipe(context=CONTEXT, group=256, symmetric=True, method="rtn")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verdict") / "checkpoint"
    write_phi3(folder, 1, num_hidden_layers=3, vocab_size=493)
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(checkpoint, tmp_path_factory.mktemp("verdict") / "bundle", Recipe(context=CONTEXT))


def agreement(mean_kl: float, max_abs: float = 0.1) -> dict[str, Agreement]:
    return {"text": Agreement(positions=64, mean_kl=mean_kl, max_kl=2.0, top1=0.6, max_abs=max_abs)}


LOSSES = {"text": {"weights": 0.6, "activations": 0.01, "activations_top1": 0.99}}


def test_a_large_loss_that_plain_rounding_does_not_have_is_lossy() -> None:
    (check,) = judge_modes(agreement(0.71), LOSSES, COARSE, lambda: {"text": 0.38})
    assert not check.passed and check.is_loss
    assert "lossy" in check.detail and "0.7100" in check.detail and "weights 0.6000" in check.detail
    assert "export with --set group=32 or --bits 8" in check.detail


def test_a_large_loss_that_plain_rounding_has_as_well_is_lossy_too() -> None:
    """What a user gets is as bad; only the advice differs."""
    (check,) = judge_modes(agreement(1.15), LOSSES, Recipe(), lambda: {"text": 1.1})
    assert not check.passed and check.is_loss
    assert "lossy" in check.detail and "the model needs more bits, export with --bits 8" in check.detail


def test_a_small_loss_asks_for_no_plain_rounding() -> None:
    def never() -> dict[str, float]:
        raise AssertionError

    (check,) = judge_modes(agreement(0.38), LOSSES, Recipe(), never)
    assert check.passed


def test_activations_that_lose_more_than_weights_are_named() -> None:
    losses = {"text": {"weights": 0.1, "activations": 0.9, "activations_top1": 0.5}}
    (check,) = judge_modes(agreement(1.0), losses, Recipe(), lambda: {"text": 0.1})
    assert "--set accuracy_level=0" in check.detail


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(bits=32)])
def test_logits_that_are_not_numbers_are_no_loss_but_a_fault(recipe: Recipe) -> None:
    (check,) = judge_modes(agreement(float("nan"), float("nan")), LOSSES, recipe, lambda: {"text": 0.1})
    quality = Quality(checks=(check,), modes={}, adapters={}, tensors={}, skipped=(), seconds=0.0)
    assert quality.verdict == "failed"


def test_a_badly_quantised_bundle_is_lossy_and_not_wrong(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    write_phi3(checkpoint, 1, num_hidden_layers=2, hidden_size=256, intermediate_size=512, vocab_size=493)
    arguments = [str(checkpoint), "-o", str(tmp_path / "b"), "--context", str(CONTEXT)]
    exported = CliRunner().invoke(export_command, [*arguments, *COARSE_SETTINGS])
    assert exported.exit_code == 0
    assert "warning: the bundle is lossy: text: logits: KL" in exported.stderr
    quality = json.loads((tmp_path / "b" / "quality.json").read_text())
    assert (quality["verdict"], quality["passed"]) == ("lossy", False)
    assert quality["losses"]["text"]["weights"] > quality["losses"]["text"]["activations"] > 0
    found = CliRunner().invoke(verify_command, [str(tmp_path / "b"), "--against", str(checkpoint)])
    assert found.exit_code == 3
    assert "LOSS  text: logits: KL" in found.output


def test_activations_in_float_lose_nothing(checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(context=CONTEXT, accuracy_level=0)
    found = verify(open_bundle(export_model(checkpoint, tmp_path / "b", recipe)), Checkpoint(checkpoint), items=1)
    assert found.losses["text"]["activations"] == 0.0
    assert found.losses["text"]["weights"] == pytest.approx(found.modes["text"].mean_kl, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": 2, "vocab_size": 493}, "number of layers 3 against 2"),
        ({"num_hidden_layers": 3, "vocab_size": 544}, "vocab size 493 against 544"),
        ({"num_hidden_layers": 3, "vocab_size": 493, "hidden_size": 48}, "hidden size 56 against 48"),
        (
            {"num_hidden_layers": 3, "vocab_size": 493, "num_key_value_heads": 1},
            r"state key \['batch', 2, 'tokens', 16\] against \['batch', 1, 'tokens', 16\]",
        ),
    ],
)
def test_a_checkpoint_of_other_sizes_is_one_sentence(
    bundle: Path, tmp_path: Path, changes: dict[str, int], named: str
) -> None:
    write_phi3(tmp_path / "other", 2, **changes)
    with pytest.raises(InputError, match=named):
        verify(open_bundle(bundle), Checkpoint(tmp_path / "other"))


def test_a_checkpoint_of_another_architecture_is_one_sentence(
    bundle: Path, reference_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["palmtop", "verify", str(bundle), "--against", str(reference_checkpoint)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert "architecture phi3 against phi4mm" in shown
    assert shown.count("\n") == 1


def test_a_checkpoint_of_another_inner_size_fails_without_running(bundle: Path, tmp_path: Path) -> None:
    """The manifest does not have this size."""
    write_phi3(tmp_path / "other", 2, num_hidden_layers=3, vocab_size=493, intermediate_size=64)
    quality = verify(open_bundle(bundle), Checkpoint(tmp_path / "other"))
    assert quality.verdict == "failed"
    assert quality.modes == {}


def test_a_checkpoint_that_lacks_a_tensor_is_one_sentence(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(PalmtopError, match=r"layers\.1\.mlp\.down_proj"):
        verify(open_bundle(bundle), Checkpoint(copy))


def test_other_weights_of_the_same_sizes_fail(bundle: Path, tmp_path: Path) -> None:
    write_phi3(tmp_path / "other", 2, num_hidden_layers=3, vocab_size=493)
    quality = verify(open_bundle(bundle), Checkpoint(tmp_path / "other"), items=1)
    names = {c.name for c in quality.checks if not c.passed}
    assert quality.verdict == "failed"
    assert {"manifest: source hash", "decoder: stored tensors"} <= names


def general(bundle: Path, folder: Path) -> Path:
    """The bundle with another vocabulary: what two of its tokens are called is exchanged."""
    copy = Path(shutil.copytree(bundle, folder))

    def change(data: dict) -> None:  # type: ignore[type-arg]
        vocabulary = data["model"]["vocab"]
        one, other = list(vocabulary)[40:42]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]

    edit_config(copy, change, "tokenizer.json")
    manifest = Manifest.from_dict(json.loads((copy / "bundle.json").read_text("utf-8")))
    write_manifest(copy, replace(manifest, files=list_files(copy)))
    return copy


def test_a_model_with_other_tokens_is_asked_general_questions(int4_bundle: Path, tmp_path: Path) -> None:
    own = chosen_questions(open_bundle(int4_bundle), 2)
    asked = chosen_questions(open_bundle(general(int4_bundle, tmp_path / "b"), hashes=False), 4)
    assert all(expected for _, _, expected in own)
    assert [expected for _, _, expected in asked] == [""] * 16
    assert {mode for mode, _, _ in asked} == {"text", "image", "audio", "image+audio"}
    assert not any("What is it?" in prompt_text(messages) for _, messages, _ in asked)


def test_samples_of_ones_own_are_asked_in_the_mode_that_a_chat_would_take(int4_bundle: Path, tmp_path: Path) -> None:
    lines = [
        {"messages": [{"role": "user", "content": "hi"}], "expected": "hello"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}]}]},
    ]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = chosen_questions(open_bundle(int4_bundle), 4, tmp_path / "s.jsonl")
    assert [(mode, expected) for mode, _, expected in asked] == [("text", "hello"), ("image", "")]


def test_a_sample_that_cannot_be_read_is_refused_first(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text("")
    with pytest.raises(InputError, match="has no line"):
        list(read_samples(tmp_path / "s.jsonl"))
    (tmp_path / "s.jsonl").write_text('{"messages": 1}')
    with pytest.raises(InputError, match=r"s.jsonl:1: 'messages' is"):
        verify(open_bundle(bundle), Checkpoint(checkpoint), samples=tmp_path / "s.jsonl")


def test_a_task_that_the_float_model_cannot_do_has_no_table() -> None:
    def compared(reference: str, expected: str) -> Compared:
        return Compared(mode="text", prompt="", expected=expected, reference=reference, found="a", kl=0.0)

    assert accuracy([compared("x", "a"), compared("y", "b")]) == {}
    assert accuracy([compared("x", ""), compared("", "")]) == {}
    assert accuracy([compared("a", "a"), compared("y", "b")])["text"]["items"] == 2


def test_evaluate_asks_no_model_for_tasks_that_it_never_learnt(int4_bundle: Path, tmp_path: Path) -> None:
    other = general(int4_bundle, tmp_path / "b")
    found = CliRunner().invoke(cli, ["evaluate", str(other), "--items", "1"])
    assert "expected a file of questions" in str(found.exception)


def test_float_graphs_agree_with_transformers(bundle: Path, checkpoint: Path) -> None:
    quality = verify(open_bundle(bundle), Checkpoint(checkpoint), items=2, independent=True)
    (check,) = (c for c in quality.checks if "transformers" in c.name)
    assert check.passed and 0 < check.value < 1e-4


def test_graphs_that_differ_from_transformers_fail(
    bundle: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the exporter's own graph code would be in the bundle and in its float reference alike."""
    from palmtop.export.verify.judging.transformers_reference import TextReference

    monkeypatch.setattr(TextReference, "logits", lambda self, prompt: np.ones((len(prompt.tokens), 493), np.float32))
    quality = verify(open_bundle(bundle), Checkpoint(checkpoint), items=1, independent=True)
    assert [c.name for c in quality.checks if not c.passed] == ["text: float graphs against transformers"]
    assert quality.verdict == "failed"


def test_transformers_that_is_missing_is_one_sentence(
    bundle: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeMissingError, match="pip install"):
        verify(open_bundle(bundle), Checkpoint(checkpoint), independent=True)
