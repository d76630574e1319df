"""The rows, ratios, table and plots that ``python -m benchmarks.peers`` makes of its runs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.plots import write_plots
from benchmarks.peers.results import add_ratios, medians, table


def run(prefill: float, decode: float, load: float = 1.0) -> dict[str, Any]:
    contexts = {
        "512": {"prefill_tok_s": prefill, "decode_ms": decode},
        "2048": {"prefill_tok_s": 1.0, "decode_ms": 99.0},
    }
    return {"load_s": load, "rss_gb": 0.5, "peak_rss_gb": 0.6, "version": "1.0", "contexts": contexts}


def found() -> dict[str, Any]:
    ours = medians("palmtop", [run(400, 20, 9), run(500, 10), run(450, 12)]) | {"decode_bytes": 600_000_000}
    rows = [ours, medians("llama.cpp", [run(300, 24), run(310, 26), run(900, 25)])]
    roofs = {"read_gb_s": 100.0, "int8_gop_s": 1000.0}
    add_ratios(rows, roofs)
    left_out = {"mnn": "no converter"}
    return {
        "machine": "a machine",
        "threads": 2,
        "rounds": 3,
        "roofs": roofs,
        "other_work": 0.5,
        "left_out": left_out,
        "rows": rows,
    }


def test_a_row_has_the_medians_of_its_runs_and_the_shortest_context() -> None:
    ours, peer = found()["rows"]
    assert (ours["prefill_tok_s"], ours["decode_ms"], ours["load_s"], ours["runs"]) == (450, 12, 1.0, 3)
    assert ours["contexts"]["2048"]["decode_ms"] == 99.0
    assert ours["version"] == "1.0"
    assert ours["prefill_ratio"] == pytest.approx(450 / 310)
    assert ours["decode_ratio"] == pytest.approx(25 / 12)
    assert ours["decode_of_roof"] == pytest.approx(0.5)  # 6 ms of 12
    assert (peer["prefill_ratio"], peer["decode_ratio"], "decode_of_roof" in peer) == (1.0, 1.0, False)


def test_the_table_says_who_was_left_out_and_that_the_machine_was_busy() -> None:
    text = table(found())
    assert "| palmtop | 1.45 | 2.08 | 450 | 12.00 |" in text
    assert "- mnn: left out, no converter" in text
    assert "Other processes took 50% of the processors" in text
    alone = found()
    alone["rows"] = [medians("palmtop", [run(400, 20)])]
    assert "ratio" not in table(alone)


def test_the_plots_are_pictures_with_every_contender(tmp_path: Path) -> None:
    paths = write_plots(found(), tmp_path / "plots")
    assert sorted(path.name for path in paths) == ["decode.svg", "load.svg", "memory.svg", "prefill.svg"]
    for path in paths:
        texts = {node.text for node in ET.fromstring(path.read_text("utf-8")).iter("{http://www.w3.org/2000/svg}text")}
        assert {"palmtop", "llama.cpp"} <= texts
