"""What ``adapter_speed`` found, as the measured part of docs/adapters.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.tables import machine

FASTER_THAN_INPUTS = 4.0
ADD_SECONDS, ADD_MB = 20, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        what: configuration.
        tokens_per_s: decode speed.
        ratio: against the bundle without adapters, measured in turns with it.
        goal: what the ratio must reach; None where there is none.
        slower_than_ours: seconds a token, in units of the gated adapter's; for the other ways of serving it.
    """

    what: str
    tokens_per_s: float
    ratio: float
    goal: float | None = None
    slower_than_ours: float | None = None


def report(layers: int, threads: int, adapters: int, found: Mapping[str, Any]) -> str:
    """Table and sentences.

    Args:
        layers: of the decoder.
        threads: of onnxruntime.
        adapters: in the bundle with many.
        found: group, rows, switching_ms, adding, many.
    """
    rows = [Row(**row) for row in found["rows"]]
    lines = [
        f"Phi-4-multimodal's sizes, {layers} layers, INT4, group {found['group']}, {threads} threads, {machine()}.",
        "",
        "| decoder | tokens/s | of the bundle without adapters | must be |",
        "|---|---|---|---|",
    ]
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:.2f}x"
        if row.slower_than_ours is not None:
            goal = f"ours {FASTER_THAN_INPUTS:.0f}x faster; is {row.slower_than_ours:.1f}x"
        lines.append(f"| {row.what} | {row.tokens_per_s:.2f} | {row.ratio:.3f}x | {goal} |")
    many = found["many"]
    bound = max(1 / row.ratio for row in rows if row.slower_than_ours is not None and "float32" in row.what)
    again = " --full-size BUNDLE" if len(found["adding"]) > 1 else ""
    lines += [
        "",
        f"Against float32 adapter files {FASTER_THAN_INPUTS:.0f}x cannot be had: without any adapter the decoder is",
        f"at most {bound:.1f} times as fast as with such a file, so that is what an adapter of no cost would reach.",
        "",
        f"- Switching between two requests, prefill aside: {found['switching_ms']:.3f} ms (must be 1 ms at most).",
        *(_added(where, add, must) for where, add, must in found["adding"]),
        f"- A bundle with {adapters} adapters, in units of the bundle without: {many['off']:.3f}x with all off,"
        f" {many['last on']:.3f}x with the last one on.",
        "",
        f"`python -m benchmarks.adapter_speed --layers {layers}{again} --write`",
    ]
    return "\n".join(lines)


def _added(where: str, add: Mapping[str, float], must: str) -> str:
    cost = f"{add['seconds']:.1f} s, peak {add['peak_rss_mb']:.0f} MB"
    return f"- Adding a LoRA of rank 256, float32, to {where}: {cost}{must}."
