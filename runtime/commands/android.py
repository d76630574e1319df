"""``palmtop android``: build the Android app, and copy a bundle to a phone by cable.

Building runs ``android_demo/build_apk.py``, a script of the checkout; this file only finds it. Copying uses adb.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from palmtop.errors import InputError, OptionError, RuntimeMissingError
from palmtop.runtime.bundle.manifest import MANIFEST_FILE
from palmtop.runtime.bundle.opening import Bundle, open_bundle
from palmtop.runtime.memory.plan import megabytes

from .flags import bundle_argument

SCRIPT = "android_demo/build_apk.py"
APP = "org.palmtop.app"
MODELS = f"/sdcard/Android/data/{APP}/files/models"
ADB_ANSWER_TIMEOUT_S = 60
STDERR = 2  # the descriptor: adb's progress output is not a result of this command
EXAMPLES = """
\b
Examples:
  palmtop android push phi4mm-int4
  palmtop android push phi4mm-int4 --name phi4 --serial R58N12ABCDE
"""


@click.group("android", short_help="Build the Android app, bring bundles to a phone.")
def android_command() -> None:
    """Build the Android app from a checkout, and copy bundles to a phone."""


@android_command.command(
    "build",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    short_help="Build, sign and check the APK (needs a checkout).",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def build_command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Run the checkout's android_demo/build_apk.py with the same arguments."""
    ctx.exit(subprocess.run([sys.executable, str(find_script()), *arguments]).returncode)


def find_script() -> Path:
    """Return the path of the build script: beside this package in a checkout, or below the current folder.

    Raises:
        RuntimeMissingError: palmtop was installed without a checkout.
    """
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / SCRIPT).is_file():
            return root / SCRIPT
    raise RuntimeMissingError(
        f"'palmtop android build' needs {SCRIPT}, which an installed palmtop does not have; "
        "run it in a checkout of palmtop's repository"
    )


@android_command.command("push", epilog=EXAMPLES, short_help="Copy a bundle to a phone by adb.")
@bundle_argument
@click.option("--name", help="Name of the model on the phone (default: the folder's name).")
@click.option("--serial", help="Which phone, as 'adb devices' lists it (default: the only one).")
@click.option("--force", is_flag=True, help="Replace a model of that name on the phone.")
def push_command(bundle: Path, name: str | None, serial: str | None, force: bool) -> None:
    """Check the BUNDLE and copy it to the app's folder on a phone.

    The app must have been opened once on the phone. There, choose the model in Models.
    """
    opened = open_bundle(bundle)
    folder = name or bundle.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._ -]{0,59}", folder):
        raise OptionError("name", f"found {folder!r}, expected letters, digits, '.', '_', '-' and blanks")
    adb = Adb(serial)
    push_bundle(adb, opened, folder, force=force)
    click.echo(f"{megabytes(opened.size_bytes)} copied to {MODELS}/{folder}; choose it in the app's Models")


class Adb:
    """Connection to one phone by adb."""

    def __init__(self, serial: str | None) -> None:
        """Find the phone.

        Raises:
            RuntimeMissingError: adb is not installed.
            InputError: there is no such phone, none, or several without a choice; or the phone has not authorised adb.
        """
        if shutil.which("adb") is None:
            raise RuntimeMissingError("'palmtop android push' needs the command 'adb', which is not installed")
        lines = self._run(["adb", "devices"], "list of phones").splitlines()[1:]
        phones = {fields[0]: fields[1] for fields in (line.split() for line in lines) if len(fields) >= 2}
        if serial is None and len(phones) != 1:
            raise InputError(
                f"adb: found {len(phones)} phones{': ' if phones else ''}{', '.join(phones)}, expected one"
                + (" (choose by --serial)" if phones else " (connect it by cable and allow USB debugging)")
            )
        self.serial = serial or next(iter(phones))
        state = phones.get(self.serial, "absent")
        if state != "device":
            hint = ": allow USB debugging on its screen" if state == "unauthorized" else ""
            raise InputError(f"adb: phone {self.serial} is {state}, expected it ready{hint}")

    def shell(self, *words: str) -> str:
        """Run a command on the phone; its words are quoted here."""
        return self._run(["adb", "-s", self.serial, "shell", shlex.join(words)], words[0])

    def push(self, file: Path, target: str) -> None:
        """Copy one file; adb shows its own progress."""
        done = subprocess.run(["adb", "-s", self.serial, "push", str(file), target], stdout=STDERR)
        if done.returncode:
            raise InputError(f"adb: '{file.name}' could not be copied to {target}, is there room on the phone?")

    @staticmethod
    def _run(command: Sequence[str], what: str) -> str:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=ADB_ANSWER_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"adb: {what} had no answer after {ADB_ANSWER_TIMEOUT_S} seconds") from None
        if done.returncode:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise InputError(f"adb: {what} failed ({' '.join(said[-1:])})")
        return done.stdout


def push_bundle(adb: Adb, bundle: Bundle, name: str, *, force: bool) -> None:
    """Copy a bundle's files to a temporary folder and rename it: the app never sees an incomplete model.

    Raises:
        InputError: the phone refused, is full, or has a model of that name already.
    """
    target, beside = f"{MODELS}/{name}", f"{MODELS}/.unfinished-{name}"
    exists = "yes" in adb.shell("sh", "-c", f"test -e {shlex.quote(target)} && echo yes || echo no")
    if exists and not force:
        raise InputError(f"{target}: is on the phone already, expected a new name (or --force)")
    adb.shell("rm", "-rf", beside)
    adb.shell("mkdir", "-p", beside)
    for file in (*bundle.manifest.files, MANIFEST_FILE):
        adb.push(bundle.file(file), f"{beside}/{file}")
    if exists:
        adb.shell("rm", "-rf", target)
    adb.shell("mv", beside, target)
