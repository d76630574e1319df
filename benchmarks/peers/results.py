"""The measurements of a run: rows with the medians of the rounds, written as JSON and as a table.

    {"machine", "date", "source", "threads", "rounds", "roofs", "other_work", "left_out",
     "rows": [{"contender", "prefill_tok_s", "decode_ms", "load_s", "rss_gb", "peak_rss_gb", "model_gb", "contexts"}]}

``prefill_tok_s`` and ``decode_ms`` are those of the shortest context; ``contexts`` has them all.
"""

from __future__ import annotations

from statistics import median
from typing import Any

OURS, PEER = "palmtop", "llama.cpp"
COLUMNS = {  # key: heading, format
    "prefill_tok_s": ("prefill, tokens/s", "{:.0f}"),
    "decode_ms": ("decode, ms", "{:.2f}"),
    "sampled_decode_ms": ("sampled, ms", "{:.2f}"),
    "load_s": ("load, s", "{:.2f}"),
    "rss_gb": ("memory, GB", "{:.2f}"),
    "peak_rss_gb": ("peak, GB", "{:.2f}"),
    "model_gb": ("files, GB", "{:.2f}"),
    "decode_of_roof": ("decode, of limit", "{:.0%}"),
    "picture_s": ("picture, s", "{:.2f}"),
    "sound_minute_s": ("minute of sound, s", "{:.2f}"),
}


def medians(contender: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of a contender's runs; numbers are medians, the rest is the first run's."""
    row: dict[str, Any] = {"contender": contender, "runs": len(runs)}
    for key, value in runs[0].items():
        is_number = isinstance(value, (int, float))
        row[key] = median(run[key] for run in runs) if is_number else value
    row["contexts"] = {
        context: {name: median(run["contexts"][context][name] for run in runs) for name in values}
        for context, values in runs[0]["contexts"].items()
    }
    shortest = min(row["contexts"], key=int)
    return row | row["contexts"][shortest]


def add_ratios(rows: list[dict[str, Any]], roofs: dict[str, float]) -> None:
    """Add each contender's share of the memory roof, where its bytes a token are known, and ratios to llama.cpp."""
    peer = next((row for row in rows if row["contender"] == PEER), None)
    for row in rows:
        if "decode_bytes" in row:
            row["decode_of_roof"] = row["decode_bytes"] / roofs["read_gb_s"] / 1e6 / row["decode_ms"]
        if peer is not None:
            row["prefill_ratio"] = row["prefill_tok_s"] / peer["prefill_tok_s"]
            row["decode_ratio"] = peer["decode_ms"] / row["decode_ms"]


def table(found: dict[str, Any]) -> str:
    """Markdown: ratios to llama.cpp first, then absolute numbers, then who was left out."""
    rows = found["rows"]
    has_ratios = any("prefill_ratio" in row for row in rows)
    keys = [key for key in COLUMNS if any(key in row for row in rows)]
    heads = ["", *(("prefill, ratio", "decode, ratio") if has_ratios else ()), *(COLUMNS[key][0] for key in keys)]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        ratios = [f"{row[name]:.2f}" for name in ("prefill_ratio", "decode_ratio")] if has_ratios else []
        cells = (COLUMNS[key][1].format(row[key]) if key in row else "" for key in keys)
        lines.append([row["contender"], *ratios, *cells])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    roofs = found["roofs"]
    text += (
        f"\n\n{found['machine']}, {found['threads']} threads, {found['rounds']} alternating rounds. Limits measured"
        f" between them: {roofs['read_gb_s']:.1f} GB/s of memory reads, {roofs['int8_gop_s']:.0f} GOP/s of 8-bit"
        " products."
    )
    if has_ratios:
        text += f" Ratios are speeds in units of {PEER}'s."
    if found["other_work"] is not None and found["other_work"] >= 0.1:
        text += f" Other processes took {found['other_work']:.0%} of the processors: these times are worth little."
    return text + "".join(f"\n- {name}: left out, {why}" for name, why in found["left_out"].items())
