"""Bundles with a short name: those in the models folder, which commands accept in the place of a path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from palmtop.errors import InputError

from .manifest import MANIFEST_FILE


def models_folder() -> Path:
    """Return the folder of named bundles: PALMTOP_MODELS, or palmtop/models in the user's data folder."""
    if chosen := os.environ.get("PALMTOP_MODELS"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "palmtop" / "models"


def make_folder(folder: Path) -> None:
    """Make a folder for bundles and those above it.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); PALMTOP_MODELS names another folder") from error


def named_bundles(folder: Path | None = None) -> Iterator[Path]:
    """Yield the bundles of a folder, by default the models folder, in the order of their names."""
    folder = folder or models_folder()
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    yield from (path for path in entries if (path / MANIFEST_FILE).is_file())


def find_bundle(path: Path) -> Path:
    """Return the bundle that a path or a short name means; an existing path goes before a name."""
    if len(path.parts) == 1 and not path.is_absolute() and not os.path.lexists(path):
        named = models_folder() / path
        if (named / MANIFEST_FILE).is_file():
            return named
    return path


class BundlePath(click.Path):
    """Click parameter type: the path of a bundle, or the short name of one in the models folder."""

    name = "bundle"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        return find_bundle(super().convert(value, param, ctx))  # type: ignore[arg-type]

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names of the models folder that begin so, and paths."""
        names = [CompletionItem(path.name) for path in named_bundles() if path.name.startswith(incomplete)]
        return [*names, *super().shell_complete(ctx, param, incomplete)]
