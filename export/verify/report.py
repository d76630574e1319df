"""Report of quality.json as one page: self-contained, readable on a phone, with an explanation of every figure.

Uses the numbers of quality.json only, drawn with ``charts``. Nothing on the page is computed anew: the page contains
the JSON as well.
"""

# ruff: noqa: E501 - markup reads better in one line

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .charts import Point, bar, heat_map, interval_rows, scatter

STYLE = """
:root{--ink:#1b1f24;--soft:#5c6670;--line:#d9dee3;--card:#fff;--page:#f4f6f8;--good:#1a7f4b;--bad:#c0362c;--mark:#2458c5}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebee;--soft:#9aa5b0;--line:#333b44;--card:#1b2027;--page:#12161b;
--good:#4cc38a;--bad:#ff7b6e;--mark:#7aa5ff}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
main{max-width:760px;margin:0 auto;padding:16px}h1{font-size:1.35rem;margin:.2rem 0}h3{font-size:.95rem;margin:.8rem 0 .2rem}h2{font-size:1.1rem;margin:0 0 .4rem}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px;margin:12px 0;min-width:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px}
.tile b{display:block;font-size:1.3rem}.tile span,.note,figcaption{color:var(--soft);font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:6px 8px;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}svg{width:100%;max-width:560px;height:auto;display:block}svg text{fill:var(--ink)}
svg .soft{fill:var(--soft)}svg .axis{stroke:var(--line)}details{margin-top:8px}summary{cursor:pointer}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:8px;margin:4px 0 12px}.pair div{border:1px solid var(--line);
border-radius:6px;padding:6px 8px;overflow-wrap:anywhere}.pair small{color:var(--soft);display:block}
@media(max-width:480px){th,td{padding:5px 3px;font-size:.78rem}main{padding:10px}section{padding:12px}}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.75rem}dt{font-weight:600;margin-top:.5rem}dd{margin:0}
"""

DEFINITIONS = {
    "KL": "Kullback-Leibler divergence of the bundle's next-token distribution from the float model's, in nats; the mean"
    " over the first tokens of the float model's answers. Computed by the bundle's own"
    " kernels, with 8-bit activations where it asks for them. 0 is no difference.",
    "KL of weights, of activations": "What the stored weights lose when kernels compute in float32 (accuracy level 0), and"
    " how far the bundle's own 8-bit activations (level 4) are from that.",
    "Lossy": "A right bundle that loses more than half a nat a token, and half as much again as plain rounding to 4 bits in"
    " groups of 32 would.",
    "Mean KL": "The mean of the modes' KL, each mode with the same weight.",
    "Same top token": "Share of judged tokens whose most likely token is the float model's.",
    "Signal-to-noise ratio": "Energy of the float32 values over that of the difference, in decibels: 20 dB is an error"
    " of a tenth of the values' size, 40 dB of a hundredth.",
    "Right answers": "Share of packaged questions answered exactly as expected, greedily; the line is Wilson's 95 %"
    " interval.",
    "Effect of an adapter": "What switching it on changes in the logits. Cosine and strength compare that change with the"
    " float model's: 1 and 1 are the same change.",
    "Neighbours": "Bundles of the same checkpoint that were made for this page by rounding with one setting for every"
    " layer, judged on the same questions.",
    "Predicted": "What the planner says of other sizes: losses of single layers added up, as far off as they were for"
    " the plan that was chosen. Of the weights alone, on its own questions: compare it with itself.",
}


def render(quality: Mapping[str, Any], title: str, plan: Mapping[str, Any] | None = None) -> str:
    """Return the page as HTML.

    Args:
        quality: content of ``quality.json``.
        title: name of the bundle.
        plan: content of ``plan.json``, for the predicted frontier; None without.
    """
    sections = [
        _summary(quality),
        _frontier(quality, plan),
        _modes(quality["modes"], quality["losses"]),
        _kv_cache(quality["kv_cache"]),
        _accuracy(quality["accuracy"]),
        _layers(quality["tensors"]),
        _adapters(quality["adapters"]),
        _encoders(quality["encoders"]),
        _worst(quality["worst"]),
        _checks(quality["checks"], quality["skipped"], quality["summary"]),
        _definitions(),
        f"<details><summary>All numbers (quality.json)</summary><pre>{escape(json.dumps(quality, indent=1))}</pre></details>",
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}: quality</title><style>{STYLE}</style></head><body><main>"
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
    passed = sum(check["passed"] for check in quality["checks"])
    verdict = f'<b class="{"good" if quality["passed"] else "bad"}">{quality["verdict"]}</b>'
    tiles = [f"{verdict}<span>{passed} of {len(quality['checks'])} checks hold</span>"]
    if quality["weight_bytes"]:
        tiles.append(f"<b>{megabytes(quality['weight_bytes'])}</b><span>graphs and weights</span>")
    if quality["mean_kl"] is not None:
        top1 = [mode["top1"] for mode in quality["modes"].values()]
        tiles.append(f"<b>{quality['mean_kl']:.4f}</b><span>mean KL, nats</span>")
        tiles.append(f"<b>{sum(top1) / len(top1):.1%}</b><span>same top token</span>")
    return f'<section class="tiles">{"".join(f"<div class=tile>{tile}</div>" for tile in tiles)}</section>'


