"""Pictures from the clipboard and sounds from the microphone, read by programs of the system."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Literal, cast

import click

from palmtop.errors import InputError
from palmtop.runtime.commands.typed_text import read_standard_bytes

Kind = Literal["image", "audio"]
Source = Path | bytes
"""A picture or a sound: a file, or the bytes of one."""
CLIPBOARD, MICROPHONE = "clipboard", "mic"
SYSTEM = sys.platform if sys.platform in ("darwin", "win32") else "linux"  # others have the programs of Linux, if any
CLIPBOARD_S = 10.0  # a program that owns the clipboard may not answer
RATE_HZ, SAMPLE_BYTES = 16_000, 2
LONGEST_S = 600.0  # what is recorded beyond it is cut off
STARTED_S = 0.3  # a program that finds no microphone ends at once
_POWERSHELL = (
    "Add-Type -AssemblyName System.Windows.Forms,System.Drawing; "
    "$i = [System.Windows.Forms.Clipboard]::GetImage(); if ($i -eq $null) { exit 1 }; "
    "$m = New-Object System.IO.MemoryStream; $i.Save($m, [System.Drawing.Imaging.ImageFormat]::Png); "
    "[Console]::OpenStandardOutput().Write($m.ToArray(), 0, $m.Length)"
)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that writes the clipboard's picture as PNG, or samples of 16 bits, to standard output.

    Attributes:
        command: its command line.
        systems: systems where it is tried; empty for all.
        variable: environment variable without which it cannot work; "" for none.
    """

    command: Sequence[str]
    systems: tuple[str, ...] = ()
    variable: str = ""

    @property
    def name(self) -> str:
        """Name of the program."""
        return self.command[0]

    @property
    def is_meant_here(self) -> bool:
        """Whether it is tried on this system."""
        return not self.systems or SYSTEM in self.systems


_OF_WINDOWS = ("-NoProfile", "-STA", "-Command", _POWERSHELL)
CLIPBOARDS = (
    Program(("wl-paste", "--no-newline", "--type", "image/png"), ("linux",), "WAYLAND_DISPLAY"),
    Program(("xclip", "-selection", "clipboard", "-t", "image/png", "-o"), ("linux",), "DISPLAY"),
    Program(("powershell.exe", *_OF_WINDOWS), ("linux", "win32")),  # from Linux: that of Windows below it
    Program(("pngpaste", "-"), ("darwin",)),
)
MICROPHONES = (
    Program(("arecord", "-q", "-t", "raw", "-f", "S16_LE", "-r", str(RATE_HZ), "-c", "1"), ("linux",)),
    Program(("parec", "--raw", "--format=s16le", f"--rate={RATE_HZ}", "--channels=1"), ("linux",)),
    Program(("rec", "-q", "-t", "raw", "-e", "signed", "-b", "16", "-L", "-r", str(RATE_HZ), "-c", "1", "-")),
)


def captured(path: Path, kind: Kind) -> Source:
    """Return the picture or the sound that a flag names.

    ``-`` is standard input, ``clipboard`` the picture of the clipboard, ``mic`` a recording until Enter and
    ``mic:SECONDS`` one of that length, unless there is a file of that name; anything else is a file.

    Raises:
        InputError: there is no picture or no sound, or no program to read it with.
    """
    name = str(path)
    if name == "-":
        return read_standard_bytes()
    if is_captured(name, kind):
        return clipboard_picture() if name == CLIPBOARD else recording(_seconds(name))
    return path


def is_captured(name: str, kind: Kind) -> bool:
    """Return whether a name stands for the clipboard's picture or for the microphone, and not for a file."""
    is_meant = name == CLIPBOARD if kind == "image" else name == MICROPHONE or name.startswith(f"{MICROPHONE}:")
    return is_meant and not os.path.exists(name)


def clipboard_picture() -> bytes:
    """Return the picture of the clipboard.

    Raises:
        InputError: it holds no picture, or no program is installed that reads it.
    """
    program = _installed(CLIPBOARDS, CLIPBOARD)
    assert program is not None
    try:
        done = subprocess.run(program.command, capture_output=True, timeout=CLIPBOARD_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"clipboard: {program.name} gave nothing for {CLIPBOARD_S:g} s, expected a copied picture"
        ) from error
    except OSError as error:
        raise InputError(f"clipboard: {program.name} cannot be run ({error.strerror})") from error
    if done.returncode or not done.stdout:
        raise InputError(f"clipboard: holds no picture{_told(program, done.stderr)}, expected a copied picture")
    return done.stdout


