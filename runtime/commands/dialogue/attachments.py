"""Files that a user names in a dialogue: paths as terminals paste them, and one line about each attached file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from palmtop.errors import InputError, PalmtopError
from palmtop.runtime.processor.images.image_file import load_image
from palmtop.runtime.processor.images.image_header import read_header
from palmtop.runtime.processor.sounds.sound_file import BLOCK_SAMPLES, SILENCE
from palmtop.runtime.processor.sounds.stream import SoundStream

from .capture import Kind, Source

SOUND_ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".webm", ".aiff", ".aif")
LONG_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A picture or a sound that is attached to the next message.

    Attributes:
        kind: "image" or "audio".
        source: the file, or its bytes.
        about: one line for the user: name, size or length, and silence.
    """

    kind: Kind
    source: Source
    about: str


def typed_paths(text: str) -> list[Path]:
    """Return the files that a typed or pasted text names.

    The text is a path as it is, in quotes, with a backslash before special characters, or a file: address; several
    paths are separated by blanks.

    Raises:
        PalmtopError: there is no such file, or the name is not possible.
    """
    text = text.strip()
    for whole in (text, text[1:-1] if text[:1] == text[-1:] and text[:1] in ("'", '"') else ""):
        if (path := _existing(whole)) is not None:  # the name may hold blanks and quotation marks
            return [path]
    try:
        words = shlex.split(text)
    except ValueError:  # a quotation mark of the name itself
        words = [text]
    if os.name == "nt":  # a backslash separates folders there
        words = [word.strip("\"'") for word in shlex.split(text, posix=False)]
    found = [_existing(word) for word in words]
    for word, path in zip(words, found, strict=True):
        if path is None:
            raise PalmtopError(f"{word if len(words) > 1 else text}: no such file")
    return [path for path in found if path is not None]


def unquoted(text: str) -> str:
    """Return one path as a terminal pastes it without its quotation marks and backslashes."""
    text = text.strip()
    try:
        words = shlex.split(text) if os.name != "nt" else [text.strip("\"'")]
    except ValueError:
        return text
    return words[0] if len(words) == 1 else text


def attach(kind: Kind, source: Source, name: str = "") -> Attachment:
    """Return an attachment after a look at it.

    Args:
        kind: "image" or "audio".
        source: the file, or its bytes.
        name: name to show; by default the file's.

    Raises:
        InputError: the file is not a picture or a sound.
    """
    name = name or (source.name if isinstance(source, Path) else "data")
    about = _about_image(source, name) if kind == "image" else _about_sound(source, name)
    return Attachment(kind=kind, source=source, about=about)


def kind_of_file(path: Path) -> Kind:
    """Return the kind of a file that was dropped on the terminal, by its name."""
    return "audio" if path.suffix.lower() in SOUND_ENDINGS else "image"


def _about_image(source: Source, name: str) -> str:
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise InputError(f"{source!s}: {error.strerror or error}, expected an image") from error
    header = read_header(data, name if isinstance(source, bytes) else str(source))
    height, width = load_image(data).shape[:2]  # decoded now, so that a damaged file is refused here
    return f"{name}: {header.format} picture, {width} x {height}"


def _about_sound(source: Source, name: str) -> str:
    samples, loudest = 0, 0.0
    with SoundStream(source, name if isinstance(source, bytes) else str(source)) as stream:
        while len(block := stream.read(BLOCK_SAMPLES)):
            samples += len(block)
            loudest = max(loudest, float(np.abs(block).max()))
        rate = stream.rate_hz
    silent = ", silent" if loudest < SILENCE else ""
    return f"{name}: sound, {_length(samples / rate)}{silent}"


def _length(seconds: float) -> str:
    if seconds < LONG_S:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _existing(text: str) -> Path | None:
    try:
        if text.startswith("file://"):
            text = unquote(urlsplit(text).path)
        path = Path(text).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError) as error:  # too long; no such home; half a surrogate pair
        raise PalmtopError(f"{text:.80}: is not a file ({error!s:.80})") from error


def completions(line: str, commands: tuple[str, ...], taking_files: tuple[str, ...]) -> Iterator[str]:
    """Yield the ways to complete a line: a command, or the path behind a command that takes one."""
    name, blank, start = line.partition(" ")
    if not blank:
        for command in commands:
            if command.startswith(name):
                yield command + (" " if command in taking_files else "")
        return
    if name not in taking_files:
        return
    quote = start[:1] if start[:1] in ("'", '"') else ""
    typed = start[len(quote) :]
    head, _, tail = typed.rpartition("/")
    folder = Path(head + "/" if "/" in typed else ".").expanduser()
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(tail) and (tail.startswith(".") or not entry.name.startswith(".")):
            path = f"{head}/{entry.name}" if "/" in typed else entry.name
            yield f"{name} {quote}{path}{'/' if entry.is_dir() else quote}"
