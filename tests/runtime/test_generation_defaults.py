"""Length and sampling where a request says nothing: as the checkpoint wants, and as thinking needs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import palmtop
from palmtop.__main__ import cli
from palmtop.errors import BundleError, CheckpointError
from palmtop.export.convert import export_model
from palmtop.export.reading.text import generation_defaults
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.generation_options import UNTIL_THE_CONTEXT_IS_FULL, GenerationOptions
from tests.runtime.test_thinking import QUESTION, write_chain

THOUGHTS = [chr(0x100 + i) for i in range(300)]  # more than the usual 256 tokens
UPSTREAM = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "transformers_version": "4.50.0"}


def thinking_bundle(folder: Path, generation: dict[str, Any] | None = None, context: int = 512) -> Path:
    write_chain(folder / "checkpoint", ["<think>", *THOUGHTS, "</think>", "four"], special=True, context=512)
    if generation is not None:
        (folder / "checkpoint" / "generation_config.json").write_text(json.dumps(generation))
    return export_model(folder / "checkpoint", folder / "bundle", Recipe(bits=32, context=context))


def test_a_model_that_thinks_longer_than_the_usual_answer_still_answers(tmp_path: Path) -> None:
    bundle = thinking_bundle(tmp_path)
    run = CliRunner().invoke(cli, ["run", str(bundle), "what is 2 plus 2?"])
    assert (run.exit_code, run.stdout, run.stderr) == (0, "four\n", "")


@pytest.mark.parametrize(
    ("arguments", "cut_by"),
    [(["--max-tokens", "20"], "(--max-tokens)"), (["--context", "100"], "(--context)"), (["--timeout", "0.001"], "")],
)
def test_thinking_that_is_cut_prints_no_empty_answer(tmp_path: Path, arguments: list[str], cut_by: str) -> None:
    bundle = thinking_bundle(tmp_path)
    run = CliRunner().invoke(cli, ["run", str(bundle), "what is 2 plus 2?", *arguments])
    assert (run.exit_code, run.stdout) == (3 if cut_by else run.exit_code, "")
    assert cut_by in run.stderr
    assert not cut_by or "while the model was still thinking" in run.stderr


def test_a_request_may_still_limit_it(tmp_path: Path) -> None:
    with palmtop.load(thinking_bundle(tmp_path, {"max_new_tokens": 7})) as session:
        by_checkpoint = session.answer(QUESTION)
        by_request = session.answer(QUESTION, options=GenerationOptions(max_tokens=3))
    assert (len(by_checkpoint.token_ids), by_checkpoint.unfinished) == (7, "thinking")
    assert (len(by_request.token_ids), by_request.ended_by) == (3, "max_tokens")


def test_the_checkpoints_sampling_is_the_bundles(tmp_path: Path) -> None:
    text = open_bundle(thinking_bundle(tmp_path, UPSTREAM)).manifest.processor.text
    assert text.generation == {"temperature": 0.8, "top_p": 0.95}
    options = GenerationOptions(top_k=5).resolved(text.generation)
    assert (options.temperature, options.top_p, options.top_k) == (0.8, 0.95, 5)
    assert GenerationOptions(temperature=0.0).resolved(text.generation).temperature == 0.0


def read(generation: object) -> dict[str, float] | None:
    folder: Any = SimpleNamespace(text=lambda _: json.dumps(generation), json=lambda _: generation)
    return generation_defaults(folder)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"eos_token_id": [1]}, None),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.5}, None),  # transformers takes the likeliest then
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": None, "top_k": 20}, {"temperature": 1.0, "top_k": 20}),
        ({"repetition_penalty": 1.03, "max_new_tokens": 64}, {"max_tokens": 64, "repetition_penalty": 1.03}),
    ],
)
def test_generation_config_is_read_as_transformers_does(
    given: dict[str, Any], expected: dict[str, float] | None
) -> None:
    assert read(given) == expected


@pytest.mark.parametrize(
    "bad", [{"temperature": -1}, {"top_p": 0}, {"top_k": 1.5}, {"temperature": "hot"}, {"max_new_tokens": True}]
)
def test_impossible_settings_of_a_checkpoint_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=f"generation_config.json: {next(iter(bad))} is"):
        read({"do_sample": True, **bad})


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_k": 1.5}, {"heat": 1.0}, {"max_tokens": 0}])
def test_impossible_settings_of_a_manifest_are_refused_by_name(toy_bundle: Path, bad: dict[str, float]) -> None:
    data = json.loads((toy_bundle / "bundle.json").read_text())
    data["processor"]["text"]["generation"] = bad
    with pytest.raises(BundleError, match=f"processor.text.generation.{next(iter(bad))} is"):
        Manifest.from_dict(data)


def test_a_checkpoint_that_says_nothing_gives_the_bundle_of_before(toy_bundle: Path) -> None:
    manifest = open_bundle(toy_bundle).manifest
    assert manifest.to_dict()["processor"]["text"]["generation"] is None
    options = GenerationOptions().resolved(manifest.processor.text.generation)
    assert (options.max_tokens, options.temperature, options.top_k) == (UNTIL_THE_CONTEXT_IS_FULL, 0.0, 0)
    assert options.resolved({"temperature": 2.0}) == options
