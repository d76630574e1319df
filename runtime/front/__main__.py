"""The ``palmtop`` command: a table of subcommands, each imported only when it is called."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

import click

from palmtop import __version__
from palmtop.errors import OptionError, PalmtopError, RuntimeMissingError
from palmtop.packages import install_command

COMMANDS = {  # name: (module and function, help, extra that it needs)
    "run": ("palmtop.runtime.commands.run:run_command", "Ask a bundle one question.", ""),
    "chat": ("palmtop.runtime.commands.chat:chat_command", "Talk with a bundle in the terminal.", ""),
    "demo": ("palmtop.demo:demo_command", "Run the packaged model on text, image and audio.", "export"),
    "inspect": ("palmtop.runtime.commands.inspect:inspect_command", "Show what is in a bundle.", ""),
    "transcribe": ("palmtop.runtime.commands.transcribe:transcribe_command", "Transcribe a long recording.", ""),
    "batch": ("palmtop.runtime.commands.batches.command:batch_command", "Answer a file of requests.", ""),
    "serve": ("palmtop.runtime.commands.serve:serve_command", "Serve bundles by OpenAI's HTTP interface.", "serve"),
    "evaluate": ("palmtop.runtime.commands.evaluate:evaluate_command", "Measure a bundle's accuracy.", ""),
    "adapter": ("palmtop.export.adapters.cli:adapter_group", "Add, merge, pack and list adapters.", "export"),
    "bench": ("palmtop.runtime.commands.bench:bench_command", "Measure a bundle's speed and memory.", ""),
    "doctor": ("palmtop.runtime.commands.doctor:doctor_command", "Check this machine and installation.", ""),
    "list": ("palmtop.runtime.commands.models:list_command", "List the bundles that have short names.", ""),
    "remove": ("palmtop.runtime.commands.models:remove_command", "Delete bundles that have short names.", ""),
    "config": ("palmtop.runtime.commands.config:config_command", "Show folders and environment variables.", ""),
    "export": ("palmtop.export.cli:export_command", "Turn a checkpoint folder into a bundle.", "export"),
    "android": (
        "palmtop.runtime.commands.android:android_command",
        "Build the Android app, bring bundles to a phone.",
        "",
    ),
    "verify": ("palmtop.export.verify.cli:verify_command", "Measure a bundle against its source.", "export"),
}
USER_ERROR_EXIT = 2
INTERRUPTED_EXIT = 130  # the exit code of shells for Ctrl-C


class LazyGroup(click.Group):
    """Group of commands that imports only the command that is called.

    Attributes:
        called: the command that was imported last; None before.
    """

    called: click.Command | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command.

        Raises:
            RuntimeMissingError: a package that it needs is not installed.
        """
        if cmd_name not in COMMANDS:
            return None
        where, _, extra = COMMANDS[cmd_name]
        module, _, attribute = where.partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "palmtop").split(".")[0] == "palmtop":
                raise  # a missing module of palmtop is a bug, not a missing extra
            raise RuntimeMissingError(
                f"'palmtop {cmd_name}' needs {error.name}, which is not installed; {install_command(extra)}"
            ) from error
        self.called = command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, so that help imports nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text, _) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="palmtop")
@click.option("-v", "--verbose", is_flag=True, help="Say on standard error what is loaded, planned and measured.")
@click.option("-q", "--quiet", is_flag=True, help="No warnings; errors stay.")
@click.pass_context
def cli(context: click.Context, verbose: bool, quiet: bool) -> None:
    """Mixture-of-LoRA multimodal models, small enough for laptops and phones.

    \b
    palmtop demo                                     see it work
    palmtop export CHECKPOINT -o BUNDLE              make a bundle
    palmtop run BUNDLE "What is this?" --image F     use it
    palmtop chat MODEL.gguf                          exported on first use
    """  # noqa: D301 - click wants a real backspace here
    context.obj = _ready_bundle
    if verbose and quiet:
        raise click.UsageError("--verbose stands beside --quiet, expected one of them")
    logger = logging.getLogger("palmtop")
    if verbose:
        handler = logging.StreamHandler()
        logger.addHandler(handler)
        context.call_on_close(lambda: logger.removeHandler(handler))
    if verbose or quiet:
        logger.setLevel(logging.INFO if verbose else logging.ERROR)
        context.call_on_close(lambda: logger.setLevel(logging.NOTSET))


def _ready_bundle(path: Path) -> Path:
    """The bundle of a path that a command was given; imported when there is something to open."""
    from palmtop.models import ready_bundle

    return ready_bundle(path)


def main() -> None:
    """Run the command line: a ``PalmtopError`` becomes one line and exit code 2, other exceptions a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() == "utf-8":
            # a file name that is not UTF-8 is printed as its original bytes
            stream.reconfigure(errors="surrogateescape")
    try:
        sys.exit(cli(prog_name="palmtop", standalone_mode=False, auto_envvar_prefix="PALMTOP"))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(USER_ERROR_EXIT)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "palmtop"
        message = " ".join(error.format_message().split()).removesuffix(".")
        click.echo(f"palmtop: {message} (see: {where} --help)", err=True)
        sys.exit(USER_ERROR_EXIT)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED_EXIT)
    except OptionError as error:
        flag = flag_of(cli.called, error.option) if isinstance(cli, LazyGroup) else None
        message = str(error) if flag is None else f"{flag}: {error.reason}"
        click.echo(f"palmtop: {' '.join(message.split())}", err=True)
        sys.exit(USER_ERROR_EXIT)
    except PalmtopError as error:
        click.echo(f"palmtop: {' '.join(str(error).split())}", err=True)
        sys.exit(USER_ERROR_EXIT)
    except BrokenPipeError:  # the reader has gone, as in `palmtop run ... | head -1`
        _mute(sys.stdout)
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EBADF):
            raise
        _mute(sys.stdout)
        click.echo(f"palmtop: the result could not be written ({error.strerror})", err=True)
        sys.exit(USER_ERROR_EXIT)


def flag_of(command: click.Command | None, option: str) -> str | None:
    """Return the flag that gives an option on the command line; None if the command has none for it.

    >>> flag_of(click.Command("x", params=[click.Option(["--timeout", "timeout_s"])]), "timeout_s")
    '--timeout'
    """
    if isinstance(command, click.Group):
        return next((flag for each in command.commands.values() if (flag := flag_of(each, option))), None)
    names = (option, f"{option}s", f"{option}_s", option.removesuffix("_s"))
    for parameter in command.params if command is not None else ():
        if isinstance(parameter, click.Option) and parameter.name in names:
            return max(parameter.opts, key=len)
    return None


def _mute(stream: TextIO) -> None:
    """Discard the rest of standard output, which would be written again at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
