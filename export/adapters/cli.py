"""``palmtop adapter``: arguments and output; the other files of this folder do the work."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from palmtop.errors import InputError
from palmtop.runtime.bundle.named_bundles import BundlePath
from palmtop.runtime.plain_table import plain_table

EXAMPLES = """
\b
Examples:
  palmtop adapter add phi4mm-int4 my-lora                # a PEFT folder
  palmtop run phi4mm-int4 "Sort 4 1 3." --adapter my-lora
  palmtop adapter list phi4mm-int4
  palmtop adapter pack phi4mm-int4 my-lora -o my.palmadapter
  palmtop adapter route phi4mm-int4 sorting my-lora=0.8
  palmtop adapter merge one=0.5 two=0.5 -o both --method svd --rank 16
"""

bundle_argument = click.argument("bundle", type=BundlePath())
json_flag = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


@click.group("adapter", epilog=EXAMPLES)
def adapter_group() -> None:
    """Add adapters to a bundle, switch, merge and pack them. The base weights do not change."""


@adapter_group.command("add")
@bundle_argument
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--name", help="Name in the bundle (default: the folder's name, or the packed one).")
@click.option(
    "--combine",
    type=click.Choice(["add", "replace"]),
    default="add",
    show_default=True,
    help="In a request that names it: add to the route's adapters, or replace them.",
)
@json_flag
def add_command(bundle: Path, source: Path, name: str | None, combine: str, as_json: bool) -> None:
    """Add SOURCE, a PEFT LoRA folder or a packed adapter, to the BUNDLE as a new gated branch."""
    import time

    from palmtop.runtime.memory.machine import peak_rss_bytes

    from .install import add_adapter

    started = time.perf_counter()
    with _progress() as progress:
        spec = add_adapter(bundle, source, name, combine=combine, progress=progress)
    seconds, peak = time.perf_counter() - started, peak_rss_bytes()
    if as_json:
        click.echo(json.dumps({"name": spec.name, "rank": spec.rank, "gate": spec.gate, "seconds": round(seconds, 3),
                               "peak_rss_bytes": peak}))  # fmt: skip
        return
    memory = "" if peak is None else f", peak memory {peak / 1e6:.0f} MB"
    click.echo(f"{spec.name}: rank {spec.rank}, added in {seconds:.1f} s{memory}. Use it: --adapter {spec.name}")


@adapter_group.command("remove")
@bundle_argument
@click.argument("name")
@json_flag
def remove_command(bundle: Path, name: str, as_json: bool) -> None:
    """Remove adapter NAME, which was added, from the BUNDLE."""
    from .install import remove_adapter

    remove_adapter(bundle, name)
    click.echo(json.dumps({"name": name, "bundle": str(bundle)}) if as_json else f"{name}: removed")


@adapter_group.command("list")
@bundle_argument
@json_flag
def list_command(bundle: Path, as_json: bool) -> None:
    """List the BUNDLE's adapters and the routes that use them."""
    from palmtop.runtime.bundle.opening import open_bundle

    manifest = open_bundle(bundle, hashes=False).manifest
    rows: list[dict[str, Any]] = [
        {
            "name": a.name,
            "rank": a.rank,
            "alpha": a.alpha,
            "gate": a.gate,
            "combine": a.combine,
            "size_bytes": sum(p.size_bytes for p in manifest.parts if p.name == f"adapter {a.name}"),
            "bits": sorted({p.bits for p in manifest.parts if p.name == f"adapter {a.name}"}),
            "file": a.file,
            "merged_from": a.merged_from,
            "base_sha256": a.base_sha256,
            "routes": [name for name, route in manifest.routes.items() if a.name in route.adapters],
        }
        for a in manifest.adapters
    ]
    if as_json:
        click.echo(json.dumps({"adapters": rows}))
        return
    if not rows:
        click.echo(f"{bundle}: no adapters (mode {manifest.adapter_mode})")
        return
    table = [["adapter", "rank", "alpha", "bits", "MB", "when named", "from", "routes"]]
    for row in rows:
        merged = ", ".join(f"{n} {w:g}" for n, w in row["merged_from"].items())
        table.append(
            [
                str(row["name"]),
                str(row["rank"]),
                f"{row['alpha']:g}",
                ", ".join(map(str, row["bits"])),
                f"{row['size_bytes'] / 1e6:.2f}",
                "beside" if row["combine"] == "add" else "instead",
                merged or ("checkpoint" if row["file"] is None else "added"),
                ", ".join(row["routes"]) or "-",
            ]
        )
    click.echo(plain_table(table, right={1, 2, 3, 4}))
    click.echo("when named: an adapter acts beside those of the route, or instead of them")


@adapter_group.command("export")
@bundle_argument
@click.argument("name")
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="PEFT folder to write.")
@json_flag
def export_command(bundle: Path, name: str, target: Path, as_json: bool) -> None:
    """Write adapter NAME of the BUNDLE as a PEFT folder, dequantised."""
    from palmtop.runtime.bundle.opening import open_bundle

    from .peft_writer import export_adapter

    export_adapter(open_bundle(bundle, hashes=False), name, target)
    click.echo(json.dumps({"name": name, "path": str(target)}) if as_json else f"{target}: {name} as a PEFT folder")


