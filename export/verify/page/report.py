"""Report of quality.json as one page: self-contained, readable on a phone, with an explanation of every figure.

Uses the numbers of quality.json only, drawn with ``charts`` and ``heat_map``, and copies of the pictures and sounds that
were asked about. Nothing is measured anew: the page contains the JSON as well.
"""

# ruff: noqa: E501 - markup reads better in one line

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .charts import Point, bar, interval_rows, scatter
from .heat_map import STYLE as HEAT_STYLE
from .heat_map import heat_map, legend
from .media import Thumbnail
from .style import DEFINITIONS, STYLE

FEWEST_ITEMS = 30  # of a mode: of fewer questions no rate and no interval is drawn


def render(
    quality: Mapping[str, Any],
    title: str,
    plan: Mapping[str, Any] | None = None,
    media: Sequence[Sequence[Thumbnail]] = (),
) -> str:
    """Return the page as HTML.

    Args:
        quality: content of ``quality.json``; with ``made``, how it was made by name, where that is known.
        title: name of the bundle.
        plan: content of ``plan.json``, for the predicted frontier; None without.
        media: pictures and sounds of each prompt of ``quality["worst"]``, in its order; empty without.
    """
    sections = [
        _summary(quality),
        _made(quality.get("made", {})),
        _frontier(quality, plan),
        _modes(quality["modes"], quality["losses"]),
        _kv_cache(quality["kv_cache"]),
        _accuracy(quality["accuracy"]),
        _layers(quality["tensors"]),
        _adapters(quality["adapters"]),
        _encoders(quality["encoders"]),
        _worst(quality["worst"], media),
        _checks(quality["checks"], quality["skipped"], quality["summary"]),
        _definitions(),
        f"<details><summary>All numbers (quality.json)</summary><pre>{escape(json.dumps(quality, indent=1))}</pre></details>",
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}: quality</title><style>{STYLE}{HEAT_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>\n{body}</main></body></html>\n"
    )


