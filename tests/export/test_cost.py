"""An export states its cost before it starts, and refuses a disk on which its bundle has no room."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from palmtop.errors import InputError
from palmtop.export import cli
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.convert import export_model
from palmtop.export.cost.estimate import Cost, estimate
from palmtop.export.cost.rates import Rates, measure_rates
from palmtop.export.mixed_precision.budget import Request
from palmtop.export.recipe import Recipe
from palmtop.quantize.rtn import rtn
from palmtop.quantize.scheme import Scheme
from palmtop.runtime.reference import checkpoint_path
from tests.export.test_phi3 import write_phi3

RATES = Rates(quantized_per_s=1e6, rounded_per_s=1e7, macs_per_s=1e9)
Usage = namedtuple("Usage", "total used free")


def cost(recipe: Recipe, request: Request | None = None, *, verify: bool = True, source: Path | None = None) -> Cost:
    checkpoint = open_checkpoint(source or checkpoint_path())
    model = read_model(checkpoint, recipe)
    target = Path("bundle")
    return estimate(checkpoint, model, recipe, request, target=target, verify=verify, threads=2, rates=RATES)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(context=512, method="rtn"),
        Recipe(context=512, bits=8, group=128, symmetric=True, method="rtn"),
        Recipe(context=512, method="rtn", adapters="merge=vision", encoder_bits=32),
        Recipe(context=512, bits=32),
    ],
)
def test_the_disk_that_is_stated_is_the_disk_that_is_used(recipe: Recipe, tmp_path: Path) -> None:
    bundle = export_model(checkpoint_path(), tmp_path / "bundle", recipe)
    used = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    assert cost(recipe).disk_bytes == pytest.approx(used, rel=0.15)  # graphs of a small model are a tenth of it


def test_a_text_model_of_another_layout(tmp_path: Path) -> None:
    write_phi3(tmp_path / "c", 1, tie_word_embeddings=False, hidden_size=512, vocab_size=4096)
    recipe = Recipe(context=128, method="rtn")
    bundle = export_model(tmp_path / "c", tmp_path / "b", recipe)
    used = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    assert cost(recipe, source=tmp_path / "c").disk_bytes == pytest.approx(used, rel=0.12)


def test_every_option_that_changes_the_cost_changes_the_estimate() -> None:
    plain = cost(Recipe(context=512))
    assert plain.prepare_s == 0 and plain.write_s > 0 and plain.verify_s > plain.write_s
    assert cost(Recipe(context=512), verify=False).verify_s == 0
    assert cost(Recipe(context=512), verify=False).memory_bytes < plain.memory_bytes
    assert cost(Recipe(context=512, adapters="none")).verify_s < plain.verify_s
    calibrated = cost(Recipe(context=512, kv=8)).prepare_s
    kept = [cost(Recipe(context=context, kv=8)).verify_s for context in (64, 512, 4096)]
    assert plain.verify_s < kept[0] < kept[1] < kept[2]  # both caches are compared on a text of the context's length
    gptq = cost(Recipe(context=512, method="gptq")).prepare_s
    planned = cost(Recipe(context=512), Request(size_bytes=3_900_000))
    assert 0 < calibrated < gptq < planned.prepare_s
    assert planned.disk_bytes == 3_900_000
    assert cost(Recipe(context=512, target="qnn")).disk_bytes > 3 * plain.disk_bytes
    assert "qnn" in cost(Recipe(context=512, target="qnn")).sentence()


def test_the_estimate_of_a_small_model_is_the_processor_time_that_was_measured() -> None:
    """Opening and calling layers is nearly all of it: 3.2 s of writing and 17.8 s of comparison on one core."""
    rates = Rates(quantized_per_s=5.6e7, rounded_per_s=2.2e8, macs_per_s=6.3e10)
    checkpoint = open_checkpoint(checkpoint_path())
    recipe = Recipe(context=1024)
    model = read_model(checkpoint, recipe)
    found = estimate(checkpoint, model, recipe, None, target=Path("b"), verify=True, threads=1, rates=rates)
    assert 2 < found.write_s < 5
    assert 12 < found.verify_s < 26
    half = replace(rates, share=0.5)
    busy = estimate(checkpoint, model, recipe, None, target=Path("b"), verify=True, threads=1, rates=half)
    assert busy.verify_s > 1.5 * found.verify_s


def test_the_sentence_names_time_memory_disk_and_what_is_free() -> None:
    said = cost(Recipe(context=512)).sentence()
    for part in ("million weights", "to compare (--no-verify)", "of memory (", "of disk (", " free)"):
        assert part in said
    assert "\n" not in said


def test_rates_are_measured_in_a_moment_and_are_those_of_a_computer() -> None:
    rates = measure_rates(rtn, Scheme(bits=4, group=32))
    assert 1e4 < rates.quantized_per_s < 1e11
    assert 1e6 < rates.macs_per_s < 1e15


def little_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10 * free, 9 * free, free))


def test_a_disk_that_is_surely_too_small_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    little_disk(monkeypatch, 1_000_000)
    with pytest.raises(InputError, match=r"bundle: 1 MB of disk are free there, expected about \d+ MB for the bundle"):
        export_model(checkpoint_path(), tmp_path / "deep" / "bundle", Recipe(context=512))
    assert list(tmp_path.iterdir()) == []


def test_what_an_interrupted_export_has_written_is_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    little_disk(monkeypatch, 1_000_000)
    left = tmp_path / ".bundle.partial-job-abc" / "bundle"
    left.mkdir(parents=True)
    (left / "decoder.bin").write_bytes(bytes(20_000_000))
    assert export_model(checkpoint_path(), tmp_path / "bundle", Recipe(context=512, method="rtn")).is_dir()


def test_export_prints_one_line_of_cost_and_gives_it_as_json(tmp_path: Path) -> None:
    arguments = [str(checkpoint_path()), "-o", str(tmp_path / "b"), "--quality", "fast", "--no-verify", "--json"]
    result = CliRunner().invoke(cli.export_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    lines = [line for line in result.stderr.splitlines() if "of memory" in line]
    assert len(lines) == 1 and lines[0].startswith("palmtop: ")
    found: dict[str, Any] = json.loads(result.stdout)["cost"]
    assert found["verify_s"] == 0 and found["disk_bytes"] > 1_000_000 and found["free_disk_bytes"] > 0


def test_a_plan_of_more_than_a_minute_says_so_first(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(cli.click, "echo", lambda text, err=False: said.append(text))
    request = Request(size_bytes=3_900_000)
    cli._tell_long_plan(cost(Recipe(context=512), request))
    assert len(said) == 1 and "of calibration and planning" in said[0]
    cli._tell_long_plan(cost(Recipe(context=512)))
    assert len(said) == 1
