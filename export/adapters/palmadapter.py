"""The ``.palmadapter`` file: one stored adapter, packed alone, for any bundle of its base.

A zip without compression: ``adapter.json`` (description, hash of the base it belongs to, and for every linear the size,
scheme and byte offsets of A and B) and ``weights.bin`` (their bytes). For a phone, which cannot rewrite a graph, also
``bundle/decoder.onnx`` and ``bundle/bundle.json`` of the bundle it was packed from: together with ``weights.bin`` under
the name ``installs_as`` they replace those of a bundle whose other files are equal. docs/adapters.md has the format.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from palmtop.errors import CheckpointError, InputError, QuantizeError
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.runtime.bundle.json_fields import kind_of
from palmtop.runtime.bundle.manifest import COMBINE, MANIFEST_FILE, AdapterSpec, is_adapter_name
from palmtop.runtime.bundle.opening import Bundle, sha256_of

from .graph import LINEAR, DecoderGraph, Delta
from .matrix import Matrix, copy, from_json, to_json

SUFFIX = ".palmadapter"
FORMAT = 1
SPEC, WEIGHTS = "adapter.json", "weights.bin"
MAX_SPEC_BYTES = 16 << 20
_KINDS = frozenset(("weight", "codes", "scales", "zero_points"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Description of the adapter in a packed file.

    Attributes:
        spec: manifest entry without gate and file.
        weights_bytes: size of ``weights.bin``.
        weights_sha256: hash of ``weights.bin``.
        linears: matrices by linear, as ``matrix.to_json`` wrote them.
    """

    spec: AdapterSpec
    weights_bytes: int
    weights_sha256: str
    linears: Mapping[str, Any]

    def deltas(self, location: str, folder: Path) -> dict[str, Delta]:
        """Return the matrices, with their bytes in a file of a folder."""

        def place(linear: str) -> Any:
            def tensor(kind: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ir.ExternalTensor:
                length = int(np.prod(shape)) * dtype.itemsize
                if offset < 0 or offset + length > self.weights_bytes:
                    raise CheckpointError(
                        f"{SPEC}: {linear}: {kind} ends at byte {offset + length}, {WEIGHTS} has {self.weights_bytes}"
                    )
                shaped, onnx_type = ir.Shape(shape), ir.DataType.from_numpy(dtype)
                return ir.ExternalTensor(
                    location, offset, length, onnx_type, shape=shaped, name=f"{linear}.{kind}", base_dir=folder
                )

            return tensor

        try:
            return {
                linear: Delta(from_json(data["a"], place(linear)), from_json(data["b"], place(linear)))
                for linear, data in self.linears.items()
            }
        except (QuantizeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{SPEC}: a linear's matrices are not described as expected ({error!r:.100})"
            ) from error


def pack(bundle: Bundle, name: str, target: Path) -> None:
    """Write one of a bundle's adapters into a packed file.

    Raises:
        InputError: the bundle has no such adapter, or the file exists or cannot be written.
    """
    spec = bundle.manifest.adapter(name)
    if spec is None:
        there = ", ".join(a.name for a in bundle.manifest.adapters) or "none"
        raise InputError(f"adapter '{name}' is not in {bundle.path}, its adapters are: {there}")
    if target.exists():
        raise InputError(f"{target}: already exists, expected a new file")
    deltas = DecoderGraph(bundle.file(bundle.manifest.decoder.file)).deltas(name)
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.mkdir(parents=True)
        weights = partial / WEIGHTS
        if spec.file is not None:  # its file holds only its matrices
            weights = bundle.file(spec.file)
        else:
            with ExternalData(partial, WEIGHTS) as sink:
                deltas = {linear: _copied(sink, f"{linear}.lora", delta) for linear, delta in deltas.items()}
        data = _described(spec, deltas, weights, bundle.manifest.model)
        with zipfile.ZipFile(partial / "zip", "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(SPEC, json.dumps(data, indent=1))
            archive.write(weights, WEIGHTS)
            if spec.file is not None:
                archive.write(bundle.file(bundle.manifest.decoder.file), f"bundle/{bundle.manifest.decoder.file}")
                archive.write(bundle.file(MANIFEST_FILE), f"bundle/{MANIFEST_FILE}")
        (partial / "zip").replace(target)
    except OSError as error:
        raise InputError(f"{target}: could not be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copied(sink: ExternalData, name: str, delta: Delta) -> Delta:
    return Delta(copy(sink, f"{name}_A", delta.a), copy(sink, f"{name}_B", delta.b))


def _described(spec: AdapterSpec, stored: Mapping[str, Delta], weights: Path, model: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": spec.name,
        "rank": spec.rank,
        "alpha": spec.alpha,
        "combine": spec.combine,
        "merged_from": spec.merged_from,
        "base_model": model,
        "base_sha256": spec.base_sha256,
        "installs_as": spec.file,
        "weights": {"size_bytes": weights.stat().st_size, "sha256": sha256_of(weights)},
        "linears": {linear: {"a": to_json(delta.a), "b": to_json(delta.b)} for linear, delta in stored.items()},
    }


@contextmanager
def opened(path: Path) -> Iterator[tuple[Packed, zipfile.ZipFile]]:
    """Open a packed file and check its description.

    Raises:
        CheckpointError: the file is not a packed adapter, or contradicts itself.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(SPEC)
            if info.file_size > MAX_SPEC_BYTES:
                raise CheckpointError(f"{path}: {SPEC} has {info.file_size} bytes, expected at most {MAX_SPEC_BYTES}")
            data = json.loads(archive.read(SPEC))
            if not isinstance(data, dict):
                raise CheckpointError(f"{path}: {SPEC} is {kind_of(data)}, expected an object")
            yield _parsed(ConfigSection(data, f"{path.name}: {SPEC}")), archive
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: is not an adapter packed by palmtop ({error!s:.80})") from error
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read ({error.strerror or error})") from error


def extract(packed: Packed, archive: zipfile.ZipFile, target: Path) -> None:
    """Copy the weights out of the file and check them.

    Raises:
        CheckpointError: size or hash differ from the description.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if archive.getinfo(WEIGHTS).file_size != packed.weights_bytes:
        raise CheckpointError(
            f"{WEIGHTS} has {archive.getinfo(WEIGHTS).file_size} bytes, {SPEC} says {packed.weights_bytes}"
        )
    with archive.open(WEIGHTS) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 4 << 20)
    if (found := sha256_of(target)) != packed.weights_sha256:
        raise CheckpointError(f"{WEIGHTS} has sha256 {found[:12]}..., {SPEC} says {packed.weights_sha256[:12]}...")


def _parsed(keys: ConfigSection) -> Packed:
    if keys.size("format") > FORMAT:
        raise CheckpointError(f"{keys.where}: format is {keys.size('format')}, this palmtop reads up to {FORMAT}")
    name, combine = keys.text("name"), keys.text("combine")
    if not is_adapter_name(name) or combine not in COMBINE:
        raise CheckpointError(
            f"{keys.where}: name is {name!r:.40} and combine {combine!r:.40}, expected a name and a rule"
        )
    base = keys.text("base_sha256")
    if re.fullmatch("[0-9a-f]{64}", base) is None:
        raise CheckpointError(f"{keys.where}: base_sha256 is {base!r:.40}, expected 64 hexadecimal digits")
    merged, weights, linears = keys.within("merged_from"), keys.within("weights"), keys.within("linears")
    for linear in linears.data:
        if LINEAR.fullmatch(linear) is None:
            raise CheckpointError(f"{keys.where}: '{linear:.80}' is no linear layer of a decoder")
        for part in "ab":
            _check_matrix(linears.within(linear).within(part))
    spec = AdapterSpec(
        name=name,
        rank=keys.size("rank"),
        alpha=keys.number("alpha"),
        gate=0,
        base_sha256=base,
        combine=combine,
        merged_from={n: merged.number(n) for n in merged.data},
    )
    return Packed(
        spec=spec,
        weights_bytes=weights.size("size_bytes"),
        weights_sha256=weights.text("sha256"),
        linears=linears.data,
    )


def _check_matrix(matrix: ConfigSection) -> None:
    for key in ("rows", "columns", "bits"):
        matrix.size(key)
    level = matrix.optional_size("accuracy_level")
    if matrix.size("bits") not in (4, 8, 32) or level not in (0, 4):
        raise CheckpointError(f"{matrix.where}: bits or accuracy_level is none that palmtop writes")
    if matrix.size("bits") != 32:
        matrix.size("group")
        matrix.flag("symmetric", default=False)
    offsets = matrix.within("offsets")
    if not offsets.data.keys() <= _KINDS:
        raise CheckpointError(f"{offsets.where}: has {', '.join(offsets.data)}, expected {', '.join(sorted(_KINDS))}")
    for kind in offsets.data:
        offsets.optional_size(kind)


def matrices(deltas: Mapping[str, Delta]) -> Iterator[Matrix]:
    """Return all matrices of an adapter."""
    for delta in deltas.values():
        yield from (delta.a, delta.b)
