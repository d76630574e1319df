"""``palmtop inspect``: contents of a bundle, from its manifest alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

import click

from palmtop.errors import OptionError
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import Bundle, open_bundle
from palmtop.runtime.memory.machine import available_memory
from palmtop.runtime.memory.plan import (
    MemoryPlan,
    active_bytes,
    active_parameters,
    kv_bytes_per_token,
    largest_context,
    megabytes,
    plan_memory,
)
from palmtop.runtime.plain_table import plain_table
from palmtop.runtime.providers.placed import node_counts
from palmtop.runtime.providers.plugins import CPU

from .flags import bundle_argument

EXAMPLES = """
\b
Examples:
  palmtop inspect phi4mm-int4
  palmtop inspect phi4mm-int4 --context 4096
  palmtop inspect phi4mm-int4 --json | jq .memory
  palmtop inspect phone --provider qnn    # nodes on the NPU and on the CPU
"""
MEMORY_ROWS = (
    "weights",
    "used_weights",
    "prepacked",
    "kv_cache",
    "media",
    "encoders",
    "activations",
    "base",
    "loading",
    "text",
    "total",
)


@click.command("inspect", epilog=EXAMPLES, short_help="Show what is in a bundle and what it needs.")
@bundle_argument
@click.option("--context", type=int, help="Plan memory for this many tokens (default: the bundle's context).")
@click.option(
    "--provider", type=click.Choice(["openvino", "qnn"]), help="Load its graphs and count where their nodes run."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def inspect_command(bundle: Path, context: int | None, provider: str | None, as_json: bool) -> None:
    """Show the BUNDLE's parts with bits, bytes and share, its adapters and routes, and the memory it needs.

    Sizes are checked, hashes are not (see: palmtop verify); no model is loaded, but for --provider.
    """
    if context is not None and context < 1:
        raise OptionError("context", f"found {context}, expected at least 1")
    opened = open_bundle(bundle, hashes=False)
    if provider is not None and not as_json:
        _show_nodes(opened, provider)
        return
    plan = plan_memory(opened.manifest, context=context or opened.manifest.decoder.context_length)
    if as_json:
        graphs = None if provider is None else dict(node_counts(opened, provider))
        click.echo(json.dumps(_as_data(opened, plan, graphs)))
    else:
        _show(opened, plan)


def _show_nodes(bundle: Bundle, provider: str) -> None:
    """Show the provider of the nodes of each graph; those on the CPU by name."""
    found = dict(node_counts(bundle, provider))
    fallen = sum(len(places.get(CPU, [])) for places in found.values() if len(places) > 1)
    total = sum(len(nodes) for places in found.values() for nodes in places.values())
    click.echo(f"{len(found)} graphs for {provider}: {fallen} of {total} nodes fall back to the CPU")
    for file, places in found.items():
        click.echo(f"{file}: " + ", ".join(f"{len(nodes)} nodes on {name}" for name, nodes in places.items()))
        for node in places.get(CPU, []) if len(places) > 1 else []:
            click.echo(f"  on the CPU: {node}")


def _as_data(bundle: Bundle, plan: MemoryPlan, graphs: Mapping[str, Mapping[str, Sized]] | None) -> dict[str, Any]:
    manifest = bundle.manifest
    available = available_memory()
    return {
        "bundle": str(bundle.path),
        "model": manifest.model,
        "architecture": manifest.architecture,
        "palmtop": manifest.palmtop,
        "source_sha256": manifest.source_sha256,
        "size_bytes": bundle.size_bytes,
        "parts": [
            {
                "name": part.name,
                "bits": part.bits,
                "group": part.group,
                "parameters": part.parameters,
                "size_bytes": part.size_bytes,
                "share": part.size_bytes / max(1, bundle.size_bytes),
            }
            for part in manifest.parts
        ],
        "parameters": sum(part.parameters for part in manifest.parts),
        "active_parameters": active_parameters(manifest),
        "active_bytes": active_bytes(manifest),
        "adapter_mode": manifest.adapter_mode,
        "adapters": [
            {"name": a.name, "rank": a.rank, "alpha": a.alpha, "file": a.file, "combine": a.combine}
            for a in manifest.adapters
        ],
        "routes": {name: route.adapters for name, route in manifest.routes.items()},
        "context_length": manifest.decoder.context_length,
        "original_context": manifest.decoder.original_context,
        "kv_cache": {"bits": manifest.decoder.kv_bits, "bytes_per_token": kv_bytes_per_token(manifest)},
        "memory": {
            "context": plan.context,
            **{name: getattr(plan, name) for name in MEMORY_ROWS},
            "available": available,
            "largest_context": None if available is None else largest_context(manifest, plan, available),
        },
        "targets": [
            {"provider": t.provider, "soc": t.soc, "versions": t.versions, "graphs": list(t.files)}
            for t in manifest.targets
        ],
        "nodes": None
        if graphs is None
        else {file: {name: len(nodes) for name, nodes in places.items()} for file, places in graphs.items()},
        "recipe": manifest.recipe,
        "files": {name: file.size_bytes for name, file in manifest.files.items()},
    }


def _show(bundle: Bundle, plan: MemoryPlan) -> None:
    manifest = bundle.manifest
    click.echo(
        f"{manifest.model} ({manifest.architecture}), {megabytes(bundle.size_bytes)} in {len(manifest.files)} files, "
        f"written by palmtop {manifest.palmtop}\n"
    )
    rows = [["part", "bits", "group", "weights", "bytes", "share"]]
    for part in manifest.parts:
        share = part.size_bytes / max(1, bundle.size_bytes)
        group = "" if part.group is None else str(part.group)
        size = megabytes(part.size_bytes)
        rows.append([part.name, str(part.bits), group, f"{part.parameters:,}", size, f"{share:.1%}"])
    click.echo(plain_table(rows, right={1, 2, 3, 4, 5}) + "\n")
    if any(part.active_share < 1 for part in manifest.parts):
        total = sum(part.parameters for part in manifest.parts)
        click.echo(
            f"a token passes through {active_parameters(manifest):,} of {total:,} weights, "
            f"{megabytes(active_bytes(manifest))} of {megabytes(sum(part.size_bytes for part in manifest.parts))}\n"
        )
    _show_routes(manifest)
    for target in manifest.targets:
        parts = [*target.encoders, *(["decoder"] if target.decoder is not None else [])]
        made = ", ".join(f"{name} {version}" for name, version in target.versions.items() if name != "sources")
        click.echo(
            f"graphs for {target.provider}{f' on {target.soc}' if target.soc else ''}: {', '.join(parts)} ({made})"
        )
    _show_memory(manifest, plan)


def _show_routes(manifest: Manifest) -> None:
    names = ", ".join(f"{a.name} (rank {a.rank}, alpha {a.alpha:g})" for a in manifest.adapters) or "none"
    click.echo(f"adapters, {manifest.adapter_mode}: {names}")
    rows = [["input", "adapters", "audio projector"]]
    for mode in (*manifest.modes, *manifest.tasks):
        route = manifest.routes[mode]
        adapters = ", ".join(f"{name} {weight:g}" for name, weight in route.adapters.items()) or "-"
        hears = "audio" in mode or mode in manifest.tasks
        rows.append([mode, adapters, route.audio_projector if hears else "-"])
    click.echo(plain_table(rows) + "\n")


def _show_memory(manifest: Manifest, plan: MemoryPlan) -> None:
    decoder = manifest.decoder
    rope = "" if decoder.original_context is None else f" (long rotary factors beyond {decoder.original_context})"
    click.echo(f"context: up to {decoder.context_length} tokens{rope}")
    click.echo(f"KV cache: {decoder.kv_bits} bits, {kv_bytes_per_token(manifest)} bytes a token\n")
    rows = [[f"memory for {plan.context} tokens", "bytes"]]
    rows += [[name.replace("_", " "), megabytes(getattr(plan, name))] for name in MEMORY_ROWS]
    click.echo(plain_table(rows, right={1}))
    available = available_memory()
    if available is not None:
        largest = largest_context(manifest, plan, available)
        verdict = f"the longest context that fits is {largest}" if largest else "no context fits"
        click.echo(f"\nthis machine has {megabytes(available)} left; {verdict}")
