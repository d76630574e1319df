"""``palmtop run``: one question and its streamed answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from palmtop.errors import InputError
from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.chat.routing import Wanted
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.session import SessionOptions

from .dialogue.capture import Source, captured
from .flags import adapter_flag, bundle_argument, generation_flags, open_session, session_flags
from .showing import PieceWriter, cut_note, thinking_flag
from .typed_text import clean, clean_option, read_standard_input

EXAMPLES = """
\b
Examples:
  palmtop run phi4mm-int4 "Why is the sky blue?"
  palmtop run phi4mm-int4 "What is in the picture?" --image cat.jpg
  palmtop run phi4mm-int4 "Transcribe." --audio talk.wav --max-tokens 512
  palmtop run phi4mm-int4 "Answer." --image chart.png --audio question.wav
  palmtop run phi4mm-int4 "Read it." --image receipt.jpg --schema receipt.json
  palmtop run phi4mm-int4 "Hello" --adapter vision=0.5 --json
  cat letter.txt | palmtop run phi4mm-int4 -
  cat cat.jpg | palmtop run phi4mm-int4 "What is this?" --image -
  palmtop run phi4mm-int4 "What is this?" --image clipboard
  palmtop run phi4mm-int4 "Transcribe." --audio mic
  palmtop run SmolLM2-135M-Instruct.Q4_1.gguf "Why is the sky blue?"
"""

UNFINISHED_EXIT = 3


@click.command("run", epilog=EXAMPLES, short_help="Ask a bundle one question.")
@bundle_argument
@click.argument("prompt")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture: a file, - for standard input, or clipboard; repeatable.",
)
@click.option(
    "--audio",
    "sounds",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A sound: a file, - for standard input, mic until Enter, or mic:SECONDS; repeatable.",
)
@click.option("--system", callback=clean_option, help="System message.")
@adapter_flag
@generation_flags
@session_flags
@thinking_flag
@click.option("--json", "as_json", is_flag=True, help="Print the whole reply as JSON, with usage and timings.")
def run_command(
    bundle: Path,
    prompt: str,
    images: tuple[Path, ...],
    sounds: tuple[Path, ...],
    system: str | None,
    adapters: Wanted,
    options: GenerationOptions,
    loading: SessionOptions,
    hide_thinking: bool,
    as_json: bool,
) -> None:
    """Ask the BUNDLE one question; PROMPT "-" reads it from standard input.

    A GGUF file or a checkpoint folder in the bundle's place is exported into the user's cache on first use, to INT4,
    or to INT8 below 1 billion weights.
    The bundle's routing table selects the adapters (see: palmtop inspect). Exit code 3 when the answer was cut before
    its grammar was complete, or during thinking.
    """
    if [prompt, *map(str, (*images, *sounds))].count("-") > 1:
        raise InputError("found - more than once, expected standard input to be one of prompt, picture and sound")
    text = read_standard_input() if prompt == "-" else clean(prompt)
    messages = [] if system is None else [{"role": "system", "content": system}]
    content = user_content(text, [captured(p, "image") for p in images], [captured(p, "audio") for p in sounds])
    messages.append({"role": "user", "content": content})
    reply: Reply | None = None
    writer = PieceWriter(hide_thinking=hide_thinking)
    with open_session(bundle, loading) as session:
        try:
            for piece in session.chat(messages, adapters=adapters, options=options):
                reply = piece.reply or reply
                if not as_json:
                    writer.write(piece)
        finally:
            if not as_json and reply is not None and (writer.has_written or reply.unfinished is None):
                click.echo()
    assert reply is not None  # the last piece always has the reply
    if as_json:
        click.echo(json.dumps(reply.to_dict()))
    elif sys.stderr.isatty():
        click.secho(summary(reply), err=True, dim=True)
    if note := cut_note(reply):
        click.echo(note, err=True)
    if reply.unfinished is not None:
        sys.exit(UNFINISHED_EXIT)


def user_content(text: str, images: Sequence[Source], sounds: Sequence[Source]) -> Any:
    """Return one user message: images, sounds, then the text.

    Raises:
        InputError: the message is empty.
    """
    if not text.strip() and not images and not sounds:
        raise InputError("the prompt is empty, expected text, an image or a sound")
    parts: list[dict[str, Any]] = [{"type": "image", "image": _content(source)} for source in images]
    parts += [{"type": "audio", "audio": _content(source)} for source in sounds]
    return [*parts, {"type": "text", "text": text}] if parts else text


def _content(source: Source) -> str | bytes:
    return source if isinstance(source, bytes) else str(source)


def summary(reply: Reply) -> str:
    """Return usage and timings of an answer in one line."""
    usage = reply.usage
    adapters = ", ".join(f"{name} {weight:g}" for name, weight in reply.adapters.items()) or "no adapter"
    line = (
        f"[{reply.mode}, {adapters}; {usage.prompt_tokens} tokens ({usage.cached_tokens} cached), "
        f"first in {usage.ttft_s:.2f} s, then {usage.completion_tokens} at {usage.tokens_per_s:.1f}/s"
    )
    if usage.drafted_tokens:
        line += f"; {usage.accepted_tokens} of {usage.drafted_tokens} draft tokens accepted"
    if usage.trimmed_messages:
        line += f"; {usage.trimmed_messages} oldest messages left out"
    if usage.reprefilled is not None:
        line += f"; read again: {usage.reprefilled}"
    return line + "]"
