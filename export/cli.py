"""``palmtop export``: turns arguments into a Recipe and shows progress on stderr. No conversion logic."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from palmtop.errors import InputError
from palmtop.runtime.memory.size_option import Size

from .recipe import Recipe

if TYPE_CHECKING:
    from palmtop.export.cost.estimate import Cost
    from palmtop.export.mixed_precision.allocation import BitAllocation
    from palmtop.export.mixed_precision.budget import Request

LONG_S = 60  # seconds of planning above which its cost is stated first

EXAMPLES = """
\b
Examples:
  palmtop export Phi-4-multimodal-instruct -o phi4mm-int4
  palmtop export Phi-4-multimodal-instruct -o phi4mm-int4 --context 4096 \\
      --set group=128
  palmtop export Phi-4-multimodal-instruct -o phi4mm-best --quality best
  palmtop export microsoft/Phi-4-multimodal-instruct    # downloaded first
  palmtop export my-finetune -o vision-only --adapters merge=vision
  palmtop export Phi-4-multimodal-instruct -o phi4mm-int4 --ram 2GB
  palmtop export my-finetune -o parity --bits 32    # float32, to compare
  palmtop export Phi-4-mini-Q8_0.gguf -o mini-int4  # rounded again
  palmtop export Phi-4-multimodal-instruct -o long --kv 8 --context 32768
  palmtop export Phi-4-multimodal-instruct --size 2.2GB --speed 12 --plan
  palmtop export Phi-4-multimodal-instruct -o phone --size 2.2GB \\
      --save-plan plan.json
  palmtop export Phi-4-multimodal-instruct -o again --plan-file plan.json
  palmtop export my-finetune -o phone --target qnn --set soc=sm8650,sm8750
  palmtop export my-finetune -o laptop --set speculation=true
  palmtop export --list              # model types, and what is refused

