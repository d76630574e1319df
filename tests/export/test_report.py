"""The page that verify writes: self-contained, with every section, and no number that its JSON has not."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from palmtop.export.measure.divergence import Agreement
from palmtop.export.verify.charts import HEIGHT, LETTER, WIDTH, Point, scatter
from palmtop.export.verify.cli import _write_report
from palmtop.export.verify.quality import Check, Quality
from palmtop.export.verify.report import DEFINITIONS, render

PLAN = {"frontier": [{"size_bytes": 3_000_000, "loss": 0.02}, {"size_bytes": 9_000_000, "loss": 0.0002}]}


def quality(**changes: Any) -> dict[str, Any]:
    answer = {"prompt": "[image] <What> is it?", "expected": "7", "reference": "7", "found": "1", "kl": 0.25}
    row = {"items": 50, "reference_right": 48, "reference_low": 0.865, "reference_high": 0.989}
    row |= {"found_right": 47, "found_low": 0.8377, "found_high": 0.9794}
    tensors = {f"decoder: layers.{n}.mlp.down_proj": {"snr_db": 20.5 + n, "bits": 4} for n in range(3)}
    defaults: dict[str, Any] = {
        "checks": (Check(name="image: logits", passed=True, value=0.1, limit=0.5, detail="KL 0.02 nats"),),
        "modes": {
            "text": Agreement(positions=300, mean_kl=0.01234, max_kl=0.4321, top1=0.975, max_abs=0.1),
            "image": Agreement(positions=100, mean_kl=0.02345, max_kl=0.5432, top1=0.945, max_abs=0.2),
        },
        "adapters": {"vision": {"cosine": 0.9961, "ratio": 1.009, "effect_kl": 6.429, "match_kl": 0.0123}},
        "tensors": tensors,
        "skipped": (),
        "seconds": 1.5,
        "encoders": {"image": 21.9},
        "weight_bytes": 3_633_000,
        "accuracy": {"image": row},
        "worst": [{"mode": "image", **answer}],
        "neighbours": [{"name": "INT8, groups of 32", "weight_bytes": 6_151_000, "mean_kl": 0.00034}],
    }
    return Quality(**(defaults | changes)).to_dict()


@pytest.mark.parametrize("plan", [None, PLAN])
def test_the_page_needs_nothing_from_outside_and_has_every_section(plan: dict[str, Any] | None) -> None:
    page = render(quality(), "model", plan)
    assert not re.search(r"https?://|src=|<script|<link|@import|url\(", page)
    assert 'name="viewport" content="width=device-width' in page
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "Size against loss",
        "Agreement",
        "Right answers",
        "Error by layer",
        "Adapters",
        "Encoders",
        "Largest divergence",
        "Checks",
        "What the figures mean",
    ]
    assert ("polyline" in page) == (plan is not None)
    for term in DEFINITIONS:
        assert f"<dt>{term}</dt>" in page


def test_what_it_shows_is_what_its_json_says() -> None:
    page = render(quality(), "model")
    for shown in ("0.01234", "0.4321", "97.5%", "48/50", "84 to 98%", "0.9961", "21.9 dB", "0.00034", "0.0179"):
        assert shown in page  # the last is the mean of both modes
    inside = re.search("<pre>(.*)</pre>", page, re.DOTALL)
    assert inside is not None
    assert json.loads(html.unescape(inside[1])) == json.loads(json.dumps(quality()))


def test_the_numbers_lie_beside_the_page(tmp_path: Path) -> None:
    bundle = SimpleNamespace(manifest=SimpleNamespace(model="m", files={}))
    _write_report(tmp_path / "report.html", cast(Any, bundle), quality())
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(quality()))


def test_text_of_users_is_no_markup() -> None:
    page = render(quality(), "<b>model</b>")
    assert "<b>model" not in page and "<What>" not in page and "&lt;What&gt;" in page


def test_a_failed_check_is_open_at_once() -> None:
    failed = Check(name="adapter vision", passed=False, value=0.0, limit=1.0, detail="does nothing")
    page = render(quality(checks=(failed,)), "model")
    assert "<details open>" in page and "FAIL" in page and "<details open>" not in render(quality(), "model")


def test_an_added_adapter_that_was_compared_with_nothing_has_dashes() -> None:
    page = render(quality(adapters={"mine": {"effect_kl": 1.5463, "changed": 9.7}}), "model")
    assert "<td>mine</td><td>-</td><td>-</td><td>1.546</td><td>-</td>" in re.sub(r"(<td)[^>]*>", r"\1>", page)


def test_what_was_not_compared_is_left_out() -> None:
    bare = quality(modes={}, adapters={}, encoders={}, accuracy={}, worst=[], neighbours=[], skipped=("too large",))
    headings = re.findall("<h2>(.*?)</h2>", render(bare, "model"))
    assert headings == ["Error by layer", "Checks", "What the figures mean"]
    assert "too large" in render(bare, "model")


def test_labels_of_a_chart_stay_inside_and_off_each_other() -> None:
    places = ((3.633, 0.0356), (3.633, 0.0474), (4.824, 0.0475), (6.151, 0.00034), (8.725, 0.00025))
    points = [Point(x, y, f"INT4, groups of {n}", is_own=n == 1) for n, (x, y) in enumerate(places)]
    chart = scatter(points, [], "MB", "KL")
    labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" font-weight="\w+">([^<]+)</text>', chart)
    boxes = [(float(x), float(y), float(x) + LETTER * len(name)) for x, y, name in labels]
    assert len(boxes) == len(points)
    for number, (left, y, right) in enumerate(boxes):
        assert left >= 0 and right <= WIDTH and 0 < y < HEIGHT
        for other_left, other_y, other_right in boxes[:number]:
            assert abs(y - other_y) >= 12 or right <= other_left or other_right <= left
