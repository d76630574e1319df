"""The lock of what the README's commands and CI install: exact, hashed, and in step with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = {"test": "dev", "demo": "export"}
RENEW = "; renew the lock: python .ci/lock.py"


def entries(name: str) -> dict[str, str]:
    """Each requirement of a lock and the text of its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    parts = (block.partition("\\") for block in re.split(r"\n(?=\S)", lines))
    return {first.strip(): hashes for first, _, hashes in parts}


def wanted(extra: str) -> list[Requirement]:
    """What pyproject.toml asks for with an extra, and to be built."""
    found = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    extras = [extra]
    for name in extras:
        for line in PROJECT["project"]["optional-dependencies"][name]:
            requirement = Requirement(line)
            extras.extend(requirement.extras if requirement.name == "palmtop" else ())
            found += [line] if requirement.name != "palmtop" else []
    return [Requirement(line) for line in found]


@pytest.mark.parametrize("name", ["test", "demo", "npu"])
def test_every_package_is_locked_to_one_version_with_hashes(name: str) -> None:
    for line, hashes in entries(name).items():
        assert re.fullmatch(r"==[\w.]+", str(Requirement(line).specifier)), line
        assert re.fullmatch(r"(\s+--hash=sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})(?:[ \\]*))+", hashes), line


@pytest.mark.parametrize(("name", "extra"), LOCKS.items())
def test_the_lock_has_what_pyproject_asks_for(name: str, extra: str) -> None:
    locked = {r.name: next(iter(r.specifier)).version for r in map(Requirement, entries(name))}
    for requirement in wanted(extra):
        assert requirement.name in locked, f"{requirement} is in pyproject.toml, not in requirements/{name}.txt{RENEW}"
        assert requirement.specifier.contains(locked[requirement.name]), (
            f"{requirement}: {locked[requirement.name]}{RENEW}"
        )


def test_the_demonstration_runs_what_the_tests_run() -> None:
    assert set(entries("demo")) <= set(entries("test"))


def test_the_readme_installs_the_lock() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, extra in LOCKS.items():
        block = readme.split(f"<!-- {name} command -->")[1].split("```")[1]
        assert f"pip install --no-deps -r requirements/{name}.txt && pip install --no-build-isolation" in block
        assert f".[{extra}]" in block
