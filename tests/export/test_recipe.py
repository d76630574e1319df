"""A recipe holds what it says, whatever a TOML file or the command line gave."""

from __future__ import annotations

from pathlib import Path

import pytest

from palmtop.errors import InputError
from palmtop.export.recipe import Recipe


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


def test_a_recipe_file_sets_only_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("bits = 8\nsymmetric = true\n")
    assert Recipe.from_toml(path) == Recipe(bits=8, symmetric=True)