def _frontier(quality: Mapping[str, Any], plan: Mapping[str, Any] | None) -> str:
    if quality["mean_kl"] is None or not quality["neighbours"]:
        return ""
    points = [Point(n["weight_bytes"] / 1e6, n["mean_kl"], n["name"]) for n in quality["neighbours"]]
    points.append(Point(quality["weight_bytes"] / 1e6, quality["mean_kl"], "this bundle", is_own=True))
    curve = [(p["size_bytes"] / 1e6, p["loss"]) for p in (plan or {}).get("frontier", [])]
    note = "Left is smaller, down is closer to the float model; both axes are logarithmic."
    if curve:
        note += " The line is what the planner predicts for other sizes."
    rows = [(escape(p.name), f"{p.x:.3f} MB", f"{p.y:.5f}") for p in sorted(points, key=lambda p: p.x)]
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
    if not table:
        return ""
    rows = []
    for mode, row in table.items():
        for who, name in (("reference", "float"), ("found", "bundle")):
            share = row[f"{who}_right"] / row["items"]
            rows.append((f"{mode}, {name}", share, row[f"{who}_low"], row[f"{who}_high"], who == "found"))
    items = next(iter(table.values()))["items"]
    note = f"{items} packaged questions of each mode; the line is the 95 % interval."
    shown = [
        (
            escape(mode),
            f"{row['reference_right']}/{row['items']}",
            f"{row['found_right']}/{row['items']}",
            f"{100 * row['found_low']:.0f} to {row['found_high']:.0%}",
        )
        for mode, row in table.items()
    ]
    return _section("Right answers", note, interval_rows(rows), _table(("mode", "float", "bundle", "interval"), shown))


def _layers(tensors: Mapping[str, Any]) -> str:
    """Noise by layer and kind of linear, a map for each graph; float32 tensors are left out."""
    maps = []
    for part in ("decoder", "vision", "audio"):
        cells: dict[str, dict[str, float]] = {}
        bits: set[int] = set()
        for key, value in tensors.items():
            if not key.startswith(f"{part}: ") or value["bits"] == 32:
                continue
            match = re.search(r"(?:layers|encoders)\.(\d+)\.(.+)$", key)
            row, column = (match[1], match[2]) if match else ("", key.partition(": ")[2].rsplit("embed.", 1)[-1])
            bits.add(value["bits"])
            cells.setdefault(row if match else "other", {})[column] = value["snr_db"]
        if cells:
            widths = ", ".join(f"{b}" for b in sorted(bits))
            maps.append(f"<h3>{part}: {widths} bits</h3>{heat_map(cells)}")
    if not maps:
        return ""
    note = (
        "Signal-to-noise ratio of every stored matrix in decibels: dark is noisy. Rows are layers; touch a cell for its"
        " name."
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


def _worst(prompts: Sequence[Mapping[str, Any]]) -> str:
    if not prompts:
        return ""
    content = []
    for p in prompts:
        expected = p["expected"].strip() or p["reference"]
        mark = "good" if p["found"] == expected else "bad"
        asked = f", expected “{escape(p['expected'])}”" if p["expected"] else ""
        content.append(
            f"<div><b>{escape(p['mode'])}</b> <span class=note>KL {p['kl']:.4f}{asked}</span><br>{escape(p['prompt'])}"
            f'<div class="pair"><div><small>float</small>{escape(p["reference"])}</div>'
            f'<div class="{mark}"><small>bundle</small>{escape(p["found"])}</div></div></div>'
        )
    return _section("Largest divergence", "The prompts with the largest divergence.", *content)


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
