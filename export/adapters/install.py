"""Addition and removal of a bundle's adapters: decoder graph and manifest are rewritten, weights do not change.

New files are written to a temporary place and moved in as one change (``runtime/bundle/replacing``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from palmtop.errors import CheckpointError, InputError
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.recipe import CALIBRATED, METHODS, Recipe
from palmtop.quantize import Quantizer
from palmtop.quantize.search import search
from palmtop.runtime.bundle.manifest import (
    COMBINE,
    MANIFEST_FILE,
    MODES,
    AdapterSpec,
    FileSpec,
    Manifest,
    PartSpec,
    Route,
    is_adapter_name,
    is_route_name,
)
from palmtop.runtime.bundle.opening import Bundle, open_bundle, sha256_of
from palmtop.runtime.bundle.replacing import Change, changed

from .adapter_source import fitted_pairs, quantise, read_origin, read_peft, refuse_without_effect
from .graph import DecoderGraph, Delta, max_rank
from .palmadapter import Packed, extract, matrices, opened

ADAPTER_FOLDER = "adapters"


def add_adapter(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    name: str | None = None,
    *,
    combine: str = "add",
    progress: Callable[[str], None] | None = None,
) -> AdapterSpec:
    """Add a PEFT LoRA, or a packed adapter, to a bundle as a new gated branch.

    Args:
        path: path of the bundle.
        source: a PEFT folder, or a ``.palmadapter`` file.
        name: name in the bundle; None takes the folder's or the packed one.
        combine: effect on the route's adapters of a request that names it: "add" leaves them on, "replace" does not.
        progress: called with the name of each linear that is done.

    Returns:
        The adapter as it is in the manifest now.

    Raises:
        CheckpointError: the adapter does not fit this base; names key or tensor.
        InputError: the name is taken or impossible, or the bundle cannot be written.
        BundleError: the bundle is damaged.
    """
    folder, origin = Path(path), Path(source)
    if combine not in COMBINE:
        raise InputError(f"combine is '{combine}', expected one of {', '.join(COMBINE)}")
    open_bundle(folder, hashes=False)  # a folder that is no bundle is not changed
    with changed(folder) as change:
        bundle = open_bundle(folder, hashes=False)
        graph = DecoderGraph(bundle.file(bundle.manifest.decoder.file))
        if origin.is_dir():
            spec, deltas = _from_peft(bundle, graph, origin, name, change, progress)
            spec = replace(spec, combine=combine)
        else:
            spec, deltas = _from_pack(bundle, graph, origin, name, change)
        gate = graph.insert(spec.name, deltas)
        spec = replace(spec, gate=gate)
        manifest = replace(
            bundle.manifest,
            adapters=(*bundle.manifest.adapters, spec),
            adapter_mode="gated",
            parts=(*bundle.manifest.parts, *_parts(spec.name, deltas)),
        )
        _write(change, graph, manifest)
    return spec


def remove_adapter(path: str | os.PathLike[str], name: str) -> None:
    """Remove an added adapter from a bundle, with its file.

    Raises:
        InputError: there is no adapter of this name, it is part of the checkpoint, a route names it, or the bundle
            cannot be written.
        BundleError: the bundle is damaged.
    """
    folder = Path(path)
    open_bundle(folder, hashes=False)
    with changed(folder) as change:
        bundle = open_bundle(folder, hashes=False)
        manifest = bundle.manifest
        spec = manifest.adapter(name)
        if spec is None:
            there = ", ".join(a.name for a in manifest.adapters) or "none"
            raise InputError(f"adapter '{name}' is not in {folder}, its adapters are: {there}")
        if spec.file is None:
            raise InputError(
                f"adapter '{name}' came with the checkpoint, its bytes lie among the decoder's; export the checkpoint"
                " again without it"
            )
        if users := [route for route, r in manifest.routes.items() if name in r.adapters]:
            raise InputError(f"adapter '{name}' is named by route '{users[0]}', expected a route without it")
        graph = DecoderGraph(bundle.file(manifest.decoder.file))
        graph.remove(name)
        change.deleted.append(spec.file)
        left = [a for a in manifest.adapters if a.name != name]
        manifest = replace(
            manifest,
            adapters=tuple(replace(a, gate=a.gate - (a.gate > spec.gate)) for a in left),
            adapter_mode="gated" if left else Recipe.from_dict(manifest.recipe).adapter_mode,
            parts=tuple(p for p in manifest.parts if p.name != f"adapter {name}"),
            files={path: file for path, file in manifest.files.items() if path != spec.file},
        )
        _write(change, graph, manifest)


def set_route(path: str | os.PathLike[str], name: str, route: Route | None) -> None:
    """Set the adapters of a mode or a task, or drop a task's route.

    Raises:
        InputError: the name is not possible, a mode's route is dropped, an adapter is missing, or the bundle cannot be
            written.
    """
    folder = Path(path)
    open_bundle(folder, hashes=False)
    if not is_route_name(name):
        raise InputError(f"route '{name}': expected a name of letters, digits, -, _ and +")
    if route is None and name in MODES:
        raise InputError(f"route '{name}' is a mode of input, expected a task; a bundle keeps its modes")
    with changed(folder) as change:
        manifest = open_bundle(folder, hashes=False).manifest
        routes = {n: r for n, r in manifest.routes.items() if n != name}
        if route is None and name not in manifest.routes:
            raise InputError(f"route '{name}' is not in {folder}, expected one of {', '.join(manifest.routes)}")
        for adapter in route.adapters if route is not None else ():
            if manifest.adapter(adapter) is None:
                there = ", ".join(a.name for a in manifest.adapters) or "none"
                raise InputError(f"route '{name}' names adapter '{adapter}', this bundle's adapters are: {there}")
        if route is not None:
            routes[name] = route
        _write_manifest(change, replace(manifest, routes=routes))


def _from_peft(
    bundle: Bundle,
    graph: DecoderGraph,
    source: Path,
    name: str | None,
    change: Change,
    progress: Callable[[str], None] | None,
) -> tuple[AdapterSpec, dict[str, Delta]]:
    name = _free_name(bundle.manifest, name or source.resolve().name)
    origin = read_origin(source)
    base = bundle.manifest.source_sha256
    if origin.base_sha256 not in (None, base):
        raise _other_base(source, str(origin.base_sha256), base)
    adapter = read_peft(source, name)
    pairs = fitted_pairs(adapter, graph, graph.heads(bundle.manifest.decoder))
    refuse_without_effect(pairs, source)
    file = _file(name)
    with ExternalData(change.staging, file) as sink:
        deltas = quantise(pairs, name, graph, sink, _quantizer(bundle.manifest), progress)
    spec = AdapterSpec(
        name=name,
        rank=max_rank(deltas),
        alpha=adapter.alpha,
        gate=0,
        base_sha256=base,
        file=file,
        merged_from=dict(origin.merged_from),
    )
    return spec, deltas


def _from_pack(
    bundle: Bundle, graph: DecoderGraph, source: Path, name: str | None, change: Change
) -> tuple[AdapterSpec, dict[str, Delta]]:
    if not source.is_file():
        raise InputError(f"{source}: no such file or folder, expected a PEFT folder or a packed adapter")
    with opened(source) as (packed, archive):
        name = _free_name(bundle.manifest, name or packed.spec.name)
        if packed.spec.base_sha256 != bundle.manifest.source_sha256:
            raise _other_base(source, packed.spec.base_sha256, bundle.manifest.source_sha256)
        file = _file(name)
        deltas = packed.deltas(file, change.staging)
        _check_fit(packed, deltas, graph)
        extract(packed, archive, change.staging / file)
    return replace(packed.spec, name=name, file=file, rank=max_rank(deltas)), deltas


def _file(name: str) -> str:
    """Name of its external data file; not NAME.bin: a graph's weights are found by the graph's own name."""
    return f"{ADAPTER_FOLDER}/{name}.lora.bin"


def _check_fit(packed: Packed, deltas: Mapping[str, Delta], graph: DecoderGraph) -> None:
    linears = graph.linears
    for name, delta in deltas.items():
        expected = linears.get(name)
        found = (delta.b.rows, delta.a.columns)
        if expected != found or delta.a.rows != delta.b.columns:
            raise CheckpointError(
                f"adapter '{packed.spec.name}': tensor '{name}.lora_B' x '{name}.lora_A' is {list(found)}, expected"
                f" {'no such linear' if expected is None else list(expected)}"
            )


def _other_base(source: Path, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{source}: belongs to the base with sha256 {found[:12]}..., this bundle's base has {expected[:12]}..."
    )


def _free_name(manifest: Manifest, name: str) -> str:
    if not is_adapter_name(name):
        raise InputError(f"adapter '{name}': expected a name of letters, digits, - and _ (--name gives it one)")
    if manifest.adapter(name) is not None:
        raise InputError(f"adapter '{name}' is there already, expected another name (--name gives it one)")
    return name


def _quantizer(manifest: Manifest) -> Quantizer:
    """The bundle's own method if it needs no samples of activations."""
    method = str(manifest.recipe.get("method"))
    return search if method in CALIBRATED else METHODS.get(method, search)


