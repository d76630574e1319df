"""``palmtop doctor``: check of this machine and installation, with advice."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap

import click

from palmtop import __version__
from palmtop.runtime.doctor import examine
from palmtop.runtime.media.encoder_runner import available_providers
from palmtop.runtime.providers.plugins import PACKAGES, state
from palmtop.runtime.session import import_genai

EXAMPLES = """
\b
Examples:
  palmtop doctor
  palmtop doctor --json | jq '.findings[] | select(.level != "good")'
"""
COLOURS = {"good": "green", "advice": "yellow", "problem": "red"}


@click.command("doctor", epilog=EXAMPLES, short_help="Check this machine and installation.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor_command(as_json: bool) -> None:
    """Check versions, CPU features, execution providers and memory, and give advice on each.

    Exit code 1 when there is a problem: palmtop will not work.
    """
    findings = list(examine(import_genai, available_providers, lambda: map(state, PACKAGES)))
    if as_json:
        click.echo(json.dumps({"palmtop": __version__, "findings": [finding.to_dict() for finding in findings]}))
    else:
        click.echo(f"palmtop {__version__}")
        for finding in findings:
            click.secho(f"{finding.level:8}", fg=COLOURS[finding.level], nl=False)
            click.echo("\n        ".join(_wrapped(f"{finding.name}: {finding.found}")))
            if finding.advice:
                click.echo("        " + "\n        ".join(_wrapped(finding.advice)))
    sys.exit(1 if any(finding.level == "problem" for finding in findings) else 0)


def _wrapped(text: str) -> list[str]:
    """Lines that fit behind the level on a terminal, whole in a pipe."""
    if not sys.stdout.isatty():
        return [text]
    width = shutil.get_terminal_size().columns - len("advice  ")
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
