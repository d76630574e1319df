"""Commands that install what is missing: the packages pyproject.toml names, never a name that others may own."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from palmtop.packages import Dependency, dependencies, install_command

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.mark.parametrize("extra", ["", *PROJECT["optional-dependencies"]])
def test_dependencies_are_those_of_pyproject(extra: str) -> None:
    def lines(name: str) -> list[Requirement]:
        found = []
        for line in PROJECT["optional-dependencies"][name] if name else PROJECT["dependencies"]:
            requirement = Requirement(line)
            own = requirement.name == "palmtop"
            found += [r for inner in requirement.extras for r in lines(inner)] if own else [requirement]
        return found

    expected = {r.name: r.specifier for r in lines(extra)}
    assert {d.name: SpecifierSet(d.versions) for d in dependencies(extra)} == expected


@pytest.mark.parametrize(
    ("versions", "least", "below"), [(">=1.31,<2", "1.31", "2"), ("<1.9,>=1.8", "1.8", "1.9"), ("==2.7.0", "2.7.0", "")]
)
def test_bounds_of_a_dependency(versions: str, least: str, below: str) -> None:
    dependency = Dependency("x", versions)
    assert (dependency.least, dependency.below) == (least, below)


def test_the_command_names_one_package_or_all_of_an_extra() -> None:
    assert install_command(only="numpy").startswith("pip install 'numpy>=")
    assert install_command("guidance").startswith("pip install 'llguidance>=")
    assert install_command("gguf").count("'") == 2 * len(dependencies("gguf"))


def test_no_hint_names_this_project_on_an_index() -> None:
    files = [p for room in ("export", "quantize", "runtime", "benchmarks", "docs") for p in (ROOT / room).rglob("*.*")]
    text = {p: p.read_text("utf-8") for p in files if p.suffix in (".py", ".md")} | {
        ROOT: (ROOT / "README.md").read_text()
    }
    assert not [p for p, words in text.items() if "install palmtop" in words or "install 'palmtop" in words]
