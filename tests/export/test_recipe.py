"""A recipe holds what it says, whatever a TOML file or the command line gave."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from palmtop.errors import InputError
from palmtop.export.cli import export_command
from palmtop.export.recipe import Recipe
from palmtop.runtime.reference import checkpoint_path


def test_a_recipe_comes_back_from_its_dictionary() -> None:
    recipe = Recipe(bits=8, head_bits=4, adapters="merge=vision=0.5,speech", context=64)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.merge == {"vision": 0.5, "speech": 1.0}


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ("merge=vision=1.2.3", "adapters merges 'vision=1.2.3', expected a number as its weight"),
        ("merge=vision=.", "adapters merges 'vision=.', expected a number as its weight"),
        ("merge=vision=1e400", "adapters merges 'vision=1e400', expected a finite weight"),
        ("merge=vision=nan", "adapters merges 'vision=nan', expected NAME or NAME=WEIGHT"),
        ("merge=vision,vision=2", "adapters merges 'vision' twice, expected each name once"),
    ],
)
def test_an_impossible_merge_is_refused(adapters: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        Recipe(adapters=adapters)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('context = "8k"', "context is '8k', expected a whole number"),
        ("adapters = 3", "adapters is 3, expected text"),
        ("bits = 4.0", "bits is 4.0, expected a whole number"),
        ("head_bits = true", "head-bits is True, expected a whole number"),
        ("group = [32]", "group is [32], expected a whole number"),
        ('symmetric = "no"', "symmetric is 'no', expected true or false"),
        ("method = 1", "method is 1, expected text"),
        ("group = 48", "group is 48, expected one of 16, 32, 64, 128, 256"),
        ("target_context = 9", "target-context is 9, expected at least 16 tokens"),
        ("context = 64\ntarget_context = 65", "target-context is 65, expected 16 to 64, the context of the bundle"),
        ("speed = 1", "recipe has 'speed', expected keys among"),
        ("bits = ", "is not a readable TOML recipe"),
        ("a = " + "[" * 5000, "is not a readable TOML recipe"),
    ],
)
def test_a_recipe_file_with_a_wrong_value_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(line)
    with pytest.raises(InputError) as raised:
        Recipe.from_toml(path)
    assert str(raised.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("setting", ["chunk=8", "target-context=64"])
def test_a_key_of_a_target_without_one_is_refused(tmp_path: Path, setting: str) -> None:
    key, _, value = setting.partition("=")
    arguments = [str(checkpoint_path()), "-o", str(tmp_path / "b"), "--set", setting]
    refused = CliRunner().invoke(export_command, arguments).exception
    assert str(refused) == f"{key} is {value} without a target, expected target openvino or qnn beside it"
    (tmp_path / "r.toml").write_text(f"{key.replace('-', '_')} = {value}")
    Recipe.from_toml(tmp_path / "r.toml").changed({"target": "qnn"}).refuse_unused()


def test_a_recipe_file_sets_only_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("bits = 8\nsymmetric = true\n")
    assert Recipe.from_toml(path) == Recipe(bits=8, symmetric=True)


def test_keys_of_a_recipe_file_may_be_spelt_as_options(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbfhead-bits = 8\r\naccuracy_level = 0\r\n")
    assert Recipe.from_toml(path) == Recipe(head_bits=8, accuracy_level=0)
    path.write_text("head-bits = 8\nhead_bits = 4\n")
    with pytest.raises(InputError, match=r"recipe\.toml: 'head_bits' is set twice, expected it once"):
        Recipe.from_toml(path)


@pytest.mark.parametrize(("quality", "method"), [("fast", "rtn"), ("balanced", "search"), ("best", "gptq-in-order")])
def test_one_dial_chooses_the_method(quality: str, method: str, tmp_path: Path) -> None:
    assert Recipe.from_dict({"quality": quality}).method == method
    (tmp_path / "r.toml").write_text(f'quality = "{quality}"\n')
    assert Recipe.from_toml(tmp_path / "r.toml").method == method


def test_a_dial_beside_another_method_is_refused() -> None:
    with pytest.raises(InputError, match="quality is 'fast' and method is 'gptq', expected one of them"):
        Recipe.from_dict({"quality": "fast", "method": "gptq"})
    with pytest.raises(InputError, match="quality is 'high', expected one of fast, balanced, best"):
        Recipe.from_dict({"quality": "high"})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "group"], "--set is 'group', expected KEY=VALUE such as group=128"),
        (["--set", "colour=red"], "recipe has 'colour', expected keys among"),
        (["--set", "group=many"], "group is 'many', expected a whole number"),
        (["--set", "group=64", "--set", "group=32"], "'group' is set twice"),
        (["--set", "bits=8", "--bits", "4"], "'bits' is set twice"),
        (["--quality", "highest"], "quality is 'highest', expected one of fast, balanced, best"),
        (["--set", "speculation=5"], "speculation is 5, expected true or false"),
    ],
)
def test_a_wrong_setting_is_named(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(export_command, [str(checkpoint_path()), "-o", str(tmp_path / "b"), *arguments])
    assert isinstance(found.exception, InputError) and sentence in str(found.exception)


def test_settings_reach_the_bundle_before_those_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("group = 64\ncontext = 128\n")
    arguments = ["--recipe", str(tmp_path / "r.toml"), "--set", "group=128", "--set", "speculation=true", "--quality"]
    command = [str(checkpoint_path()), "-o", str(tmp_path / "b"), "--no-verify", *arguments, "fast"]
    found = CliRunner().invoke(export_command, command)
    assert found.exit_code == 0, found.output
    recipe = json.loads((tmp_path / "b" / "bundle.json").read_text())["recipe"]
    wanted = {"group": 128, "context": 128, "method": "rtn", "draft_rows": 8}
    assert {key: recipe[key] for key in wanted} == wanted


def test_every_key_of_a_recipe_is_in_its_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text("utf-8")
    assert [field.name for field in fields(Recipe) if f"| `{field.name}` |" not in page] == []
