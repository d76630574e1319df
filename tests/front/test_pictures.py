"""Pictures of the documents: drawn from the measured data, no text over another, every number with its origin."""

from __future__ import annotations

import json
import re
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from docs.draw_all import FOLDER, PICTURES
from docs.drawing import cards, measured, routing
from docs.drawing.canvas import COLOURS, Canvas
from docs.drawing.measured import DATA, read
from palmtop.__main__ import cli
from palmtop.runtime.reference import samples_path
from tests.front.commands import ROOT

DRAWN = {path.stem: draw for path, draw in PICTURES.items() if path.parent == FOLDER}


@pytest.mark.parametrize("name", DRAWN)  # test_house.py compares the picture of the rooms
def test_a_picture_is_what_its_data_say(name: str) -> None:
    assert (FOLDER / f"{name}.svg").read_text("utf-8") == DRAWN[name](), "python -m docs.draw_all"


def test_every_picture_of_the_folder_is_drawn_and_shown() -> None:
    assert set(FOLDER.iterdir()) == {path for path in PICTURES if path.parent == FOLDER}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "".join(page.read_text("utf-8") for page in pages)
    assert [name for name in DRAWN if f"pictures/{name}.svg" not in text] == []


@pytest.fixture
def canvases(monkeypatch: pytest.MonkeyPatch) -> list[Canvas]:
    """Every canvas that is made from now on."""
    made: list[Canvas] = []

    class Kept(Canvas):
        def __init__(self, width: int, height: int, title: str) -> None:
            super().__init__(width, height, title)
            made.append(self)

    for module in (cards, measured, routing):
        monkeypatch.setattr(module, "Canvas", Kept)
    return made


@pytest.mark.parametrize("name", DRAWN)
def test_texts_stay_inside_and_off_each_other(name: str, canvases: list[Canvas]) -> None:
    svg = DRAWN[name]()
    (canvas,) = canvases
    assert len(canvas.texts) > 2
    for box in canvas.texts:
        assert box.left >= 0 and box.top >= 0 and box.right <= canvas.width and box.bottom <= canvas.height, box
    over = [*combinations(canvas.texts, 2), *product(canvas.texts, canvas.marks)]
    assert [(a.text, b.text) for a, b in over if a.meets(b)] == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|@font-face|<script", svg)


def test_both_looks_have_every_colour_and_texts_can_be_read() -> None:
    style = Canvas(10, 10, "x").svg()
    light, dark = style.split("prefers-color-scheme:dark")
    for name, colours in COLOURS.items():
        assert f".{name}{{fill:{colours[0]}}}" in light and f".{name}{{fill:{colours[1]}}}" in dark
    for name in ("ink", "soft", "own", "peer", "third", "good", "bad"):
        for at in (0, 1):
            assert contrast(COLOURS[name][at], COLOURS["paper"][at]) >= 4.5, name
    assert min(contrast(COLOURS["on"][at], COLOURS["own"][at]) for at in (0, 1)) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda path: path.name)
def test_measured_numbers_have_their_origin(path: Path) -> None:
    found = read(path.name)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert found.get("machine") or found.get("command")


def test_the_table_of_the_comparison_has_the_numbers_of_its_picture() -> None:
    page = (ROOT / "docs" / "compare.md").read_text("utf-8")
    for _, _, bits, loss in read("size_kl.json")["rows"]:
        assert re.search(rf"\| {bits + 1e-9:.2f} \| {loss:.3f} \|", page), (bits, loss)


def test_peers_are_drawn_with_ranges_and_without_what_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [
        {"contender": "palmtop", "prefill_tok_s": 10, "decode_ms": [1.5, 2]},
        {"contender": "other", "prefill_tok_s": 5, "decode_ms": 3, "load_s": 4, "rss_gb": None},
    ]
    found: dict[str, Any] = {"machine": "M", "date": "2026-11-28", "source": "S", "rows": rows}
    monkeypatch.setattr(measured, "read", lambda name: found)
    svg = measured.speed_against_peers()
    assert ">1.5 to 2<" in svg and svg.count(">palmtop<") == 2 and svg.count(">other<") == 3
    assert "Load" in svg and "Memory" not in svg
    found |= {"source": "true8", "rounds": 7, "threads": 2}  # as benchmarks.peers --json writes it
    rows[0] |= {"prefill_tok_s": 10.12345, "contexts": {}, "runs": 7}
    svg = measured.speed_against_peers()
    assert ">10.1<" in svg and "true8: medians of 7 alternating rounds on 2 threads." in svg


def test_recorded_answers_are_those_of_the_packaged_model(int4_bundle: Path) -> None:
    for mode, run in read("runs.json")["modes"].items():
        media = [
            word for kind in ("image", "audio") if run[kind] for word in (f"--{kind}", str(samples_path() / run[kind]))
        ]
        done = CliRunner().invoke(cli, ["run", str(int4_bundle), run["question"], *media, "--json", "--context", "256"])
        reply = json.loads(done.stdout)
        assert (reply["text"], reply["adapters"]) == (run["answer"], run["adapters"]), mode
    recorded = read("runs.json")["commands"]
    assert {command for card in cards.CARDS.values() for command in card.commands} == set(recorded)
