"""``palmtop config``: the folders and environment variables that palmtop uses, with their values."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from palmtop.runtime.bundle.named_bundles import models_folder

EXAMPLES = """
\b
Examples:
  palmtop config
  palmtop config --json | jq -r .folders.models
  eval "$(_PALMTOP_COMPLETE=bash_source palmtop)"    # completion
\b
Every option has a variable too: PALMTOP_RUN_MAX_TOKENS=100 is
'palmtop run --max-tokens 100'.
"""
VARIABLES = {
    "PALMTOP_MODELS": "folder of the bundles with short names",
    "XDG_DATA_HOME": "its parent without PALMTOP_MODELS; default ~/.local/share",
    "XDG_CACHE_HOME": "bundles exported on first use; default ~/.cache",
    "HF_TOKEN": "token for private and gated repositories",
    "HF_HOME": "cache of downloaded checkpoints; default ~/.cache/huggingface",
    "HF_ENDPOINT": "address of the hub, such as a mirror",
    "NO_COLOR": "no colours and styles in tables",
    "COLUMNS": "width of tables and bars",
}
SECRET = ("HF_TOKEN",)


@click.command("config", epilog=EXAMPLES, short_help="Show folders and environment variables.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def config_command(as_json: bool) -> None:
    """Show the folders and environment variables that palmtop uses; there is no configuration file."""
    folders = {"models": str(models_folder()), "first_use": str(cache_folders()[0]), "demo": str(cache_folders()[1])}
    values = {name: _shown(name) for name in VARIABLES}
    own = {
        name: value for name, value in sorted(os.environ.items()) if name.startswith("PALMTOP_") and name not in values
    }
    if as_json:
        click.echo(json.dumps({"folders": folders, "variables": {**values, **own}}))
        return
    for name, path in folders.items():
        click.echo(f"{name + ' folder':17} {path}")
    click.echo()
    for name, meaning in VARIABLES.items():
        click.echo(f"{name:17} {meaning}" if values[name] is None else f"{name:17} {values[name]}  ({meaning})")
    for name, value in own.items():
        click.echo(f"{name:17} {value}")


def cache_folders() -> tuple[Path, Path]:
    """Return the folders of bundles that were exported on first use: of models, and of the demonstration."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palmtop"
    return root / "models", root / "demo"


def _shown(name: str) -> str | None:
    value = os.environ.get(name)
    return "(set)" if value and name in SECRET else value
