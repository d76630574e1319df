"""Each screen of the command line at 80 columns: as its golden text, nothing wrapped, nothing cut in a pipe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from palmtop.__main__ import COMMANDS, cli
from palmtop.runtime.plain_table import plain_table
from palmtop.runtime.reference import checkpoint_path, samples_path
from tests.front.screens import (
    COLUMNS,
    ELSEWHERE,
    GOLDEN,
    OF_THE_MACHINE,
    SCREENS,
    arguments,
    bundle_in,
    lines_of,
    on_terminal,
    screen,
    shown,
    through_pipe,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_in(tmp_path_factory.mktemp("screens"))


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_its_golden_text_and_fits(name: str, bundle: Path) -> None:
    received = screen(name, bundle)
    assert shown(received, bundle) == (GOLDEN / f"{name}.txt").read_text(), "python -m tests.front.screens --write"
    assert too_long(received, bundle) == []
    assert "\u2026" not in received  # rich's mark of what it cut off
    if name in ("inspect", "adapters", "evaluate", "list", "config"):
        piped = shown(through_pipe(arguments(name, bundle), bundle), bundle)
        assert piped == shown(received, bundle)


def too_long(received: str, bundle: Path) -> list[str]:
    """Lines that a terminal has to break; but for sentences, paths and records of requests."""
    long = [line for line in lines_of(received) if len(line) > COLUMNS]
    paths = (str(bundle.parent.parent), str(samples_path()))
    return [
        line for line in long if not re.search("expected|palmtop: |req_", line) and not any(p in line for p in paths)
    ]


@pytest.mark.parametrize("name", OF_THE_MACHINE)
def test_a_screen_that_differs_by_machine_fits(name: str, bundle: Path) -> None:
    received = screen(name, bundle)
    assert len(lines_of(received)) > 3
    assert too_long(received, bundle) == []
    assert "\u2026" not in received


def test_every_command_has_a_screen() -> None:
    shown_commands = {words[0] for words in (SCREENS | OF_THE_MACHINE).values()}
    assert set(COMMANDS) == (shown_commands & set(COMMANDS)) | set(ELSEWHERE)
    assert not shown_commands & set(ELSEWHERE)
    assert {path.stem for path in GOLDEN.iterdir()} == set(SCREENS)


def test_the_bar_of_an_export_fits(bundle: Path, tmp_path: Path) -> None:
    received = on_terminal(["export", str(checkpoint_path()), "-o", str(tmp_path / "b")], bundle)
    lines = [
        line
        for line in lines_of(received)
        if "/" in line and "MB" in line and str(tmp_path) not in line and not line.startswith("palmtop: ")
    ]
    assert len(lines) > 3
    assert max(map(len, lines)) <= COLUMNS
    assert "\u2026" not in received


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for inner, each in command.commands.items():
            yield from commands(f"{name} {inner}", each)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_fits(name: str) -> None:
    found = cli.get_command(click.Context(cli), name)  # type: ignore[attr-defined]
    for where, command in commands(name, found):
        context = click.Context(command, info_name=where, terminal_width=COLUMNS)
        long = [line for line in command.get_help(context).splitlines() if len(line) > COLUMNS]
        assert not long, f"{where}: {long}"


def test_cells_are_never_cut() -> None:
    wide = "\u6771\u4eac" * 30
    table = plain_table([["name", "n"], [wide, "1"], ["a", "22"]], right={1})
    assert table.splitlines() == ["name" + " " * 118 + " n", wide + "   1", "a" + " " * 121 + "22"]
