"""docs/full-size.md from the numbers that ``benchmarks.full_size_report`` has measured."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

WORKLOAD_NAMES = {
    "text": "text, context 4,096",
    "image": "one image of 1 tile (545 rows), context 4,096",
    "tiles": "one image of 36 tiles (9,585 rows), context 10,240",
    "audio": "5 minutes of audio (3,750 rows), context 4,608",
}
HEAD = """# Full size

Phi-4-multimodal's true dimensions (5.6 B parameters, bfloat16, random weights: time and memory depend on sizes
alone), measured on {machine} with onnxruntime {ort}, onnxruntime-genai {genai}. One command measures all of it
again and writes this page:

    python -m benchmarks.full_size_report --work DIR

Times are of one run on a machine that had other work to do; compare them with each other, not with yours.
"""


def gb(size_bytes: float) -> str:
    """Three digits are what a noisy machine is worth."""
    return f"{size_bytes / 1e9:.2f} GB"


def write_page(results: dict[str, Any], page: Path) -> None:
    """Write the page; a part that was not measured is left out, and says so."""
    machine = f"{platform.machine()} Linux"
    text = HEAD.format(machine=machine, ort=version("onnxruntime"), genai=version("onnxruntime-genai"))
    for part in (_exports, _parts, _runs, _cold_start, _phone):
        text += "\n" + part(results)
    page.parent.mkdir(exist_ok=True)
    page.write_text(text, "utf-8")


def _exports(results: dict[str, Any]) -> str:
    rows = {
        "export whole": "palmtop, whole model, both adapters and encoders (search, group 32)",
        "export capped": "the same with `--ram 300MB`",
        "export text": "palmtop, text-only backbone (rtn, symmetric, as the stock builder)",
        "export text search": "palmtop, text-only backbone (search, asymmetric: the default)",
        "stock text": f"stock builder, text-only backbone ({results.get('stock layers', 32)} layers)",
    }
    lines = [
        "## Export\n",
        "INT4. Anonymous memory is what no file stands behind; verification is not in these rows (see below).\n",
        "| | wall time | CPU time | peak RSS | peak anonymous | bundle |",
        "|---|---|---|---|---|---|",
    ]
    for key, label in rows.items():
        if key in results:
            r = results[key]
            lines.append(
                f"| {label} | {r['seconds']:.0f} s | {r['cpu_seconds']:.0f} s | {gb(r['peak_rss'])}"
                f" | {gb(r['peak_anonymous'])} | {gb(r['bytes'])} |"
            )
    if "export text" in results and "stock text" in results:
        ours, stock = results["export text"], results["stock text"]
        lines.append(
            f"\nAgainst the stock builder, same checkpoint: memory 1/{stock['peak_rss'] / ours['peak_rss']:.0f},"
            f" wall time {ours['seconds'] / stock['seconds']:.2f}x, CPU time"
            f" {ours['cpu_seconds'] / stock['cpu_seconds']:.2f}x, bundle {ours['bytes'] / stock['bytes']:.2f}x."
        )
    if "verify" in results:
        r = results["verify"]
        lines.append(
            f"\n`palmtop verify` of the whole bundle against its checkpoint: {r['seconds']:.0f} s, peak RSS"
            f" {gb(r['peak_rss'])}. Float models are walked a layer at a time."
        )
    return "\n".join(lines) + "\n"


COST = """\
`palmtop export` states time, memory and disk before it starts, from the checkpoint's sizes and a short measurement of
the machine (`export/cost/rates.py` has the one table of constants, and says which runs they come from); `--json` has
them as `cost`. Most of the time goes to the comparison:

| the default command, with its comparison | clock | processor | peak RSS | bundle |
|---|---|---|---|---|
| `palmtop export CHECKPOINT -o BUNDLE --set group=128 --context 4096` | 40 min | 44 min | 3.75 GB | 3.04 GB |