\b
Keys of a recipe beside the options above (docs/recipe.md): method, group,
symmetric, scale_bits, head_bits, encoder_bits, accuracy_level, speculation,
draft_rows, soc, target_context, chunk.
"""


@click.command("export", epilog=EXAMPLES, short_help="Turn a checkpoint into a bundle.")
@click.argument("checkpoint", metavar="CHECKPOINT", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Bundle folder to write (default for OWNER/NAME: its name in the models folder, see: palmtop list).",
)
@click.option("--quality", help="fast, balanced (default) or best: best calibrates, layer after layer, for hours.")
@click.option(
    "--size", type=Size(), help="Choose bits and group of every tensor for the best bundle of this size, e.g. 2.2GB."
)
@click.option("--loss", type=float, help="The same, for the smallest bundle of this mean KL divergence, in nats.")
@click.option("--speed", type=float, help="The same, with at least this many tokens/s in the decoder's matrices.")
@click.option("--bits", type=int, help="Decoder and adapters: 4 (default), 8, or 32 for float32.")
@click.option("--adapters", help="gated (default: switchable), none, or merge=NAME[=W][,NAME[=W]] into the base.")
@click.option("--context", type=int, help="Longest sequence to serve (default 8192, or what the model serves if less).")
@click.option("--kv", type=int, help="Bits of the KV cache: 32 (default), 8 or 4; 8 and 4 are calibrated first.")
@click.option("--target", help="Graphs of fixed shapes beside the bundle's own, for a provider: openvino, qnn.")
@click.option("--calibrate", "samples", type=click.Path(path_type=Path), help="JSONL samples instead of packaged ones.")
@click.option("--recipe", "recipe_file", type=click.Path(path_type=Path), help="TOML file of these and more choices.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One key of a recipe, e.g. group=128.")
@click.option("--plan", "only_plan", is_flag=True, help="Show the plan for --size, --loss or --speed; export nothing.")
@click.option(
    "--save-plan", type=click.Path(path_type=Path), help="Write the plan to a file that can be edited and replayed."
)
@click.option("--plan-file", type=click.Path(path_type=Path), help="Replay a plan.")
@click.option(
    "--ram",
    type=Size(),
    help="Most memory to use, such as 2GB (default: what the estimate says).",
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: every core.")
@click.option("--force", is_flag=True, help="Replace the output folder if it is a bundle.")
@click.option(
    "--verify/--no-verify", default=True, help="Compare the bundle with the checkpoint (default); see quality.json."
)
@click.option("--list", "lists", is_flag=True, help="Print the architectures that are exported, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export_command(
    checkpoint: Path | None,
    output: Path | None,
    size: int | None,
    loss: float | None,
    speed: float | None,
    only_plan: bool,
    save_plan: Path | None,
    plan_file: Path | None,
    samples: Path | None,
    recipe_file: Path | None,
    ram: int | None,
    threads: int | None,
    force: bool,
    verify: bool,
    lists: bool,
    as_json: bool,
    settings: tuple[str, ...],
    **options: Any,
) -> None:
    """Turn the CHECKPOINT, a folder (config.json, safetensors, tokenizer) or a GGUF file, into one INT4 ONNX bundle.

    OWNER/NAME is a repository of the Hugging Face hub: the files that are read are downloaded into the hub's cache.
    Needs no torch, and reads a few rows of a tensor at a time. The bundle appears whole or not at all. After an
    interruption or a kill, the same command continues where it stopped. Time, memory and disk are estimated first,
    on stderr. Most time and memory goes to the comparison with the checkpoint, a few layers of float32 at a time:
    3.8 GB and 40 minutes on 2 busy cores for 5.6 billion weights; 0.2 GB and 2 minutes with --no-verify.
    """
    from palmtop.export.bundle.manifest_builder import QUALITY_FILE
    from palmtop.export.checkpoint.hub import repository_of
    from palmtop.export.mixed_precision.allocation_table import plan_lines
    from palmtop.runtime.bundle.named_bundles import make_folder, models_folder
    from palmtop.runtime.memory.machine import peak_rss_bytes

    from .convert import export_model, make_plan

    if lists:
        from .listing import as_json as listed
        from .listing import as_text

        click.echo(json.dumps({"architectures": listed()}, indent=2) if as_json else as_text())
        return
    if checkpoint is None:
        raise InputError("no checkpoint is given, expected a folder or a GGUF file")
    recipe = Recipe() if recipe_file is None else Recipe.from_toml(recipe_file)
    recipe = recipe.changed({k: v for k, v in options.items() if v is not None} | _settings(settings, options))
    recipe.refuse_unused()
    request = _request(recipe, size, loss, speed, plan_file, samples)
    if request is None and (only_plan or save_plan is not None):
        raise InputError("there is nothing to plan, expected --size, --loss, --speed or --plan-file")

    if (repository := repository_of(checkpoint)) is not None:
        output = output or models_folder() / repository.partition("@")[0].rpartition("/")[2]
        checkpoint = _downloaded(repository, quiet=as_json or not sys.stderr.isatty())
        make_folder(output.parent)

    def show(plan: BitAllocation) -> None:
        if save_plan is not None:
            plan.write(save_plan)
        if only_plan and as_json:
            click.echo(json.dumps({**plan.to_dict(), "decode_s": plan.decode_s}))
        elif not as_json and (only_plan or save_plan is not None):
            click.echo("\n".join(plan_lines(plan)))

    if only_plan and request is not None:
        show(make_plan(checkpoint, recipe, request, _tell_step, ram, _tell_long_plan))
        return
    if output is None:
        raise InputError("no output folder is given, expected -o BUNDLE")
    started, notes, targets = time.perf_counter(), list[str](), list[str]()
    costs: list[Cost] = []

    def tell_cost(cost: Cost) -> None:
        costs.append(cost)
        click.echo(f"palmtop: {cost.sentence()}", err=True)

    with cleaned_up_when_terminated(), ProgressBar(quiet=as_json or not sys.stderr.isatty()) as report:
        export_model(
            checkpoint,
            output,
            recipe,
            overwrite=force,
            verify=verify,
            request=request,
            on_plan=show,
            on_note=notes.append,
            on_target=targets.append,
            on_cost=tell_cost,
            progress=report,
            ram_bytes=ram,
            threads=threads,
        )
    seconds = time.perf_counter() - started
    manifest = json.loads((output / "bundle.json").read_text("utf-8"))
    size_bytes = sum(f["size_bytes"] for f in manifest["files"].values())
    peak_rss = peak_rss_bytes()
    quality = json.loads((output / QUALITY_FILE).read_text("utf-8")) if verify else None
    for note in notes:
        click.echo(f"palmtop: warning: {note}", err=True)
    for reason in quality["skipped"] if quality else ():
        click.echo(f"palmtop: warning: not measured: {reason}", err=True)
    for check in quality["checks"] if quality else ():
        if not check["passed"]:  # a loss: a wrong bundle is not kept
            click.echo(f"palmtop: warning: the bundle is lossy: {check['name']}: {check['detail']}", err=True)
    if as_json:
        result = {
            "bundle": str(output),
            "size_bytes": size_bytes,
            "seconds": round(seconds, 2),
            "peak_rss_bytes": peak_rss,
            "parts": manifest["parts"],
            "verdict": None if quality is None else quality["verdict"],
            "checks_passed": None if quality is None else [c["name"] for c in quality["checks"] if c["passed"]],
            "skipped": None if quality is None else quality["skipped"],
            "cost": costs[0].to_dict(),
            "notes": notes,
            "targets": targets,
        }
        click.echo(json.dumps(result))
        return
    memory = "" if peak_rss is None else f", peak memory {peak_rss / 1e6:.0f} MB"
    click.echo(
        f"{output}: {size_bytes / 1e6:.1f} MB in {seconds:.1f} s{memory}. Look inside with: palmtop inspect {output}"
    )
    for target in targets:
        click.echo(target.replace("BUNDLE", str(output)))
    if quality is not None:
        click.echo(_measured(quality))


def _settings(settings: tuple[str, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """Parse keys of a recipe from ``--set``: values are TOML's, a bare word is text.

    Raises:
        InputError: the text is not KEY=VALUE, or another option has given the key.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        name = key.strip().replace("-", "_")
        if not equals or not name:
            raise InputError(f"--set is '{setting:.60}', expected KEY=VALUE such as group=128")
        if name in found or options.get(name) is not None:
            raise InputError(f"'{name}' is set twice, expected it once")
        try:
            found[name] = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, KeyError, RecursionError):
            found[name] = text.strip()
    return found


