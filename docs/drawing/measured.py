"""Pictures of measured numbers: size against loss, speed against peers, memory against context, error by layer."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from palmtop.export.verify.page.heat_map import DARK, shade
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.states import StateSpec
from palmtop.runtime.memory.plan import TOKENIZER_FILE, plan_memory

from .canvas import Canvas
from .charts import Axis, Bar, bars, plane

DATA = Path(__file__).parents[1] / "data"
HALF = (440, 352)  # half a page
LABELS = {  # format: its label, and where that stands beside its point: (x, y) from the point, anchor
    "fast (rtn)": ("fast", 0, -11, "middle"),
    "gptq": ("gptq", 0, -11, "middle"),
    "best (gptq-in-order)": ("best", 0, 20, "middle"),
    "Q4_K_M": ("Q4_K_M", -10, -2, "end"),
    "Q4_K_M, imatrix": ("with imatrix", -10, 14, "end"),
    "Q5_K_M, imatrix": ("Q5_K_M, imatrix", 10, 5, "start"),
    "Q6_K": ("Q6_K", 0, -10, "middle"),
}
CONTEXTS = (*(n << power for power in range(8, 15) for n in (4, 5, 6, 7)), 1 << 17)
CACHES = {"float32": ("float32", "peer"), "int8": ("8 bits", "own"), "int4": ("4 bits", "good")}
PANELS = {  # column of peers.json: title of its panel
    "prefill_tok_s": "Prefill, tokens a second (more is better)",
    "decode_ms": "Decode, ms a token (less is better)",
    "load_s": "Load, seconds (less is better)",
    "rss_gb": "Memory in use, GB (less is better)",
}


def read(name: str) -> dict[str, Any]:
    """Return a file of measured numbers."""
    found: dict[str, Any] = json.loads((DATA / name).read_text("utf-8"))
    return found


def footer(canvas: Canvas, *lines: str) -> None:
    """Write where the numbers come from at the lower edge."""
    for at, line in enumerate(lines):
        canvas.text(16, canvas.height - 14 - 16 * (len(lines) - 1 - at), line, "soft", size=11)


def size_against_loss() -> str:
    """Draw bits a weight against the divergence from the float model, with llama.cpp's formats."""
    found = read("size_kl.json")
    canvas = Canvas(*HALF, "Size against loss: palmtop and llama.cpp on SmolLM2-135M-Instruct")
    canvas.text(16, 28, "The same weights in fewer bits", size=16, bold=True)
    canvas.disc(276, 57, 6, "own")
    canvas.text(287, 62, "palmtop", size=12)
    canvas.disc(354, 57, 5, "peer", ring=True)
    canvas.text(365, 62, "llama.cpp", size=12)
    x = Axis(low=4.2, high=8.8, start=52, stop=424, ticks=[(n, f"{n}") for n in range(5, 9)])
    losses = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    y = Axis(low=0.008, high=0.8, start=256, stop=76, ticks=[(n, f"{n:g}") for n in losses], is_log=True)
    plane(canvas, x, y, "bits a weight", "KL to the float model, nats")
    for contender, name, bits, loss in found["rows"]:
        own = contender == "palmtop"
        at_x, at_y = x.place(bits), y.place(loss)
        canvas.disc(at_x, at_y, 6 if own else 5, "own" if own else "peer", ring=not own)
        label, right, down, anchor = LABELS.get(name, (name, 10, 5, "start"))
        canvas.text(at_x + right, at_y + down, label, "ink" if own else "soft", size=12, anchor=anchor, bold=own)
    tokens = "SmolLM2-135M-Instruct, weights rotated, 4,080 tokens"
    footer(canvas, tokens, f"{found['machine']}, {found['date']}")
    return canvas.svg()


