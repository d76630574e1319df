"""``palmtop transcribe``: text with times from a recording of any length."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.session import SessionOptions
from palmtop.runtime.transcribe import PROMPT, WINDOW_S, Segment, transcribe

from .flags import bundle_argument, generation_flags, open_session, session_flags
from .progress import progress_bar

EXAMPLES = """
\b
Examples:
  palmtop transcribe phi4mm-int4 lecture.mp3
  palmtop transcribe phi4mm-int4 lecture.mp3 --srt > lecture.srt
  palmtop transcribe phi4mm-int4 lecture.mp3 --window 20 --json
"""


@click.command("transcribe", epilog=EXAMPLES, short_help="Transcribe a long recording.")
@bundle_argument
@click.argument("sound", type=click.Path(path_type=Path))
@click.option("--window", "window_s", type=float, default=WINDOW_S, show_default=True, help="Longest part, seconds.")
@click.option("--prompt", default=PROMPT, show_default=True, help="Prompt for each part.")
@click.option("--srt", is_flag=True, help="Print subtitles (SubRip).")
@generation_flags
@session_flags
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: text, duration_s, segments.")
def transcribe_command(
    bundle: Path,
    sound: Path,
    window_s: float,
    prompt: str,
    srt: bool,
    options: GenerationOptions,
    loading: SessionOptions,
    as_json: bool,
) -> None:
    """Transcribe the recording SOUND with the BUNDLE, part by part; memory does not grow with its length.

    A part ends where it is quiet. Parts that were cut by --max-tokens are reported on standard error.
    """
    with open_session(bundle, loading) as session, progress_bar(sound.name, shown=not sys.stdout.isatty()) as progress:
        parts = transcribe(session, sound, prompt=prompt, window_s=window_s, options=options)
        done: list[Segment] = []
        for number, part in enumerate(parts, 1):
            done.append(part)
            if as_json:
                pass  # one object, at the end
            elif srt:
                click.echo(f"{number}\n{_time(part.start_s, ',')} --> {_time(part.end_s, ',')}\n{part.text}\n")
            else:
                click.echo(f"[{_time(part.start_s, '.')} - {_time(part.end_s, '.')}] {part.text}")
            sys.stdout.flush()
            if part.reply.ended_by in ("max_tokens", "context_full", "timeout"):
                click.echo(f"part {number} was cut short by {part.reply.ended_by}", err=True)
            if progress is not None:
                progress(part.end_s, part.total_s)
    if as_json:
        text = " ".join(part.text for part in done)
        length_s = round(done[-1].end_s, 3) if done else 0.0
        click.echo(json.dumps({"text": text, "duration_s": length_s, "segments": [part.to_dict() for part in done]}))


def _time(seconds: float, mark: str) -> str:
    """Format seconds as hours, minutes, seconds and thousandths.

    >>> _time(3723.5, ",")
    '01:02:03,500'
    """
    thousandths = round(seconds * 1000)
    whole = thousandths // 1000
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{thousandths % 1000:03}"
