"""``palmtop verify``: check of a bundle's files and, with its checkpoint, of graphs, tensors, logits and adapters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palmtop.errors import InputError
from palmtop.runtime.bundle.named_bundles import BundlePath
from palmtop.runtime.memory.size_option import Size

if TYPE_CHECKING:
    from palmtop.runtime.bundle.opening import Bundle

    from .quality import Check, Quality

EXAMPLES = """
\b
Examples:
  palmtop verify phi4mm-int4                        # files, sizes, hashes
  palmtop verify phi4mm-int4 --against Phi-4-mm     # tensors, logits
  palmtop verify phi4mm-int4 --against Phi-4-mm -v  # every check
  palmtop verify phi4mm-int4 --against Phi-4-mm --json
  palmtop verify phi4mm-int4 --against Phi-4-mm --lora mine=my-lora
  palmtop verify phi4mm-int4 --against Phi-4-mm --reference transformers
  palmtop verify phi4mm-int4 --against Phi-4-mm --report r.html --items 50
"""

# exit code 2: the command line, the bundle or the checkpoint is unusable
EXIT_CODES = {"passed": 0, "failed": 1, "lossy": 3}


@click.command("verify", epilog=EXAMPLES, short_help="Compare a bundle with its checkpoint.")
@click.argument("bundle", type=BundlePath())
@click.option("--against", "checkpoint", type=click.Path(path_type=Path), help="Checkpoint that it was exported from.")
@click.option(
    "--items", type=click.IntRange(1), default=4, show_default=True, help="Number of packaged questions of each mode."
)
@click.option("--report", "page", type=click.Path(path_type=Path), help="Write a report as an HTML page.")
@click.option(
    "--lora", "loras", multiple=True, metavar="NAME=DIR", help="PEFT folder of an adapter that was added; repeatable."
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    help="JSONL of questions instead of the packaged ones, see docs/verify.md.",
)
@click.option(
    "--reference",
    type=click.Choice(["exporter", "transformers"]),
    default="exporter",
    show_default=True,
    help="Float model: this exporter's, or also that of transformers (extra dev).",
)
@click.option(
    "--ram", type=Size(), help="Most memory to use, such as 2GB; checks that do not fit are left out, and named."
)
@click.option("-v", "--verbose", is_flag=True, help="Print every check with its numbers.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def verify_command(
    context: click.Context,
    bundle: Path,
    checkpoint: Path | None,
    items: int,
    page: Path | None,
    loras: tuple[str, ...],
    samples: Path | None,
    reference: str,
    ram: int | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Check the BUNDLE's hashes and, with --against, its graphs, tensors, logits and adapters.

    Exits with 1 when a check fails, after naming it; with 3 when all that fails is a loss: the bundle is the
    checkpoint's, and its bits cost more than half a nat a token. The float reference is built by this exporter,
    unless --reference transformers adds another implementation. Prints the result, what fails and what was left
    out; -v prints every check.
    """
    from palmtop.runtime.bundle.opening import check_hashes, open_bundle

    opened = open_bundle(bundle, hashes=False)
    check_hashes(opened)
    if checkpoint is None and reference != "exporter":
        raise InputError("a reference is compared with the checkpoint, expected --against CHECKPOINT")
    if checkpoint is None and samples is not None:
        raise InputError("samples are asked of bundle and checkpoint, expected --against CHECKPOINT")
    if checkpoint is None and page is not None:
        raise InputError("a report compares with the checkpoint, expected --against CHECKPOINT")
    if page is not None and (page.is_dir() or not page.parent.is_dir()):  # before minutes of work
        raise InputError(f"{page}: cannot be written, expected a file in a folder that exists")
    if checkpoint is None:
        if as_json:
            click.echo(json.dumps(_as_data(opened, None, [])))
        else:
            click.echo(f"{bundle}: {len(opened.manifest.files)} files have the right hash.")
        return
    from palmtop.export.checkpoint.opening import open_checkpoint

    from . import verify
    from .page.provenance import provenance

    def report(step: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"comparing {step} ...", err=True)

    folders = {name: Path(folder) for name, _, folder in (text.partition("=") for text in loras)}
    if foreign := [name for name in folders if opened.manifest.adapter(name) is None or not folders[name].is_dir()]:
        raise InputError(f"--lora {foreign[0]}: expected NAME=DIR with an adapter of the bundle and its PEFT folder")
    notes: list[str] = []
    quality = verify(
        opened,
        open_checkpoint(checkpoint),
        items=items,
        answers=page is not None,
        report=report,
        loras=folders,
        ram_bytes=ram,
        samples=samples,
        independent=reference == "transformers",
        on_note=notes.append,
    )
    for note in notes:
        click.echo(f"palmtop: warning: {note}", err=True)
    if page is not None:
        _write_report(page, opened, quality, provenance(opened, context))
    if as_json:
        click.echo(json.dumps(_as_data(opened, quality, notes)))
    else:
        _print(bundle, quality, is_verbose=verbose or bool(context.find_root().params.get("verbose")))
        if page is not None:
            click.echo(f"Report: {page}, its numbers: {page.with_suffix('.json')}")
    sys.exit(EXIT_CODES[quality.verdict])


def _as_data(bundle: Bundle, quality: Quality | None, notes: list[str]) -> dict[str, Any]:
    """Return a result as plain JSON types, with the same fields where only hashes were checked."""
    files = len(bundle.manifest.files)
    if quality is None:
        from .quality import Quality

        empty = Quality(checks=(), modes={}, adapters={}, tensors={}, skipped=(), seconds=0.0)
        quality_fields = {**empty.to_dict(), "summary": f"{files} files have the right hash"}
    else:
        quality_fields = quality.to_dict()
    return {"bundle": str(bundle.path), "files": files, **quality_fields, "notes": notes}


def _print(bundle: Path, quality: Quality, *, is_verbose: bool) -> None:
    """Print the result first, then what fails and what was left out; every check where it is asked for."""
    click.echo(f"{bundle}: {quality.summary}.")
    if quality.modes:
        losses = ", ".join(f"{mode} {found.mean_kl:.4f}" for mode, found in quality.modes.items())
        click.echo(f"KL in nats: {losses}.")
    for check in quality.checks:
        if is_verbose or not check.passed:
            click.echo(f"{_mark(check)}  {check.name}: {check.detail}")
    for reason in quality.skipped:
        click.echo(f"{click.style('skip', fg='yellow')}  {reason}")
    if not is_verbose:
        click.echo("Every check with its numbers: -v")


def _mark(check: Check) -> str:
    if check.passed:
        return click.style("ok  ", fg="green")
    return click.style("LOSS", fg="yellow") if check.is_loss else click.style("FAIL", fg="red")


def _write_report(page: Path, bundle: Bundle, quality: Quality, made: dict[str, str]) -> None:
    """Write the page, and its numbers beside it as in quality.json, with how they were made."""
    from palmtop.export.bundle.manifest_builder import PLAN_FILE

    from .page.report import render

    plan = json.loads(bundle.file(PLAN_FILE).read_text("utf-8")) if PLAN_FILE in bundle.manifest.files else None
    numbers = {"made": made, **quality.to_dict()}
    try:
        page.with_suffix(".json").write_text(json.dumps(numbers, indent=1), "utf-8")
        page.write_text(render(numbers, bundle.manifest.model, plan, quality.media), "utf-8")
    except OSError as error:
        raise InputError(f"{page}: cannot be written ({error.strerror}), expected a file in a folder") from error
