"""``palmtop chat`` with saved conversations and with the page, as it is typed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest
from click.testing import CliRunner, Result

from palmtop.__main__ import cli, main

FAST = ("--threads", "1", "--max-tokens", "6")


def chat(bundle: Path, *arguments: str | Path, stdin: str) -> Result:
    return CliRunner().invoke(cli, ["chat", str(bundle), *map(str, arguments), *FAST], input=stdin)


def test_a_conversation_goes_on_where_it_was_saved(toy_bundle: Path, tmp_path: Path) -> None:
    saved = tmp_path / "yesterday"
    whole = chat(toy_bundle, stdin="one\ntwo\n")
    first = chat(toy_bundle, stdin=f"one\n/save {saved}\n")
    assert (first.exit_code, first.stderr.count("saved, ")) == (0, 1)
    resumed = chat(toy_bundle, "--resume", saved, stdin="two\n")
    loaded = chat(toy_bundle, stdin=f"something else\n/load {saved}\ntwo\n")
    assert resumed.exit_code == loaded.exit_code == 0
    assert first.stdout + resumed.stdout == whole.stdout
    assert loaded.stdout.endswith(resumed.stdout)


def test_what_cannot_be_saved_or_loaded_is_one_sentence_and_loses_nothing(toy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("no conversation")
    lines = ["one", "/save", "/load", f"/save {tmp_path}", f"/load {tmp_path / 'other'}", "/load missing", "two"]
    result = chat(toy_bundle, stdin="\n".join(lines) + "\n")
    assert result.stdout == chat(toy_bundle, stdin="one\ntwo\n").stdout
    assert result.exit_code == 2
    assert len(re.findall("palmtop: .*expected", result.stderr)) == 5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--resume", "missing"], "missing: cannot be read"),
        (["--resume", "x", "--system", "be brief"], "--system: x has the system message"),
        (["--web", "--system", "be brief"], "--system: found beside --web"),
        (["--web", "--temperature", "1"], "--temperature: found beside --web"),
        (["--web", "--resume", "x"], "--resume: found beside --web"),
        (["--web", "--adapter", "vision"], "--adapter: found beside --web"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(
    toy_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["palmtop", "chat", str(toy_bundle), *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    assert (end.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert expected in captured.err


def test_web_opens_the_page_of_the_bundle(toy_bundle: Path, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    script = (
        "import sys, webbrowser; from pathlib import Path\n"
        f"webbrowser.open = lambda url: Path({str(opened)!r}).write_text(url)\n"
        f"sys.argv = ['palmtop', 'chat', {str(toy_bundle)!r}, '--web', '--threads', '1']\n"
        "from palmtop.__main__ import main; main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert found is not None
            assert "<html" in httpx.get(found[0], timeout=60).text
            assert httpx.get(f"{found[0]}v1/models").json()["data"][0]["id"] == toy_bundle.name
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, -signal.SIGINT, 130)
    assert opened.read_text() == found[0]