def _section(heading: str, note: str, *content: str) -> str:
    return f'<section><h2>{heading}</h2><p class="note">{note}</p>{"".join(content)}</section>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Table whose columns after the first are numbers."""
    titles = "".join(f'<th class="{"n" if at else ""}">{text}</th>' for at, text in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(f'<td class="{"n" if at else ""}">{text}</td>' for at, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{titles}</tr>{lines}</table></div>'


def _summary(quality: Mapping[str, Any]) -> str:
    """The result in one sentence, then its figures."""
    passed, modes = sum(check["passed"] for check in quality["checks"]), quality["modes"].values()
    tokens = sum(mode["positions"] for mode in modes)
    same = round(sum(mode["top1"] * mode["positions"] for mode in modes))
    sentence = escape(quality["summary"][:1].upper() + quality["summary"][1:])
    verdict = f'<b class="{"good" if quality["passed"] else "bad"}">{quality["verdict"]}</b>'
    tiles = [f"{verdict}<span>{passed} of {len(quality['checks'])} checks hold</span>"]
    if quality["weight_bytes"]:
        tiles.append(f"<b>{megabytes(quality['weight_bytes'])}</b><span>graphs and weights</span>")
    if quality["mean_kl"] is not None:
        sentence += (
            f"; on average its next-token distribution is {quality['mean_kl']:.4f} nats (KL) from the float model's"
        )
        sentence += f", with the same top token in {same} of {tokens} places"
        tiles.append(f"<b>{quality['mean_kl']:.4f}</b><span>mean KL, nats</span>")
        tiles.append(f"<b>{same} of {tokens}</b><span>tokens: same top token</span>")
    shown = "".join(f"<div class=tile>{tile}</div>" for tile in tiles)
    return f'<p class="lead">{sentence}.</p><section class="tiles">{shown}</section>'


def _made(made: Mapping[str, str]) -> str:
    """The command, versions, date and hash; they stand at the top, since figures without them cannot be made again."""
    if not made:
        return ""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in made.items())
    return f'<section><dl class="made">{rows}</dl></section>'


def _frontier(quality: Mapping[str, Any], plan: Mapping[str, Any] | None) -> str:
    if quality["mean_kl"] is None or not quality["neighbours"]:
        return ""
    points = [Point(n["weight_bytes"] / 1e6, n["mean_kl"], n["name"]) for n in quality["neighbours"]]
    points.append(Point(quality["weight_bytes"] / 1e6, quality["mean_kl"], "this bundle", is_own=True))
    curve = [(p["size_bytes"] / 1e6, p["loss"]) for p in (plan or {}).get("frontier", [])]
    note = (
        "The disc is this bundle. Rings are neighbours: the same checkpoint, made for this page by plain rounding with one"
        " setting for every layer, and asked the same questions. Left is smaller, down is closer to the float model; both"
        " axes are logarithmic. Rows that are no multiple of a group are filled up, so large groups can need more bytes."
    )
    if curve:
        note += " The line is what the planner predicts for other sizes."
    rows = [
        (
            "<b>this bundle</b>" if p.is_own else f"neighbour: {escape(p.name)}, plain rounding",
            f"{p.x:.3f} MB",
            f"{p.y:.5f}",
        )
        for p in sorted(points, key=lambda p: p.x)
    ]
    chart = scatter(points, curve, "MB", "mean KL, nats")
    return _section("Size against loss", note, chart, _table(("", "size", "mean KL"), rows))


def _modes(modes: Mapping[str, Any], losses: Mapping[str, Any]) -> str:
    if not modes:
        return ""
    largest = max(mode["mean_kl"] for mode in modes.values()) or 1.0
    rows = [
        (
            escape(name) + bar(mode["mean_kl"] / largest),
            f"{mode['mean_kl']:.5f}",
            *(f"{losses[name][part]:.5f}" if name in losses else "-" for part in ("weights", "activations")),
            f"{mode['max_kl']:.4f}",
            f"{mode['top1']:.1%}",
            str(mode["positions"]),
        )
        for name, mode in modes.items()
    ]
    note = "Next-token distributions of bundle and float model, by mode of input. The float model is built by this exporter."
    head = ("mode", "KL", "of weights", "of activations", "worst", "same top", "tokens")
    return _section("Agreement", note, _table(head, rows))


def _kv_cache(loss: Mapping[str, Any]) -> str:
    if not loss:
        return ""
    rows = [(escape(mode), each) for mode, each in loss["modes"].items()]
    rows += [(f"text, up to {each['tokens']} tokens", each) for each in loss["by_length"]]
    shown = [
        (name, f"{each['mean_kl']:.5f}", f"{each['max_kl']:.4f}", f"{each['top1']:.1%}", str(each["positions"]))
        for name, each in rows
    ]
    note = (
        f"Keys and values are stored in {loss['bits']} bits. Next-token distributions of this bundle and of itself with a"
        " float32 cache, everything else alike: what these bits alone cost."
    )
    return _section("KV cache", note, _table(("text", "KL", "worst", "same top", "tokens"), shown))


def _accuracy(table: Mapping[str, Any]) -> str:
    """Right answers as counts; rates with their intervals where there are enough questions for them."""
    if not table:
        return ""
    items = next(iter(table.values()))["items"]
    counts = [
        (escape(mode), *(f"{row[f'{who}_right']} of {row['items']}" for who in ("reference", "found")))
        for mode, row in table.items()
    ]
    if items < FEWEST_ITEMS:
        note = f"{items} packaged questions of each mode: too few for a rate. <code>--items 50</code> asks enough."
        return _section("Right answers", note, _table(("mode", "float", "bundle"), counts))
    rows = []
    for mode, row in table.items():
        for who, name in (("reference", "float"), ("found", "bundle")):
            share = row[f"{who}_right"] / row["items"]
            rows.append((f"{mode}, {name}", share, row[f"{who}_low"], row[f"{who}_high"], who == "found"))
    note = f"{items} packaged questions of each mode; the line is the 95 % interval."
    intervals = [f"{100 * row['found_low']:.0f} to {row['found_high']:.0%}" for row in table.values()]
    shown = [(*count, interval) for count, interval in zip(counts, intervals, strict=True)]
    return _section("Right answers", note, interval_rows(rows), _table(("mode", "float", "bundle", "interval"), shown))


def _layers(tensors: Mapping[str, Any]) -> str:
    """Noise by kind of linear and layer, maps for each graph; float32 tensors are left out."""
    maps = []
    for part in ("decoder", "vision", "audio"):
        layered: dict[str, dict[str, float]] = {}
        single: dict[str, dict[str, float]] = {}
        numbers: set[int] = set()
        stored = {key: value for key, value in tensors.items() if key.startswith(f"{part}: ") and value["bits"] != 32}
        for key, value in stored.items():
            if match := re.search(r"(?:layers|encoders)\.(\d+)\.(.+)$", key):
                numbers.add(int(match[1]))
                layered.setdefault(match[2], {})[match[1]] = value["snr_db"]
            else:
                single[re.sub(r"^.*_embed\.", "", key.partition(": ")[2])] = {"": value["snr_db"]}
        if stored:
            widths = ", ".join(f"{b}" for b in sorted({value["bits"] for value in stored.values()}))
            values = [value["snr_db"] for value in stored.values()]
            ends = min(values), max(values)
            maps.append(f"<h3>{part}: {widths} bits</h3>{legend(*ends)}")
            maps += [heat_map(layered, [str(n) for n in sorted(numbers)], *ends)] if layered else []
            maps += [f"<p class=note>outside the layers</p>{heat_map(single, [''], *ends)}"] if single else []
    if not maps:
        return ""
    note = (
        "Signal-to-noise ratio of every stored matrix in decibels: dark is noisy. A row is a kind of matrix, a column is a"
        " layer; slide a wide map sideways."
    )
    return _section("Error by layer", note, *maps)


def _adapters(adapters: Mapping[str, Any]) -> str:
    if not adapters:
        return ""
    columns = (("cosine", 4), ("ratio", 3), ("effect_kl", 3), ("match_kl", 4))
    # An added adapter has no original to compare with unless its folder is given (--lora).
    rows = [
        (escape(n), *(f"{a[key]:.{digits}f}" if key in a else "-" for key, digits in columns))
        for n, a in adapters.items()
    ]
    note = "Each adapter changes the logits as in the checkpoint; with every gate off they equal a bundle without any."
    return _section("Adapters", note, _table(("adapter", "cosine", "strength", "effect KL", "left KL"), rows))


def _encoders(encoders: Mapping[str, float]) -> str:
    if not encoders:
        return ""
    rows = [(escape(mode), f"{value:.1f} dB") for mode, value in encoders.items()]
    return _section(
        "Encoders", "Feature rows of the bundle's encoders against float32's.", _table(("mode", "SNR"), rows)
    )


def _worst(prompts: Sequence[Mapping[str, Any]], media: Sequence[Sequence[Thumbnail]]) -> str:
    if not prompts:
        return ""
    content = []
    for place, p in enumerate(prompts):
        expected = p["expected"].strip() or p["reference"]
        mark = "good" if p["found"] == expected else "bad"
        asked = f", expected “{escape(p['expected'])}”" if p["expected"] else ""
        shown = "".join(_medium(each) for each in media[place]) if place < len(media) else ""
        content.append(
            f"<div><b>{escape(p['mode'])}</b> <span class=note>KL {p['kl']:.4f}{asked}</span>{shown}"
            f'<p class="asked">{escape(p["prompt"])}</p>'
            f'<div class="pair"><div><small>float</small>{escape(p["reference"])}</div>'
            f'<div class="{mark}"><small>bundle</small>{escape(p["found"])}</div></div></div>'
        )
    note = (
        "The questions with the largest divergence, largest first. The bundle's answer is green where it is right or, if no"
        " right answer is known, the float model's."
    )
    return _section("Largest divergence", note, *content)


def _medium(item: Thumbnail) -> str:
    size = escape(item.size)
    if item.kind == "image":
        shown = f'<img alt="picture of the question" src="{escape(item.url)}">'
    else:
        shown = f'<audio controls preload="metadata" src="{escape(item.url)}"></audio>'
    return f"<figure>{shown}<figcaption>{size}</figcaption></figure>"


def _checks(checks: Sequence[Mapping[str, Any]], skipped: Sequence[str], summary: str) -> str:
    rows = "".join(
        f'<tr><td class="{"good" if c["passed"] else "bad"}">{"ok" if c["passed"] else "LOSS" if c["is_loss"] else "FAIL"}</td>'
        f"<td>{escape(c['name'])}<br><span class=note>{escape(c['detail'])}</span></td></tr>"
        for c in checks
    )
    rows += "".join(f"<tr><td>skip</td><td>{escape(reason)}</td></tr>" for reason in skipped)
    failed = [c for c in checks if not c["passed"]]
    state = "open" if failed else ""
    return _section(
        "Checks",
        f"{len(failed)} of {len(checks)} fail. Verdict: {escape(summary)}.",
        f"<details {state}><summary>All</summary><table>{rows}</table></details>",
    )


def _definitions() -> str:
    terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in DEFINITIONS.items())
    return _section("What the figures mean", "", f"<dl>{terms}</dl>")


def megabytes(count: int) -> str:
    """Format bytes, such as "3.42 MB" or "2.20 GB"."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
