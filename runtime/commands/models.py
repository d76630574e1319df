"""``palmtop list`` and ``palmtop remove``: bundles with short names, and those that were exported on first use."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from palmtop.errors import InputError, PalmtopError
from palmtop.runtime.bundle.manifest import MANIFEST_FILE
from palmtop.runtime.bundle.named_bundles import find_bundle, models_folder, named_bundles
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.memory.plan import megabytes

from .config import cache_folders

LIST_EXAMPLES = """
\b
Examples:
  palmtop list
  palmtop list --json | jq -r '.bundles[].path'
"""
REMOVE_EXAMPLES = """
\b
Examples:
  palmtop remove Phi-4-mini-instruct
  palmtop remove --cache      # all that was exported on first use
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A bundle of this user.

    Attributes:
        name: its short name, or the folder's name in the cache.
        path: its folder.
        model: name of its model; None if the bundle cannot be opened.
        size_bytes: bytes of its files.
        is_cached: whether it was exported on first use.
    """

    name: str
    path: str
    model: str | None
    size_bytes: int
    is_cached: bool


@click.command("list", epilog=LIST_EXAMPLES, short_help="List the bundles that have short names.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_command(as_json: bool) -> None:
    """List the bundles of the models folder, and those that run and chat have exported into the cache.

    A name of the models folder stands for its bundle in every command.
    """
    found = list(bundles())
    if as_json:
        click.echo(json.dumps({"models_folder": str(models_folder()), "bundles": [asdict(each) for each in found]}))
        return
    if not found:
        click.echo(f"no bundles in {models_folder()}; 'palmtop export OWNER/NAME' puts one there", err=True)
        return
    width = max(len(each.name) for each in found)
    for each in found:
        where = "exported on first use" if each.is_cached else each.model or "cannot be opened"
        click.echo(f"{each.name:{width}}  {megabytes(each.size_bytes):>9}  {where}")


@click.command("remove", epilog=REMOVE_EXAMPLES, short_help="Delete bundles that have short names.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--cache", is_flag=True, help="Delete all that was exported on first use.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; needs --yes.")
def remove_command(names: tuple[str, ...], cache: bool, yes: bool, as_json: bool) -> None:
    """Delete the bundles NAME of the models folder; a bundle at another path is a folder to be deleted by hand."""
    if not names and not cache:
        raise InputError("found no name, expected NAME of palmtop list, or --cache")
    if as_json and not yes:
        raise InputError("--json: found without --yes, expected both: a program cannot be asked")
    there = {each.name: each for each in bundles()}
    if missing := [name for name in names if name not in there]:
        known = ", ".join(there) or "none"
        outside = find_bundle(Path(missing[0])).exists()
        hint = "is a path, not a name of the models folder" if outside else "is not there"
        raise InputError(f"{missing[0]}: {hint}, expected one of: {known}")
    chosen = [there[name] for name in dict.fromkeys(names)]
    chosen += [each for each in there.values() if cache and each.is_cached and each not in chosen]
    size = sum(each.size_bytes for each in chosen)
    if chosen and not yes:
        if not sys.stdin.isatty():
            raise InputError("standard input is no terminal, expected --yes")
        click.confirm(f"Delete {', '.join(each.name for each in chosen)} ({megabytes(size)})?", abort=True, err=True)
    for each in chosen:
        _delete(Path(each.path))
    if as_json:
        click.echo(json.dumps({"removed": [each.path for each in chosen], "size_bytes": size}))
    else:
        click.echo(f"removed {len(chosen)} bundle{'s' * (len(chosen) != 1)}, {megabytes(size)}")


def bundles() -> Iterator[Listed]:
    """Yield the bundles of the models folder, then those of the cache."""
    for is_cached, folder in ((False, models_folder()), *((True, folder) for folder in cache_folders())):
        for path in named_bundles(folder):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            try:
                model = open_bundle(path, hashes=False).manifest.model
            except PalmtopError:
                model = None
            yield Listed(name=path.name, path=str(path), model=model, size_bytes=size, is_cached=is_cached)


def _delete(path: Path) -> None:
    """Delete a bundle; a link to one is removed, and what it points to is kept."""
    try:
        if path.is_symlink():
            path.unlink()
        else:
            (path / MANIFEST_FILE).unlink(missing_ok=True)  # first: what is half deleted is no bundle
            shutil.rmtree(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be deleted ({error.strerror})") from error
