"""Screens of the command line on a terminal of 80 columns, and their golden texts.

Write them again with ``python -m tests.front.screens --write [NAME...]``, and look at the difference.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import urllib.request
from pathlib import Path

from palmtop.export.convert import export_model
from palmtop.runtime.commands.bench import BUSY_NOTE
from palmtop.runtime.reference import checkpoint_path, samples_path

GOLDEN = Path(__file__).parent / "screens"
COLUMNS = 80
SCREENS = {  # name of the golden text: arguments
    "help": ["--help"],
    "inspect": ["inspect", "BUNDLE"],
    "adapters": ["adapter", "list", "BUNDLE"],
    "bench": ["bench", "BUNDLE", "--repeat", "1", "--prompt-tokens", "20", "--answer-tokens", "2", "--mode", "image"],
    "evaluate": ["evaluate", "BUNDLE", "--task", "image", "--items", "2"],
    "run": ["run", "BUNDLE", "What is it?", "--image", "IMAGE"],
    "cut": ["run", "BUNDLE", "What is it?", "--max-tokens", "1"],
    "transcribe": ["transcribe", "BUNDLE", "SOUND"],
    "list": ["list"],
    "verify": ["verify", "BUNDLE"],
    "chat": ["chat", "BUNDLE"],
    "demo": ["demo"],
    "batch": ["batch", "REQUESTS", "-o", "ANSWERS", "--model", "BUNDLE"],
    "serve": ["serve", "BUNDLE", "--port", "0"],
    "adapter": ["adapter", "add", "COPY", "ADAPTER"],
    "remove": ["remove", "SPARE", "--yes"],
    "config": ["config"],
    "mistake": ["run", "BUNDLE", "What is it?", "--temperature", "-1"],
}
OF_THE_MACHINE = {  # screens whose lines are other ones on each machine: they fit, and have no golden text
    "doctor": ["doctor"],
    "export": ["export", "CHECKPOINT", "-o", "NEW", "--no-verify"],
    "compare": ["verify", "BUNDLE", "--against", "CHECKPOINT", "--items", "1"],
}
ELSEWHERE = {"android": "builds an APK, or needs a phone: tests/android/test_app_push.py"}
TYPED = {"chat": "words: 789. What is it?\n/quit\n"}
LASTS = {"serve": r"http://\S+/(?=\s)"}  # a command that goes on until it is interrupted: the address that it shows
OUTSIDE = ("COLUMNS", "LINES", "NO_COLOR", "PALMTOP_", "HF_", "XDG_DATA_HOME")  # not taken from this machine
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[()][A-Z0-9]")


def bundle_in(folder: Path) -> Path:
    """The packaged model as a bundle, under the name that the golden texts have."""
    (folder / "models").mkdir()
    return export_model(checkpoint_path(), folder / "models" / "reference", verify=False)


def arguments(name: str, bundle: Path) -> list[str]:
    """The words of a screen's command, with the files that it needs made anew."""
    folder = bundle.parent.parent
    (folder / "requests.jsonl").write_text(
        '{"custom_id": "1", "body": {"messages": [{"role": "user", "content": "words: 789. What is it?"}]}}\n'
    )
    words = (SCREENS | OF_THE_MACHINE)[name]
    for word, copy in (("COPY", folder / "copy"), ("SPARE", bundle.parent / "spare")):
        if word in words:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(bundle, copy)
    for made in ("answers.jsonl", "new"):
        shutil.rmtree(folder / made, ignore_errors=True)
        (folder / made).unlink(missing_ok=True)
    files = {
        "BUNDLE": str(bundle),
        "IMAGE": str(samples_path() / "image.png"),
        "SOUND": str(samples_path() / "audio.wav"),
        "CHECKPOINT": str(checkpoint_path()),
        "ADAPTER": str(checkpoint_path().parent / "adapters" / "sort"),
        "REQUESTS": str(folder / "requests.jsonl"),
        "ANSWERS": str(folder / "answers.jsonl"),
        "COPY": str(folder / "copy"),
        "SPARE": "spare",
        "NEW": str(folder / "new"),
    }
    return [files.get(word, word) for word in words]


def settings(bundle: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(OUTSIDE)}
    models = {"PALMTOP_MODELS": str(bundle.parent), "XDG_CACHE_HOME": str(bundle.parent.parent / "cache")}
    return {**own, **models, "TERM": "xterm-256color"}


def on_terminal(words: list[str], bundle: Path, typed: str = "", until: str = "") -> str:
    """What a terminal of 80 columns receives, standard output and standard error together.

    ``typed`` goes in at once. ``until`` is a pattern of an address: when the command has written one that answers, it
    is interrupted, as by Ctrl-C.
    """
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "palmtop", *words]
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env=settings(bundle), close_fds=True)
    os.close(other)
    os.write(main, typed.encode())
    received = b""
    while True:
        ready, _, _ = select.select([main], [], [], 1.0)
        try:
            data = os.read(main, 65536) if ready else b""
        except OSError:  # the other end is closed
            break
        if not data and process.poll() is not None:
            break
        received += data
        if until and (found := re.search(until, received.decode(errors="replace"))):
            urllib.request.urlopen(found[0]).close()  # it waits in the line until the server runs
            process.send_signal(signal.SIGINT)
            until = ""
    process.wait()
    os.close(main)
    return received.decode()


def screen(name: str, bundle: Path) -> str:
    """What a terminal receives of a screen's command."""
    return on_terminal(arguments(name, bundle), bundle, TYPED.get(name, ""), LASTS.get(name, ""))


def through_pipe(words: list[str], bundle: Path) -> str:
    """What a pipe receives of standard output."""
    command = [sys.executable, "-m", "palmtop", *words]
    done = subprocess.run(command, env=settings(bundle), capture_output=True, text=True, check=False)
    return done.stdout


def lines_of(received: str) -> list[str]:
    """Every line that a screen has shown, lines that were written over included, without colours."""
    return [part.rstrip() for part in re.split(r"[\r\n]+", ESCAPES.sub("", received))]


def shown(received: str, bundle: Path) -> str:
    """The screen in the end: numbers become N and folders names, so that it is the same on every machine."""
    written = re.sub(r"(?m)^.*\x1b\[2K", "", received.replace("\r\n", "\n"))
    kept = [line.rpartition("\r")[2].rstrip() for line in ESCAPES.sub("", written).split("\n")]
    kept = [line for line in kept if "\u2501" not in line]  # a bar that was removed
    kept = [line for line in kept if not line.startswith(BUSY_NOTE)]  # as this machine happens to be
    text = "\n".join(kept).strip().replace(str(bundle.parent.parent), "FOLDER")
    text = text.replace(str(samples_path()), "SAMPLES")
    text = re.sub(r"reference-int4-\S+", "reference-KEY", text)
    text = re.sub(r"\breq_\w+", "req_ID", text)
    text = re.sub(r"\d+(?:[.,]\d+)*", "N", text)
    text = re.sub(r" +(?=N)", " ", text)  # columns of numbers have the width of their numbers
    return re.sub(r"(?<=[a-zN]) {2,}", "  ", text) + "\n"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle_in(Path(folder))
        chosen = [word for word in sys.argv[1:] if word in SCREENS] or SCREENS
        for name in chosen:
            text = shown(screen(name, bundle), bundle)
            if "--write" in sys.argv:
                (GOLDEN / f"{name}.txt").write_text(text)
            print(f"--- {name}\n{text}")


if __name__ == "__main__":
    main()
