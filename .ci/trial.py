"""Run the tests with other versions than the lock's: the newest that pyproject.toml allows, or its floors.

    .ci/newest      # what moved since the lock, which tests fail, and which moved package breaks each of them
    .ci/oldest      # the floors of the direct dependencies, which of them are not reached, which tests fail
    .ci/oldest tests/quantize       # of some tests only

Works on a copy of the tracked files in a temporary folder and a new venv. torch stays at the lock's version (see
requirements/hold.txt). Exit code 0 if no test fails, 1 otherwise. Takes about 20 minutes on 2 cores.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

import lock

FAILED_FILE = "PALMTOP_TRIAL_FAILED"  # environment variable: where the tests' process lists what failed


def pytest_runtest_logreport(report) -> None:
    """Note a test that failed, or whose fixtures did."""
    _note(report)


def pytest_collectreport(report) -> None:
    """Note a file that cannot be collected."""
    _note(report)


def _note(report) -> None:
    if report.failed and FAILED_FILE in os.environ:
        with open(os.environ[FAILED_FILE], "a", encoding="utf-8") as stream:
            stream.write(json.dumps(report.nodeid) + "\n")


def versions(text: str) -> dict[str, str]:
    """The version of each package of a lock that applies here (markers name Python versions and systems)."""
    code = (
        "import sys, json; from pip._vendor.packaging.requirements import Requirement as R\n"
        "found = [R(line) for line in json.load(sys.stdin)]\n"
        "here = [r for r in found if not r.marker or r.marker.evaluate()]\n"
        "print(json.dumps({r.name: next(iter(r.specifier)).version for r in here}))"
    )
    lines = json.dumps([first for first in lock.blocks(text) if not lock.CUDA.match(first)])
    done = subprocess.run([sys.executable, "-c", code], input=lines, text=True, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


class Trial:
    """A copy of the repository and a venv whose packages can be exchanged.

    Args:
        folder: temporary; gets the copy, the venv and the list of failed tests.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.copy = folder, folder / "palmtop"
        self.copy.mkdir()
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listed, cwd=lock.ROOT, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["xargs", "-0", "cp", "--parents", "-t", self.copy], cwd=lock.ROOT, input=files, check=True)
        venv.create(self.copy / ".venv", with_pip=True)
        self.python = self.copy / ".venv" / "bin" / "python"

    def install(self, packages: dict[str, str]) -> None:
        """Install exact versions, and then the repository as the README says."""
        pip = [self.python, "-m", "pip", "install", "-q"]
        wanted = [f"{name}=={version}" for name, version in packages.items()]
        subprocess.run([*pip, "--no-deps", *wanted], cwd=self.copy, check=True)
        subprocess.run([*pip, "--no-build-isolation", "-e", ".[dev]"], cwd=self.copy, check=True)

    def failures(self, tests: list[str]) -> list[str]:
        """The tests that fail of ``tests`` (empty: of all), by their node ids."""
        noted = self.folder / "failed"
        noted.write_text("")
        paths = f"{lock.ROOT / '.ci'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        settings = {"PYTHONPATH": paths, FAILED_FILE: str(noted), "XDG_CACHE_HOME": str(self.folder / "cache")}
        pytest = ["-m", "pytest", "-q", "-p", "trial", "--tb=line", "--continue-on-collection-errors"]
        command = [self.python, *pytest, *tests]
        subprocess.run(command, cwd=self.copy, env=os.environ | settings, check=False)
        return list(dict.fromkeys(json.loads(line) for line in noted.read_text("utf-8").splitlines()))


def direct() -> dict[str, str]:
    """The floor of each direct dependency, those of the tests included, in the order of pyproject.toml."""
    project = tomllib.loads((lock.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted, extras = list(project["dependencies"]), ["dev"]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            own = re.match(r"palmtop\[(.*)\]", line)
            extras.extend(own[1].split(",") if own else ())
            wanted.append(line)
    return {match[1]: match[2] for line in wanted if (match := re.match(r"([\w.-]+)>=([\w.]+)", line))}


def newest(trial: Trial, now: dict[str, str], locked: dict[str, str], tests: list[str]) -> list[str]:
    """Try the newest versions; then put each moved package back, alone, to see which failures it is the cause of."""
    moved = sorted((n for n in now if now[n] != locked.get(n)), key=lambda n: n not in direct())
    for name in moved:
        print(f"moved: {name} {locked.get(name, '(new)')} -> {now[name]}")
    failed = left = trial.failures(tests)
    for name in [n for n in moved if n in locked]:
        if not left:
            break
        trial.install(now | {name: locked[name]})
        still = trial.failures(left)
        for test in (t for t in left if t not in still):
            print(f"broken by {name} {now[name]}: {test}")
        left = [test for test in left if test in still]
    for test in left:
        print(f"broken by no moved package alone: {test}")
    return failed


def oldest(trial: Trial, now: dict[str, str], tests: list[str]) -> list[str]:
    """Try the floors."""
    for name, floor in direct().items():
        reached = now[name]
        exact = (reached + ".0.0").startswith(floor + ".") or reached == floor
        print(
            f"floor: {name} {reached}" + ("" if exact else f" (pyproject.toml says {floor}: not reached, not tested)")
        )
    failed = trial.failures(tests)
    for test in failed:
        print(f"fails with the floors: {test}")
    return failed


def main(kind: str, *tests: str) -> int:
    """Run one trial; returns the exit code."""
    locked = versions((lock.FOLDER / "test.txt").read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix=f"palmtop-{kind}-") as temporary:
        folder = Path(temporary)
        uv = lock.tool_venv(folder / "tool")
        (folder / "torch.txt").write_text(f"torch=={locked['torch']}\n")
        options = [
            "--constraint",
            folder / "torch.txt",
            *(("--resolution", "lowest-direct") if kind == "oldest" else ()),
        ]
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        now = versions(lock.compile_lock(uv, ("dev",), *options, python=python))
        trial = Trial(folder)
        trial.install(now)
        failed = oldest(trial, now, [*tests]) if kind == "oldest" else newest(trial, now, locked, [*tests])
    print(f"{kind}: {len(failed)} of the tests fail")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