2 cores, shared with other work (load 14), 2026-11-28; the checkpoint is that of `python -m benchmarks.make_checkpoint`.
`quality.json` has KL and agreement of all four modes over 48 positions each, and each adapter's effect. Every check of
the graphs passes (the decoder differs from its own rounded weights by 3e-6 of the range of the logits; with every gate
off by nothing), and the bundle is called lossy: random weights have no structure that would survive 4 bits (KL 1.7 to
8.4; plain rounding in groups of 32 loses 1.4 to 8.3).
"""


def _parts(results: dict[str, Any]) -> str:
    if "parts" not in results:
        return ""
    lines = [
        COST,
        "## What is in the bundle\n",
        "| part | bits | group | parameters | bytes |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {part['name']} | {part['bits']} | {part['group'] or '-'} | {part['parameters'] / 1e6:,.1f} M"
        f" | {part['size_bytes'] / 1e6:,.1f} MB |"
        for part in results["parts"]
    ]
    return "\n".join(lines) + "\n"


def _runs(results: dict[str, Any]) -> str:
    lines = [
        "## Memory plan and process\n",
        "One process each: load, a text turn, then the media in the same conversation. Planned is what"
        " `palmtop inspect` and the refusal of a session that does not fit go by.\n",
        "| workload | planned peak | measured peak | planned / measured | load | encoder and its media |",
        "|---|---|---|---|---|---|",
    ]
    for workload, label in WORKLOAD_NAMES.items():
        if f"run {workload}" in results:
            r = results[f"run {workload}"]["output"]
            peak = r["memory"]["VmHWM"]
            media = f"{r['media_s']:.0f} s" if "media_s" in r else "-"
            lines.append(
                f"| {label} | {gb(r['planned'])} | {gb(peak)} | {r['planned'] / peak:.2f} | {r['load_s']:.1f} s"
                f" | {media} |"
            )
    if "run text" in results and "touched" in results["run text"]["output"]:
        r = results["run text"]["output"]
        touched, base = r["touched"], r["touched"]["none"]
        lines.append(
            f"\nAfter loading, {gb(r['loaded']['VmRSS'])} are resident: the kernels' own copies of the weights. The"
            " pages of the weight files, which loading maps, are given back; decoding text reads"
            f" {base['mapped'] / 1e6:.0f} MB of them again (zero points). Bytes of its own memory that a few tokens"
            " touch (cleared and counted by the kernel, `/proc/self/clear_refs`):\n"
        )
        lines += ["| adapter | touched | more than text |", "|---|---|---|"]
        for name, t in touched.items():
            lines.append(f"| {name} | {gb(t['own'])} | {(t['own'] - base['own']) / 1e6:,.0f} MB |")
        lines.append("\nText turns touch no adapter's bytes.")
    return "\n".join(lines) + "\n"


def _cold_start(results: dict[str, Any]) -> str:
    return """## Cold start: the cache of prepacked weights is left out

onnxruntime can save the kernels' copies of the weights (`session.save_external_prepacked_constant_initializers`);
`python -m benchmarks.prepack_cache BUNDLE FOLDER` tries it. On this bundle, with onnxruntime 1.31.1, logits of every
gate setting equal the uncached session's bit for bit, and the memory of a loaded session becomes pages of a file
(0.27 GB anonymous instead of 3.56 GB). But the second load takes 8.8 to 11.9 s instead of 9.9 s: onnxruntime still
calls every kernel's packing and then drops the result for the saved one, so 0.4x of the first load cannot be reached
this way, and the cache costs 6.8 GB of disk for a 3.0 GB decoder. `session.prepack.enable_parallel` gave 9.2 s and
0.9 GB more memory. A cache that hardly starts faster and triples the disk is not worth its risk, so palmtop has none.
What it would have saved beyond the packed copies, the mapped pages, is given back after loading: resident memory is
then 1.2x the decoder's weight files.
"""


def _phone(results: dict[str, Any]) -> str:
    lines = ["## What a phone needs\n"]
    if "run text" in results:
        r = results["run text"]["output"]
        lines.append(
            f"With a context of 4,096 tokens a text session of this bundle peaks at {gb(r['memory']['VmHWM'])} here,"
            f" {gb(r['loaded']['VmRSS'])} of it the loaded weights; a phone of 8 GB leaves an app 3 to 4 GB."
            " Levers, by size: group 128"
            " (4.25 instead of 5.1 bits a weight), one merged adapter or none instead of two gated ones, a shorter"
            " context (0.26 MB a token)."
        )
    lines.append(
        "BlueLM-V-3B reports 2.2 GB at the peak and 0.47 s to load a 3 B model on a phone's NPU. Neither number is"
        " reached here: 3.8 B parameters at INT4 alone are 2.4 GB, and the CPU kernels pack them at load time."
    )
    return "\n".join(lines) + "\n"
