"""The page that verify writes: self-contained, with every section, and no number that its JSON has not."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from PIL import Image

from palmtop.export.measure.divergence import Agreement
from palmtop.export.verify.cli import _print, _write_report, verify_command
from palmtop.export.verify.page.charts import HEIGHT, LETTER, WIDTH, Point, scatter
from palmtop.export.verify.page.media import thumbnails
from palmtop.export.verify.page.provenance import command_line
from palmtop.export.verify.page.report import DEFINITIONS, render
from palmtop.export.verify.quality import Check, Quality

MADE = {"command": "palmtop verify 'my <bundle>'", "date": "2026-11-28 08:00 UTC"}
PLAN = {"frontier": [{"size_bytes": 3_000_000, "loss": 0.02}, {"size_bytes": 9_000_000, "loss": 0.0002}]}


def measured(**changes: Any) -> Quality:
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
    return Quality(**(defaults | changes))


def quality(**changes: Any) -> dict[str, Any]:
    return measured(**changes).to_dict()


@pytest.mark.parametrize("plan", [None, PLAN])
def test_the_page_needs_nothing_from_outside_and_has_every_section(plan: dict[str, Any] | None) -> None:
    page = render(quality(), "model", plan)
    assert not re.search(r"https?://|src=(?!\"data:)|<script|<link|@import|url\(", page)
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
    for shown in ("0.01234", "0.4321", "97.5%", "48 of 50", "84 to 98%", "0.9961", "21.9 dB", "0.00034", "0.0179"):
        assert shown in page  # the last is the mean of both modes
    inside = re.search("<pre>(.*)</pre>", page, re.DOTALL)
    assert inside is not None
    assert json.loads(html.unescape(inside[1])) == json.loads(json.dumps(quality()))


def test_the_numbers_lie_beside_the_page(tmp_path: Path) -> None:
    bundle = SimpleNamespace(manifest=SimpleNamespace(model="m", files={}))
    _write_report(tmp_path / "report.html", cast(Any, bundle), measured(), MADE)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps({"made": MADE, **quality()}))


def test_the_page_begins_with_the_result_and_its_origin() -> None:
    page = render({"made": MADE, **quality()}, "model")
    lead = (
        "Passed: all 1 checks hold; on average its next-token distribution is 0.0179 nats (KL) from the float model's,"
        " with the same top token in 387 of 400 places."  # 0.975 of 300 and 0.945 of 100
    )
    assert 0 < page.index(lead) < page.index("palmtop verify &#x27;my &lt;bundle&gt;&#x27;") < page.index("<h2>")
    assert page.index("2026-11-28 08:00 UTC") < page.index("<h2>")


def test_few_questions_give_counts_and_no_interval() -> None:
    few = {"items": 4, "reference_right": 3, "reference_low": 0.3, "reference_high": 0.954}
    few |= {"found_right": 2, "found_low": 0.15, "found_high": 0.85}
    page = section(render(quality(accuracy={"image": few}), "model"), "Right answers")
    assert "too few" in page and "3 of 4" in page and "2 of 4" in page
    assert "interval" not in page and "%" not in page and "<svg" not in page
    assert "95 % interval" in section(render(quality(), "model"), "Right answers")


def test_neighbours_are_named_as_such_on_chart_and_table() -> None:
    page = section(render(quality(), "model"), "Size against loss")
    assert page.count("this bundle</") == 2 and "neighbour: INT8, groups of 32, plain rounding" in page
    assert "Rings are neighbours" in page and page.count("<circle") == 2


def test_every_cell_of_the_heat_map_has_its_value_and_name_without_a_pointer() -> None:
    tensors = {f"decoder: layers.{n}.mlp.down_proj": {"snr_db": 20.5 + n, "bits": 4} for n in (0, 2, 10)}
    tensors |= {"decoder: layers.2.<x>.o_proj": {"snr_db": 31.25, "bits": 8}}
    tensors |= {"audio: model.embed_tokens_extend.audio_embed.encoder.embed.out": {"snr_db": 22.0, "bits": 4}}
    tensors |= {"audio: model.norm": {"snr_db": 99.0, "bits": 32}}
    page = section(render(quality(tensors=tensors), "model"), "Error by layer")
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall("<tr>(.*?)</tr>", page)]
    assert rows == [
        ["layer", "0", "2", "10"],
        ["mlp.<wbr>down_proj", "20.5", "22.5", "30.5"],
        ["&lt;x&gt;.<wbr>o_proj", "", "31.2", ""],
        ["encoder.<wbr>embed.<wbr>out", "22.0"],
    ]
    assert "decoder: 4, 8 bits" in page and "touch" not in page


def test_the_media_of_a_question_are_on_the_page_and_not_in_its_json() -> None:
    pixels = np.full((40, 1280, 3), 200, np.uint8)
    sound = (np.zeros(50 * 8000, np.float32), 8000)
    asked = [{"type": "image", "image": pixels}, {"type": "text", "text": "?"}, {"type": "audio", "audio": sound}]
    shown = thumbnails([{"role": "user", "content": asked}])
    assert [(each.kind, each.size) for each in shown] == [
        ("image", "1280 x 40 pixels"),
        ("audio", "50.0 s, the first 20 s here"),
    ]
    picture, audio = (io.BytesIO(base64.b64decode(each.url.partition(",")[2])) for each in shown)
    with Image.open(picture) as copy:
        assert copy.size == (320, 10) and copy.getpixel((5, 5)) == (200, 200, 200)
    assert soundfile.info(audio).duration == 20
    result = measured(media=[shown])
    assert "media" not in result.to_dict()
    page = section(render(result.to_dict(), "model", None, result.media), "Largest divergence")
    for each, tag in zip(shown, ("<img alt", "<audio controls"), strict=True):
        assert tag in page and each.url in page and each.size in page


def section(page: str, heading: str) -> str:
    found = re.search(rf"<section><h2>{heading}</h2>.*?</section>", page, re.DOTALL)
    assert found is not None
    return found[0]


def printed(capsys: pytest.CaptureFixture[str], result: Quality, *, is_verbose: bool) -> list[str]:
    _print(Path("b"), result, is_verbose=is_verbose)
    return capsys.readouterr().out.splitlines()


def test_the_terminal_says_the_result_then_failures_and_the_rest_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    right = Check(name="routes", passed=True, value=0, limit=0, detail="as the checkpoint says")
    wrong = Check(name="adapter vision", passed=False, value=0.0, limit=1.0, detail="does nothing")
    result = measured(checks=(right, wrong), skipped=("whole answers: too large",))
    short = printed(capsys, result, is_verbose=False)
    assert short == [
        f"b: {result.summary}.",
        "KL in nats: text 0.0123, image 0.0234.",
        "FAIL  adapter vision: does nothing",
        "skip  whole answers: too large",
        "Every check with its numbers: -v",
    ]
    assert printed(capsys, result, is_verbose=True) == [
        *short[:2],
        "ok    routes: as the checkpoint says",
        *short[2:4],
    ]


def test_the_command_of_a_report_is_one_that_a_shell_reads(tmp_path: Path) -> None:
    words = ["my bundle", "--against", "c'k", "--lora", "a=x", "--lora", "b=y z", "-v", "--items", "50"]
    context = verify_command.make_context("verify", list(words))
    again = shlex.split(command_line(context))
    assert again[:2] == ["palmtop", "verify"]
    other = verify_command.make_context("verify", again[2:])
    assert other.params == context.params
    assert "--ram" not in again and "--reference" not in again


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