def _request(
    recipe: Recipe,
    size: int | None,
    loss: float | None,
    speed: float | None,
    plan_file: Path | None,
    samples: Path | None,
) -> Request | None:
    """Return the plan request of the options; None without one."""
    from palmtop.export.mixed_precision.allocation import BitAllocation
    from palmtop.export.mixed_precision.budget import Request

    from .recipe import CALIBRATED

    is_used = any(asked is not None for asked in (size, loss, speed, plan_file)) or recipe.kv != 32
    if samples is not None and not is_used and recipe.method not in CALIBRATED:
        methods = ", ".join(CALIBRATED)
        raise InputError(
            f"samples are given and method is '{recipe.method}', expected one of {methods}, or --kv 8 or 4"
        )
    if all(asked is None for asked in (size, loss, speed, plan_file, samples)):
        return None
    return Request(
        size_bytes=size,
        loss=loss,
        speed=speed,
        plan=None if plan_file is None else BitAllocation.read(plan_file),
        samples=samples,
    )


def _downloaded(repository: str, *, quiet: bool) -> Path:
    """Return the folder of a repository's files; their size and licence are said before they are downloaded."""
    from palmtop.export.checkpoint.hub import fetch, look_up

    found = look_up(repository)
    click.echo(f"palmtop: {found}", err=True)
    return fetch(found, quiet=quiet)


def _tell_step(step: str) -> None:
    if sys.stderr.isatty():
        click.echo(step, err=True)


def _tell_long_plan(cost: Cost) -> None:
    """Say what planning costs, where that is more than a minute."""
    if cost.prepare_s > LONG_S:
        click.echo(f"palmtop: {cost.sentence()}", err=True)


def _measured(quality: dict[str, Any]) -> str:
    """Return one line about the comparison with the checkpoint; a wrong bundle does not get here."""
    passed = sum(check["passed"] for check in quality["checks"])
    of = "" if passed == len(quality["checks"]) else f" of {len(quality['checks'])}"
    counts = [f"{passed}{of} checks passed", f"{len(quality['tensors'])} tensors"]
    if quality["modes"]:
        counts.append("logits: " + ", ".join(f"{mode} {_loss(quality, mode)}" for mode in quality["modes"]))
    if quality["adapters"]:
        counts.append(f"adapters {', '.join(quality['adapters'])}")
    if quality["kv_cache"]:
        counts.append(_cache_cost(quality["kv_cache"]))
    return f"Compared with the checkpoint: {'; '.join(counts)} (numbers in quality.json)"


def _loss(quality: dict[str, Any], mode: str) -> str:
    """Return the loss of a mode, of weights and of activations."""
    found, parts = quality["modes"][mode], quality["losses"].get(mode)
    apart = f" = weights {parts['weights']:.4f}, activations {parts['activations']:.4f}" if parts else ""
    return f"KL {found['mean_kl']:.4f}{apart}, {found['top1']:.0%} same top"


def _cache_cost(loss: dict[str, Any]) -> str:
    """Return the loss of a quantised KV cache, and the time of its measurement."""
    rows = [(mode, each) for mode, each in loss["modes"].items()]
    rows += [(f"text of {each['tokens']} tokens", each) for each in loss["by_length"][-1:]]
    shown = ", ".join(f"{name} KL {each['mean_kl']:.4f} and {each['top1']:.0%} same top" for name, each in rows)
    return f"KV cache of {loss['bits']} bits against float32 ({shown}; measured in {loss['seconds']:.0f} s)"


@contextmanager
def cleaned_up_when_terminated() -> Iterator[None]:
    """End the block with an exception on SIGTERM, so that no incomplete bundle remains."""
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield
        return

    def leave(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the cleaning up
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class ProgressBar:
    """Progress bar over the checkpoint's bytes, with time left and memory in use."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def __enter__(self) -> Any:
        if self._quiet:
            return None
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        from palmtop.runtime.memory.machine import rss_bytes

        self._bar = Progress(
            TextColumn("[progress.description]{task.description:28.28}", table_column=Column(no_wrap=True)),
            BarColumn(10),
            DownloadColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rss]}", table_column=Column(no_wrap=True)),
            console=Console(stderr=True),
            transient=True,
        )
        task = self._bar.add_task("reading", total=None, rss="", tensors=0)

        def report(progress: Any) -> None:
            if not self._bar.live.is_started:  # sentences that are said before stand on lines of their own
                self._bar.start()
            rss = rss_bytes()
            self._bar.update(
                task,
                description=progress.step,
                completed=progress.done_bytes,
                total=progress.total_bytes,
                tensors=progress.tensors,
                rss="" if rss is None else f"{rss / 1e6:,.0f} MB",
            )

        return report

    def __exit__(self, *_: object) -> None:
        if not self._quiet:
            self._bar.stop()