@adapter_group.command("pack")
@bundle_argument
@click.argument("name")
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="File to write.")
@json_flag
def pack_command(bundle: Path, name: str, target: Path, as_json: bool) -> None:
    """Write adapter NAME of the BUNDLE into one file with the hash of its base; 'add' accepts it."""
    from palmtop.runtime.bundle.opening import open_bundle

    from .palmadapter import pack

    pack(open_bundle(bundle, hashes=False), name, target)
    size = target.stat().st_size
    found = {"name": name, "path": str(target), "size_bytes": size}
    click.echo(json.dumps(found) if as_json else f"{target}: {size / 1e6:.2f} MB")


@adapter_group.command("route")
@bundle_argument
@click.argument("name")
@click.argument("adapters", nargs=-1, metavar="[ADAPTER[=W]]...")
@click.option(
    "--projector",
    type=click.Choice(["speech", "vision"]),
    help="Audio projector (default: the route's present one, or speech).",
)
@click.option("--drop", is_flag=True, help="Remove the route.")
@json_flag
def route_command(
    bundle: Path, name: str, adapters: tuple[str, ...], projector: str | None, drop: bool, as_json: bool
) -> None:
    """Set the adapters of route NAME of the BUNDLE: a mode (text, image, audio, image+audio) or a task's name."""
    from palmtop.runtime.bundle.manifest import Route
    from palmtop.runtime.bundle.opening import open_bundle
    from palmtop.runtime.chat.routing import parse_adapters

    from .install import set_route

    if drop:
        set_route(bundle, name, None)
        removed = {"name": name, "adapters": None, "audio_projector": None}
        click.echo(json.dumps(removed) if as_json else f"{name}: removed")
        return
    before = open_bundle(bundle, hashes=False).manifest.routes.get(name)
    kept = "speech" if before is None else before.audio_projector
    weights = parse_adapters(adapters) or {}
    set_route(bundle, name, Route(adapters=weights, audio_projector=projector or kept))
    if as_json:
        click.echo(json.dumps({"name": name, "adapters": weights, "audio_projector": projector or kept}))
        return
    click.echo(f"{name}: {', '.join(f'{n} {w:g}' for n, w in weights.items()) or 'no adapter'}. Use it: --route {name}")


@adapter_group.command("merge")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE=W...")
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="PEFT folder to write.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Sources are adapters of this bundle, by name.")
@click.option("--method", type=click.Choice(["linear", "svd", "cat"]), default="svd", show_default=True)
@click.option("--rank", type=click.IntRange(1), help="Rank of the result (default: the largest of the sources').")
@click.option("--samples", type=click.Path(path_type=Path), help="Questions with answers (JSONL, see 'evaluate').")
@click.option("--on", "measured_on", type=click.Path(path_type=Path), help="Measure loss on this bundle of the base.")
@json_flag
def merge_command(
    sources: tuple[str, ...],
    target: Path,
    bundle: Path | None,
    method: str,
    rank: int | None,
    samples: Path | None,
    measured_on: Path | None,
    as_json: bool,
) -> None:
    """Merge adapters, PEFT folders or, with --bundle, a bundle's own, into one PEFT folder.

    With --samples the report has the loss of each source and of the merged adapter; PEFT folders need --on for it.
    """
    from palmtop.runtime.bundle.opening import open_bundle

    from .merge_job import Source, losses, merge_sources

    if samples is not None and (measured_on or bundle) is None:
        raise InputError("--samples needs a bundle to run, expected --on BUNDLE")
    wanted = [_source(text) for text in sources]
    opened = None if bundle is None else open_bundle(bundle, hashes=False)
    found = merge_sources([Source(name, weight) for name, weight in wanted], target, opened, method=method, rank=rank)
    found["losses"] = None
    if samples is not None:
        on = open_bundle(measured_on or bundle or "", hashes=False)
        found["losses"] = losses(on, samples, [name for name, _ in wanted], target, from_bundle=opened is not None)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show_merge(found)


def _source(text: str) -> tuple[str, float]:
    name, mark, weight = text.rpartition("=")
    if not mark:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError as error:
        raise InputError(f"source '{text}': weight is '{weight}', expected a number") from error


def _show_merge(found: Mapping[str, Any]) -> None:
    weights = ", ".join(f"{n} {w:g}" for n, w in found["coefficients"].items())
    click.echo(
        f"{found['adapter']}: {weights} by {found['method']}, rank {found['rank']}; of the exact sum of"
        f" {found['linears']} linears {found['mean_error']:.2%} is lost in the mean, {found['max_error']:.2%} at most"
        f" ({found['worst']})"
    )
    if found["losses"] is not None:
        tasks = list(next(iter(found["losses"].values())))
        table = [["nats a token", *tasks]]
        table += [[label, *(f"{by_task[task]:.4f}" for task in tasks)] for label, by_task in found["losses"].items()]
        click.echo(plain_table(table, right=range(1, len(tasks) + 1)))


@contextmanager
def _progress() -> Iterator[Callable[[str], None] | None]:
    """Yield what shows the linear that is stored, on a line that is erased in the end; None where no terminal is."""
    if not sys.stderr.isatty():
        yield None
        return
    erase = "\r\x1b[2K"
    try:
        yield lambda linear: click.echo(f"{erase}{linear}", nl=False, err=True)
    finally:
        click.echo(erase, nl=False, err=True)
