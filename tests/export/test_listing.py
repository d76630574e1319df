"""``palmtop export --list`` and docs/architectures.md say what the architecture files say."""

from __future__ import annotations

import json

from click.testing import CliRunner

from docs import list_architectures
from palmtop.export.arch import names
from palmtop.export.cli import export_command
from palmtop.export.listing import as_markdown


def test_the_page_is_what_the_files_say() -> None:
    assert list_architectures.PAGE.read_text("utf-8") == as_markdown(), "python -m docs.list_architectures --write"


def test_the_list_has_every_file_in_80_columns() -> None:
    shown = CliRunner().invoke(export_command, ["--list"])
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split(",")[0] for line in lines if not line.startswith(" ")] == names()
    assert "  weights  transformers folder; GGUF (minicpm)" in lines


def test_the_list_as_json() -> None:
    shown = json.loads(CliRunner().invoke(export_command, ["--list", "--json"]).output)["architectures"]
    assert [each["name"] for each in shown] == names()
    assert all(each["models"] and each["tested"] for each in shown)


def test_without_a_checkpoint_the_error_says_so() -> None:
    result = CliRunner().invoke(export_command, [])
    assert result.exit_code != 0
    assert "no checkpoint is given, expected a folder or a GGUF file" in str(result.exception)
