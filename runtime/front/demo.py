"""``palmtop demo``: the packaged reference model answers one question of each mode.

Part of the front door because it needs both the exporter and the runtime.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from palmtop import __version__
from palmtop.errors import BundleError, InputError
from palmtop.models import smollm2_file
from palmtop.runtime.bundle.manifest import SCHEMA
from palmtop.runtime.bundle.opening import open_bundle, sha256_of
from palmtop.runtime.commands.chat import talk
from palmtop.runtime.commands.flags import open_session, session_flags
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference import checkpoint_path, samples_path
from palmtop.runtime.session import SessionOptions

EXAMPLES = """
\b
Examples:
  palmtop demo
  palmtop demo --json
  palmtop demo --chat
  palmtop run "$(palmtop demo --where)" "words: 789. What is it?"
  palmtop export "$(palmtop demo --checkpoint)" -o reference-fp32 --bits 32
"""
OPTIONS = GenerationOptions(max_tokens=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One question of the demonstration with its answer."""

    mode: str
    question: str
    answer: str
    expected: str
    correct: bool
    adapters: dict[str, float]
    ttft_s: float
    tokens_per_s: float


@click.command("demo", epilog=EXAMPLES)
@click.option("--where", is_flag=True, help="Print the bundle's folder (exported if need be) and stop.")
@click.option("--checkpoint", is_flag=True, help="Print the packaged checkpoint's folder and stop.")
@click.option(
    "--chat", "chats", is_flag=True, help="Talk with SmolLM2-135M-Instruct, a real chat model (93 MB package)."
)
@session_flags
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: answers.")
def demo_command(where: bool, checkpoint: bool, chats: bool, loading: SessionOptions, as_json: bool) -> None:
    """Export the packaged model on first use, and ask it a text, an image, an audio and a mixed question.

    The packaged model answers short tasks on text, images and sounds; --chat starts a dialogue with a general chat
    model. Exit code 1 when an answer is wrong.
    """
    if as_json and (chats or checkpoint or where):
        raise InputError("--json: found beside --where, --checkpoint or --chat, expected it for the answers alone")
    if chats:
        talk(smollm2_file(), loading, GenerationOptions())
        return
    if checkpoint:
        click.echo(checkpoint_path())
        return
    bundle = demo_bundle()
    if where:
        click.echo(bundle)
        return
    shown = []
    with open_session(bundle, loading) as session:
        for sample in read_samples():
            reply = session.answer([sample.message], options=OPTIONS)
            result = Shown(
                mode=sample.mode,
                question=sample.text,
                answer=reply.text,
                expected=sample.expected,
                correct=reply.text.strip() == sample.expected.strip(),
                adapters=reply.adapters,
                ttft_s=reply.usage.ttft_s,
                tokens_per_s=reply.usage.tokens_per_s,
            )
            shown.append(result)
            if not as_json:
                _show(result, sample)
    if as_json:
        click.echo(json.dumps({"answers": [asdict(result) for result in shown]}))
    sys.exit(0 if all(result.correct for result in shown) else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A packaged question with its media and its expected answer."""

    mode: str
    text: str
    image: Path | None
    audio: Path | None
    expected: str

    @property
    def message(self) -> dict[str, Any]:
        """Return the question as a user message: image, sound, text."""
        parts: list[dict[str, str]] = []
        for kind, path in (("image", self.image), ("audio", self.audio)):
            if path is not None:
                parts.append({"type": kind, kind: str(path)})
        return {"role": "user", "content": [*parts, {"type": "text", "text": self.text}]}


def read_samples() -> Iterator[Sample]:
    """Return the packaged questions, one for each mode."""
    folder = samples_path()
    for entry in json.loads((folder / "samples.json").read_text("utf-8")):
        image, audio = entry.get("image"), entry.get("audio")
        yield Sample(
            mode=entry["mode"],
            text=entry["text"],
            image=folder / image if image else None,
            audio=folder / audio if audio else None,
            expected=entry["expected"],
        )


def demo_bundle() -> Path:
    """Return the folder of the exported reference model in the user's cache, exporting it if missing or damaged.

    Raises:
        InputError: the cache folder cannot be written.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palmtop" / "demo"
    prefix = f"reference-int4-{__version__}-"
    bundle = root / f"{prefix}schema{SCHEMA}-{_key()}"
    if bundle.exists():
        try:
            open_bundle(bundle)
        except BundleError as damage:
            click.echo(f"{damage}; exporting again", err=True)
        else:
            return bundle
    from palmtop.export.convert import export_model
    from palmtop.export.recipe import Recipe

    click.echo(f"exporting the packaged reference model to {bundle} (once)", err=True)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{root}: cannot be made ({error.strerror}); set XDG_CACHE_HOME to a writable folder"
        ) from error
    shutil.rmtree(bundle, ignore_errors=True)  # the cached bundle is damaged
    export_model(checkpoint_path(), bundle, Recipe(), verify=False)
    for stale in root.glob(f"{prefix}*"):
        if stale != bundle:  # of this version too, by other code or of another format
            shutil.rmtree(stale, ignore_errors=True)
    return bundle


def _key() -> str:
    """Changes when any file of the packaged checkpoint or of the exporter does."""
    from palmtop.export.bundle.journal import code_sha256

    digest = hashlib.sha256(code_sha256().encode())
    for path in sorted(checkpoint_path().rglob("*")):
        if path.is_file():
            digest.update(f"{path.name}:{sha256_of(path)}\n".encode())
    return digest.hexdigest()[:16]


def _show(result: Shown, sample: Sample) -> None:
    files = " ".join(str(path) for path in (sample.image, sample.audio) if path is not None)
    adapters = ", ".join(f"{name} {weight:g}" for name, weight in result.adapters.items()) or "none"
    click.secho(f"{result.mode}: {result.question} {files}", bold=True)
    verdict = "right" if result.correct else f"WRONG, expected: {result.expected}"
    click.secho(f"  {result.answer}  ({verdict})", fg="green" if result.correct else "red")
    click.secho(
        f"  adapter {adapters}; {result.ttft_s:.2f} s to the first token, then {result.tokens_per_s:.0f}/s",
        dim=True,
    )
