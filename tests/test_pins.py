"""No graph and no manifest changes unseen (``tests/pins.py``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pins import CASES, PINS, list_case, pin


@pytest.mark.parametrize("case", CASES)
def test_graphs_and_manifests_are_as_pinned(case: str, tmp_path: Path) -> None:
    pinned = {name: value for name, value in json.loads(PINS.read_text()).items() if name.startswith(f"{case}/")}
    found = {name: pin(lines) for name, lines in list_case(case, tmp_path).items()}
    other = sorted(name for name in pinned.keys() | found.keys() if pinned.get(name) != found.get(name))
    assert not other, (
        f"{len(other)} of {len(pinned)} differ, the first is {other[0]}: {found.get(other[0])}, pinned"
        f" {pinned.get(other[0])}. 'python -m tests.pins --diff HEAD {case}' prints the lines; where they are wanted"
        f" 'python -m tests.pins --write' renews tests/pins.json"
    )
