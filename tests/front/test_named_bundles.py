"""Short names of bundles, their list and their removal; folders and variables; verbosity; completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import palmtop
from palmtop.__main__ import cli


@pytest.fixture
def models(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PALMTOP_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy, tmp_path / "models" / "tiny")
    (tmp_path / "models" / "no bundle").mkdir()
    return tmp_path / "models"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.runtime.toy import write_toy_bundle

    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy")


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, list(arguments), input=stdin, auto_envvar_prefix="PALMTOP")


def test_a_name_stands_for_its_bundle_everywhere(models: Path) -> None:
    assert json.loads(run("inspect", "tiny", "--json").stdout)["bundle"] == str(models / "tiny")
    assert run("run", "tiny", "hello", "--max-tokens", "2").exit_code == 0
    assert run("verify", "tiny").exit_code == 0
    assert run("adapter", "list", "tiny").exit_code == 0
    with palmtop.load("tiny", threads=1) as session:
        assert session.chat("hello", max_tokens=2).result().usage.completion_tokens == 2


def test_a_path_goes_before_a_name(models: Path, toy: Path) -> None:
    shutil.copytree(toy, models.parent / "tiny")
    assert json.loads(run("inspect", "tiny", "--json").stdout)["bundle"] == "tiny"
    assert json.loads(run("inspect", str(models / "tiny"), "--json").stdout)["bundle"] == str(models / "tiny")


def test_bundles_are_listed_with_their_sizes(models: Path, toy: Path) -> None:
    shutil.copytree(toy, models.parent / "cache" / "palmtop" / "models" / "cached-1")
    (models / "broken").mkdir()
    (models / "broken" / "bundle.json").write_text("{")
    lines = run("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["broken", "tiny", "cached-1"]
    assert lines[0].endswith("cannot be opened")
    assert lines[1].endswith("toy")
    assert lines[2].endswith("exported on first use")
    found = json.loads(run("list", "--json").stdout)
    assert found["models_folder"] == str(models)
    assert [set(each) for each in found["bundles"]] == [{"name", "path", "model", "size_bytes", "is_cached"}] * 3
    size = sum(file.stat().st_size for file in (models / "tiny").iterdir())
    assert found["bundles"][1]["size_bytes"] == size


def test_an_empty_list_says_how_to_fill_it(models: Path) -> None:
    shutil.rmtree(models)
    assert "palmtop export OWNER/NAME" in run("list").stderr
    assert json.loads(run("list", "--json").stdout)["bundles"] == []


def test_removing_deletes_named_bundles_alone(models: Path, toy: Path) -> None:
    outside = shutil.copytree(toy, models.parent / "mine")
    (models / "link").symlink_to(outside)
    assert run("remove", "tiny", "--yes").stdout.startswith("removed 1 bundle, ")
    assert not (models / "tiny").exists()
    assert run("remove", "link", "--yes").exit_code == 0
    assert (outside / "bundle.json").is_file()
    assert not (models / "link").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["remove"], "expected NAME of palmtop list, or --cache"),
        (["remove", "gone", "--yes"], "gone: is not there, expected one of: tiny"),
        (["remove", "models/tiny", "--yes"], "is a path, not a name"),
        (["remove", "tiny"], "expected --yes"),
        (["remove", "tiny", "--json"], "found without --yes"),
        (["remove", "../models/tiny", "--yes"], "is not there"),
        (["remove", "no bundle", "--yes"], "is not there"),
    ],
)
def test_nothing_is_removed_by_mistake(arguments: list[str], wanted: str, models: Path) -> None:
    refused = run(*arguments)
    assert wanted in str(refused.exception)
    assert (models / "tiny" / "bundle.json").is_file()


def test_the_cache_is_emptied_alone(models: Path, toy: Path) -> None:
    cached = models.parent / "cache" / "palmtop" / "models" / "cached-1"
    shutil.copytree(toy, cached)
    found = json.loads(run("remove", "--cache", "--yes", "--json").stdout)
    assert found["removed"] == [str(cached)]
    assert found["size_bytes"] > 0
    assert not cached.exists()
    assert (models / "tiny").exists()


def test_configuration_is_shown_without_secrets(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("PALMTOP_RUN_MAX_TOKENS", "1")
    found = json.loads(run("config", "--json").stdout)
    assert found["folders"]["models"] == str(models)
    assert (found["variables"]["HF_TOKEN"], found["variables"]["PALMTOP_RUN_MAX_TOKENS"]) == ("(set)", "1")
    assert "hf_secret" not in run("config").stdout
    assert str(models) in run("config").stdout


def test_a_variable_gives_an_option(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALMTOP_RUN_MAX_TOKENS", "1")
    assert json.loads(run("run", "tiny", "hello", "--json").stdout)["usage"]["completion_tokens"] == 1
    more = run("run", "tiny", "hello", "--json", "--max-tokens", "2")
    assert json.loads(more.stdout)["usage"]["completion_tokens"] == 2


def program(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: logging and completion are of the whole process."""
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'palmtop'; import palmtop.__main__ as m; m.main()"]
    return subprocess.run(
        [*command, *arguments], env=os.environ | settings, capture_output=True, text=True, check=False
    )


def test_verbose_and_quiet(models: Path) -> None:
    question = ["run", "tiny", "<|end|> hello", "--max-tokens", "1"]
    plain, verbose, quiet = program(*question), program("-v", *question), program("-q", *question)
    assert "is read as text" in plain.stderr
    assert "KV cache" not in plain.stderr
    assert "KV cache of 32 bits" in verbose.stderr
    assert "is read as text" in verbose.stderr
    assert "is read as text" not in quiet.stderr
    assert plain.stdout == verbose.stdout == quiet.stdout
    both = program("-v", "-q", *question)
    assert (both.returncode, both.stderr.count("\n")) == (2, 1)


def test_shells_complete_commands_options_and_names(models: Path) -> None:
    script = program(_PALMTOP_COMPLETE="bash_source").stdout
    assert "_PALMTOP_COMPLETE=bash_complete" in script

    def complete(words: str, number: int) -> list[str]:
        done = program(_PALMTOP_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(number))
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert complete("palmtop re", 1) == ["remove"]
    assert "--max-tokens" in complete("palmtop run --max", 2)
    assert "tiny" in complete("palmtop inspect ti", 2)
