"""Measure palmtop at full size against the stock onnxruntime-genai builder, and write docs/full-size.md.

    python -m benchmarks.full_size_report --work DIR [--stock-layers 32] [--part export|run|all]

Needs the ``[dev]`` extra (the stock builder loads the checkpoint with torch and transformers), 45 GB of disk and, for
the stock builder with all 32 layers, 23 GB of memory; with fewer it is compared on a checkpoint of that many layers.
The numbers of each run are kept in DIR/measured.json, so that a part can be measured again alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.full_size_page import write_page
from benchmarks.full_size_use import WORKLOADS
from benchmarks.measured_process import measure

PAGE = Path("docs/full-size.md")
STOCK = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu"]


class Bench:
    """One folder of checkpoints, bundles and results."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.path = work / "measured.json"
        self.results: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def take(self, name: str, command: list[str | Path], size_of: Path | None = None) -> dict[str, Any]:
        """Run a command and keep what it took; a failure ends the benchmark."""
        print(f"{name}: {' '.join(map(str, command[2:]))}", file=sys.stderr, flush=True)
        found = asdict(measure(command, log=self.work / f"{name.replace(' ', '-')}.log"))
        if found["code"] != 0:
            raise SystemExit(f"{name} ended with {found['code']}: {found['errors']}")
        if size_of is not None:
            found["bytes"] = sum(p.stat().st_size for p in size_of.rglob("*") if p.is_file())
        self.results[name] = found
        self.path.write_text(json.dumps(self.results, indent=1))
        print(f"  {found['seconds']:.0f} s, peak {found['peak_rss'] / 1e9:.2f} GB", file=sys.stderr, flush=True)
        return found

    def checkpoint(self, name: str, *options: str) -> Path:
        """A checkpoint of random weights, made when it is not there."""
        path = self.work / name
        if not path.exists():
            command = [sys.executable, "-m", "benchmarks.make_checkpoint", "-o", path, *options]
            self.take(f"make {name}", command, path)
        return path

    def export(self, name: str, source: Path, *options: str) -> Path:
        """Export anew, and measure it."""
        target = self.work / f"bundle-{name}"
        shutil.rmtree(target, ignore_errors=True)
        command = [sys.executable, "-m", "palmtop", "export", source, "-o", target, "--json", *options]
        self.take(f"export {name}", command, target)
        return target


def measure_exports(bench: Bench, stock_layers: int) -> None:
    """Both exporters on the same text-only checkpoint, and palmtop on the whole model."""
    layers = [] if stock_layers == 32 else ["--layers", str(stock_layers)]
    text = bench.checkpoint("phi4mini" if not layers else f"phi4mini-{stock_layers}", "--text-only", *layers)
    bench.results["stock layers"] = stock_layers
    bench.export("text", text, "--no-verify", "--set", "symmetric=true", "--quality", "fast")
    bench.export("text search", text, "--no-verify")
    stock = bench.work / "stock"
    shutil.rmtree(stock, ignore_errors=True)
    bench.take("stock text", [*STOCK, "-i", text, "-o", stock, "-c", bench.work / "stock-cache"], stock)
    shutil.rmtree(stock)
    whole = bench.checkpoint("phi4mm")
    bench.export("whole", whole, "--no-verify", "--context", "16384")
    bench.export("capped", whole, "--no-verify", "--context", "16384", "--ram", "300MB")
    shutil.rmtree(bench.work / "bundle-capped")


def measure_runs(bench: Bench) -> None:
    """The runtime's memory plan against the process, one process a workload."""
    bundle = bench.work / "bundle-whole"
    manifest = json.loads((bundle / "bundle.json").read_text())
    bench.results["parts"] = manifest["parts"]
    for workload in WORKLOADS:
        bench.take(f"run {workload}", [sys.executable, "-m", "benchmarks.full_size_use", bundle, workload])
    verified = [sys.executable, "-m", "palmtop", "verify", bundle, "--against", bench.work / "phi4mm", "--json"]
    bench.take("verify", verified)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--stock-layers", type=int, default=32)
    parser.add_argument("--part", choices=("export", "run", "all", "page"), default="all")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.work)
    parts: dict[str, Callable[[], None]] = {
        "export": lambda: measure_exports(bench, arguments.stock_layers),
        "run": lambda: measure_runs(bench),
    }
    for name, part in parts.items():
        if arguments.part in (name, "all"):
            part()
    write_page(bench.results, PAGE)


if __name__ == "__main__":
    main()