def recording(seconds: float | None) -> bytes:
    """Return a recording of the microphone as a WAV file, one channel of 16 kHz.

    Args:
        seconds: its length; None for until Enter is pressed, at most ten minutes.

    Raises:
        InputError: nothing can be recorded with, nothing was recorded, or standard input is no terminal to press
            Enter at.
    """
    if seconds is None and not (sys.stdin is not None and sys.stdin.isatty()):
        raise InputError("mic: standard input is no terminal to press Enter at, expected mic:SECONDS")
    package = None
    if (program := _installed(MICROPHONES, MICROPHONE, needed=False)) is None and (package := _sounddevice()) is None:
        _installed(MICROPHONES, MICROPHONE, more=", nor the Python package sounddevice")
    samples = _by_program(program, seconds) if program is not None else _by_package(package, seconds)
    file = io.BytesIO()
    with wave.open(file, "wb") as writing:
        writing.setnchannels(1)
        writing.setsampwidth(SAMPLE_BYTES)
        writing.setframerate(RATE_HZ)
        longest = int(LONGEST_S * RATE_HZ) * SAMPLE_BYTES
        writing.writeframes(samples[: min(longest, len(samples) // SAMPLE_BYTES * SAMPLE_BYTES)])
    return file.getvalue()


def _seconds(name: str) -> float | None:
    if name == MICROPHONE:
        return None
    text = name.partition(":")[2]
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= LONGEST_S:
        raise InputError(f"mic: found {text[:40]!r} behind the colon, expected 0.1 to {LONGEST_S:g} seconds")
    return seconds


def _installed(programs: Sequence[Program], what: str, *, more: str = "", needed: bool = True) -> Program | None:
    """Return the first program that is installed; None where none is and none is needed."""
    meant = [program for program in programs if program.is_meant_here]
    for program in meant:
        if shutil.which(program.name) and (not program.variable or os.environ.get(program.variable)):
            return program
    if not needed:
        return None
    names = ", ".join(f"{p.name} (with {p.variable} set)" if p.variable else p.name for p in meant) or "no program"
    raise InputError(f"{what}: found none of {names} on PATH{more}, expected one of them, or a file")


def _by_program(program: Program, seconds: float | None) -> bytes:
    """Return the samples that a program records; it is ended when the recording is."""
    blocks: list[bytes] = []
    try:
        process = subprocess.Popen(
            program.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise InputError(f"mic: {program.name} cannot be run ({error.strerror})") from error
    output, errors = cast(io.BufferedReader, process.stdout), cast(io.BufferedReader, process.stderr)
    reading = threading.Thread(target=lambda: blocks.extend(iter(lambda: output.read1(1 << 16), b"")), daemon=True)
    reading.start()
    try:
        _wait(seconds, lambda: process.poll() is not None)
    finally:
        process.terminate()
        process.wait()
        reading.join()
        told = errors.read()
        output.close()
        errors.close()
    samples = b"".join(blocks)
    if not samples:
        raise InputError(f"mic: nothing was recorded{_told(program, told)}, expected a microphone")
    return samples


def _sounddevice() -> Any:
    """Return the package sounddevice; None where it, or the library that it needs, is not installed."""
    try:
        import sounddevice
    except (ImportError, OSError):
        return None
    return sounddevice


def _by_package(package: Any, seconds: float | None) -> bytes:
    """Return the samples that the package sounddevice records."""
    blocks: list[bytes] = []
    options = {"samplerate": RATE_HZ, "channels": 1, "dtype": "int16"}
    try:
        with package.RawInputStream(callback=lambda samples, *_: blocks.append(bytes(samples)), **options):
            _wait(seconds, lambda: False)
    except Exception as error:  # the package's errors have no base class that is known without it
        raise InputError(f"mic: nothing was recorded (sounddevice: {error!s:.120}), expected a microphone") from error
    return b"".join(blocks)


def _wait(seconds: float | None, has_ended: Callable[[], bool]) -> None:
    """Wait for the end of a recording: its length, Enter, or the end of the program."""
    if seconds is None:
        sleep(STARTED_S)
        if not has_ended():
            click.secho("recording; Enter ends it", err=True, dim=True)
            sys.stdin.readline()
        return
    ends = monotonic() + seconds
    while not has_ended() and (left := ends - monotonic()) > 0:
        sleep(min(left, 0.05))


def _told(program: Program, errors: bytes) -> str:
    lines = errors.decode(errors="replace").split("\n")
    told = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f" ({program.name}: {told:.120})" if told else f" ({program.name})"