def speed_against_peers() -> str:
    """Draw prefill, decode, load and memory of every contender of ``peers.json``."""
    found = read("peers.json")
    rows = found["rows"]
    panel = 34 + 40 * len(rows)
    canvas = Canvas(
        840, 44 + 2 * panel + 52, "Prefill, decode, load and memory beside llama.cpp and genai's model builder"
    )
    canvas.text(16, 28, "One model, one machine", size=16, bold=True)
    panels = {
        title: [_bar(row, column) for row in rows if row.get(column) is not None] for column, title in PANELS.items()
    }
    for at, (title, shown) in enumerate((title, shown) for title, shown in panels.items() if shown):
        bars(canvas, 16 + 420 * (at % 2), 58 + panel * (at // 2), 388, title, shown, room=100)
    how = found["source"]
    if "rounds" in found:  # of benchmarks.peers
        how = f"{found['source']}: medians of {found['rounds']} alternating rounds on {found['threads']} threads"
    footer(canvas, *textwrap.wrap(f"{found['date']}, {found['machine']}. {how}.", 120))
    return canvas.svg()


def _bar(row: Mapping[str, Any], column: str) -> Bar:
    value = row[column]
    low, high = value if isinstance(value, Sequence) else (value, value)
    return Bar(row["contender"], low, high, row["contender"].startswith("palmtop"))


def memory_against_context() -> str:
    """Draw the planned peak of a text session by context, for the three widths of the KV cache."""
    found = read("full_size.json")
    canvas = Canvas(*HALF, "Memory of a text session against its context")
    canvas.text(16, 28, "Memory against context and KV cache", size=16, bold=True)
    ticks = [(n, f"{n >> 10}k") for n in CONTEXTS if n.bit_count() == 1]
    x = Axis(low=CONTEXTS[0], high=CONTEXTS[-1], start=52, stop=366, ticks=ticks, is_log=True)
    y = Axis(low=0, high=16, start=256, stop=76, ticks=[(n, f"{n}") for n in range(0, 17, 4)])
    plane(canvas, x, y, "context, tokens", "peak of a text session, GB")
    for dtype, (name, colour) in CACHES.items():
        peaks = [(n, plan_memory(_manifest(found, dtype), context=n).text / 1e9) for n in CONTEXTS]
        shown = [(x.place(n), y.place(peak)) for n, peak in peaks if peak <= y.high]
        canvas.path(shown, colour)
        right, top = shown[-1]
        canvas.text(right + 8, top + 5, name, colour, size=13, bold=True)
    footer(canvas, "Planned by palmtop inspect for 5.6 B parameters,", f"INT4 in groups of 128; {found['date']}")
    return canvas.svg()


def _manifest(found: Mapping[str, Any], dtype: str) -> Manifest:
    """What the memory plan reads of a manifest of a text model, with states of a type."""
    states = [StateSpec(**{**state, "dtype": dtype}) for state in found["decoder"]["states"]]
    parts = [SimpleNamespace(**part) for part in found["parts"]]
    manifest = SimpleNamespace(
        decoder=SimpleNamespace(**{**found["decoder"], "states": states}),
        parts=parts,
        files={TOKENIZER_FILE: SimpleNamespace(size_bytes=found["tokenizer_bytes"])},
        recipe={"accuracy_level": found["accuracy_level"]},
        vision=None,
        audio=None,
    )
    return cast(Manifest, manifest)


def error_by_layer() -> str:
    """Draw the signal-to-noise ratio of the packaged model's stored matrices, as the report page does."""
    found = read("error_by_layer.json")
    rows: dict[str, dict[str, float]] = found["rows"]
    columns = sorted({number for row in rows.values() for number in row}, key=int)
    values = [value for row in rows.values() for value in row.values()]
    low, high = min(values), max(values)
    left, cell, height = 232, 92, 30
    canvas = Canvas(640, 96 + height * len(rows) + 52, "Signal-to-noise ratio of every stored matrix of the decoder")
    canvas.text(16, 28, "Error by layer: signal-to-noise ratio in dB, dark is noisy", size=16, bold=True)
    for at, column in enumerate(columns):
        canvas.text(left + cell * (at + 0.5), 62, f"layer {column}", "soft", size=13, anchor="middle")
    for at, (name, row) in enumerate(rows.items()):
        top = 72 + height * at
        canvas.text(left - 12, top + 20, name.partition(".")[2], size=12, anchor="end", mono=True)
        for place, column in enumerate(columns):
            if column not in row:
                continue
            share = (row[column] - low) / (high - low)
            canvas.fill(left + cell * place, top, cell - 2, height - 2, shade(share))
            ink = "#ffffff" if share < DARK else "#1b1f24"
            canvas.on_fill(left + cell * (place + 0.5), top + 19, f"{row[column]:.1f}", ink, 12)
    footer(canvas, f"{found['command']}; {found['date']}")
    return canvas.svg()
