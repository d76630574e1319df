"""Origin of a report: the command, the versions, the date and the bundle's hash."""

from __future__ import annotations

import platform
import shlex
from datetime import UTC, datetime
from importlib.metadata import version

import click
from click.core import ParameterSource

from palmtop import __version__
from palmtop.runtime.bundle.json_fields import MANIFEST_FILE
from palmtop.runtime.bundle.opening import Bundle, sha256_of


def provenance(bundle: Bundle, context: click.Context) -> dict[str, str]:
    """Return how the numbers of a report were made, by name.

    Args:
        bundle: the bundle that was compared.
        context: context of the command that compares it.
    """
    return {
        "command": command_line(context),
        "versions": f"palmtop {__version__}, onnxruntime {version('onnxruntime')}, Python {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        f"sha256 of {MANIFEST_FILE}": sha256_of(bundle.path / MANIFEST_FILE),  # it has the hash of every other file
    }


def command_line(context: click.Context) -> str:
    """Return the command of a context with what was given on the command line, quoted for a shell."""
    words = ["palmtop", context.command.name or ""]
    for parameter in context.command.params:
        if context.get_parameter_source(parameter.name or "") is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[parameter.name or ""]
        values = value if isinstance(value, tuple) else (value,)
        if isinstance(parameter, click.Argument):
            words += map(str, values)
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[-1])
        else:
            words += [word for each in values for word in (parameter.opts[-1], str(each))]
    return shlex.join(words)
