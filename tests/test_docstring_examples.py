"""Every example in a docstring runs and gives what it says."""

from __future__ import annotations

import doctest
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest

import palmtop


def modules_with_examples() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(palmtop.__path__, "palmtop.")]
    found = []
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            with open(spec.origin, encoding="utf-8") as source:
                if ">>> " in source.read():
                    found.append(name)
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of_a_module_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_tests_that_the_code_cites_exist() -> None:
    root = Path(__file__).parent.parent
    cited = set()
    for room in ("runtime", "export", "quantize", "benchmarks", "android_demo"):
        for source in (root / room).rglob("*.py"):
            cited |= set(re.findall(r"\btests/[\w/]+\.py", source.read_text(encoding="utf-8")))
    assert cited
    assert sorted(name for name in cited if not (root / name).is_file()) == []