def _parts(name: str, deltas: Mapping[str, Delta]) -> list[PartSpec]:
    """One manifest entry for each scheme of the adapter's matrices."""
    counts: dict[tuple[int, int | None], list[int]] = {}
    for matrix in matrices(deltas):
        scheme = matrix.scheme
        key = (32, None) if scheme is None else (scheme.bits, scheme.group)
        count = counts.setdefault(key, [0, 0])
        count[0] += matrix.rows * matrix.columns
        count[1] += sum(tensor.nbytes for tensor in matrix.tensors.values())
    return [
        PartSpec(name=f"adapter {name}", bits=bits, group=group, parameters=parameters, size_bytes=size_bytes)
        for (bits, group), (parameters, size_bytes) in counts.items()
    ]


def _write(change: Change, graph: DecoderGraph, manifest: Manifest) -> None:
    """Write the graph and every new file into the change, the manifest with their hashes last."""
    graph.save(change.staging / manifest.decoder.file)
    files = dict(manifest.files)
    for path in sorted(p for p in change.staging.rglob("*") if p.is_file()):
        name = path.relative_to(change.staging).as_posix()
        files[name] = FileSpec(size_bytes=path.stat().st_size, sha256=sha256_of(path))
    _write_manifest(change, replace(manifest, files=files))


def _write_manifest(change: Change, manifest: Manifest) -> None:
    data = manifest.to_dict()
    Manifest.from_dict(json.loads(json.dumps(data)))  # never leave a manifest that would be refused
    (change.staging / MANIFEST_FILE).write_text(json.dumps(data, indent=1, ensure_ascii=False), "utf-8")
