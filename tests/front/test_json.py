"""``--json`` of every command: one object, with the fields that docs/command-line.md names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from palmtop.__main__ import COMMANDS, cli
from palmtop.runtime.reference import samples_path

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
Fields = dict[str, set[str]]
"""Fields of an object, each with those of the object, or of the objects of the list, that it holds; or none of them."""


def documented() -> dict[str, Fields]:
    """The table of the page, by command."""
    text = PAGE.read_text("utf-8")
    rows = text[text.index("| command | fields of `--json` |") :].split("\n\n")[0].splitlines()[2:]
    found = {}
    for row in rows:
        name, fields = (cell.strip() for cell in row.strip("|").split("|"))
        pairs = re.findall(r"`(\w+)`(?: \(([^)]*)\))?", fields)
        found[name.strip("`")] = {field: set(re.findall(r"`(\w+)`", inner)) for field, inner in pairs}
    return found


def with_json() -> Iterator[str]:
    """Every command that has the option."""

    def walk(name: str, command: click.Command) -> Iterator[str]:
        if isinstance(command, click.Group):
            for inner, each in command.commands.items():
                yield from walk(f"{name} {inner}", each)
        elif any("--json" in parameter.opts for parameter in command.params):
            yield name

    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        yield from walk(name, command)


def test_the_page_has_every_command_with_the_option() -> None:
    variants = {"export --plan", "export --list"}
    assert set(documented()) - variants == set(with_json())


@pytest.fixture(scope="module")
def calls(
    int4_bundle: Path, reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[Any]]]:
    """Arguments of each command, in an order in which they can run."""
    folder = tmp_path_factory.mktemp("json")
    bundle, models = folder / "own", folder / "models"
    shutil.copytree(int4_bundle, bundle)
    shutil.copytree(int4_bundle, models / "named")
    asked = {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "spell: melon. What is it?"}]}}
    (folder / "in.jsonl").write_text(json.dumps(asked))
    batch = ["batch", folder / "in.jsonl", "-o", folder / "out.jsonl", "--model", bundle]
    export = ["export", reference_checkpoint, "--quality", "fast"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALMTOP_MODELS", str(models))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield {
            "demo": ["demo", "--threads", "1"],
            "run": ["run", bundle, "Hi", "--max-tokens", "2"],
            "transcribe": ["transcribe", bundle, samples_path() / "audio.wav"],
            "batch": batch,
            "evaluate": ["evaluate", bundle, "--items", "1", "--task", "text"],
            "bench": [
                "bench",
                bundle,
                "--mode",
                "text",
                "--repeat",
                "1",
                "--prompt-tokens",
                "8",
                "--answer-tokens",
                "2",
            ],
            "inspect": ["inspect", bundle],
            "doctor": ["doctor"],
            "list": ["list"],
            "remove": ["remove", "named", "--yes"],
            "config": ["config"],
            "export": [*export, "-o", folder / "new", "--no-verify"],
            "export --plan": [*export, "--size", "4.5MB", "--plan"],
            "export --list": ["export", "--list"],
            "verify": ["verify", bundle, "--against", reference_checkpoint, "--items", "1"],
            "adapter list": ["adapter", "list", bundle],
            "adapter export": ["adapter", "export", bundle, "vision", "-o", folder / "lora"],
            "adapter add": ["adapter", "add", bundle, folder / "lora", "--name", "mine"],
            "adapter pack": ["adapter", "pack", bundle, "mine", "-o", folder / "mine.palmadapter"],
            "adapter route": ["adapter", "route", bundle, "sorting", "mine=0.5"],
            "adapter merge": ["adapter", "merge", f"{folder / 'lora'}=0.5", "-o", folder / "merged"],
            "adapter remove": ["adapter", "remove", bundle, "mine"],
        }


def test_each_object_has_the_fields_of_the_page(calls: dict[str, list[Any]]) -> None:
    wanted = documented()
    assert set(calls) == set(wanted)
    for name, arguments in calls.items():
        if name == "adapter remove":  # of no route any more
            check(["adapter", "route", arguments[2], "sorting", "--drop"], wanted["adapter route"])
        check(arguments, wanted[name])
    check(calls["verify"][:2], wanted["verify"])


def check(arguments: list[Any], wanted: Fields) -> None:
    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
    assert done.exit_code in (0, 3), (arguments, done.output, done.exception)  # 3: an answer, or a bundle, with a loss
    found = json.loads(done.stdout)
    assert isinstance(found, dict) and set(found) == set(wanted), arguments
    for field, inner in wanted.items():
        value = found[field]
        if inner:
            objects = value if isinstance(value, list) else [value]
            assert objects and all(set(each) == inner for each in objects), (arguments, field)


def test_json_beside_what_prints_something_else_is_refused() -> None:
    for flag in ("--where", "--checkpoint", "--chat"):
        assert "--json: found beside" in str(CliRunner().invoke(cli, ["demo", flag, "--json"]).exception)
