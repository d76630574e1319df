"""Write ``requirements/*.txt``: exact versions and hashes of all that the README's commands and ``.ci/run`` install.

    python .ci/lock.py              # the newest that pyproject.toml and requirements/hold.txt allow

One lock for CPython 3.11 to 3.14 on Linux, macOS and Windows. Standard library only; uv is installed for the run into
a temporary venv. PyPI's torch brings CUDA libraries on Linux, PyTorch's CPU build of the same version does not: torch
is locked with the hashes of both, those libraries are left out (torch itself pins them), and pip adds them where needed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
HOLD = FOLDER / "hold.txt"
EXTRAS = {"test": ("dev",), "demo": ("export",), "npu": ("qnn", "openvino")}  # "test" first: the others follow it
ANYWHERE = ("--universal", "--fork-strategy", "fewest")
ONE_PLATFORM = {"npu": ("--python-platform", "x86_64-manylinux_2_36")}  # where CI runs; their wheels are not everywhere
OLDEST_PYTHON = "3.11"
CUDA = re.compile(r"(nvidia|cuda)-|triton==")
CPU_BUILD = "torch"
EVERYWHERE = (  # the environments of [tool.uv] in pyproject.toml, as uv writes them out for a package that all of them need
    "python_full_version < '3.15' and ((platform_machine == 'arm64' and sys_platform == 'darwin')"
    " or sys_platform == 'linux' or sys_platform == 'win32')"
)
HEADER = "# Written by .ci/lock.py from pyproject.toml ({extras}) and requirements/hold.txt; do not edit.\n"


def tool_venv(folder: Path) -> Path:
    """A new venv in ``folder`` with uv; returns the uv program."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([programs / "python", "-m", "pip", "install", "-q", "uv"], check=True)
    return programs / "uv"


def build_requirements() -> list[str]:
    """What pyproject.toml asks for to build the package: installed too, so that no build fetches anything."""
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"])


def compile_lock(uv: Path, extras: tuple[str, ...], *options: str | Path) -> str:
    """The resolved requirements of palmtop with ``extras`` and its build, one block of lines a package."""
    command = [uv, "pip", "compile", "-q", "--python-version", OLDEST_PYTHON, "--no-annotate", "--no-header", *options]
    command += [part for extra in extras for part in ("--extra", extra)]
    text = "\n".join(build_requirements())
    done = subprocess.run(
        [*command, "pyproject.toml", "-"], cwd=ROOT, input=text, text=True, check=True, stdout=subprocess.PIPE
    )
    return done.stdout.replace(f" ; {EVERYWHERE}", "").replace(f" and {EVERYWHERE}", "")


def blocks(text: str) -> dict[str, str]:
    """The lines of each package of a lock, by its first line's ``name==version ; marker``."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = re.split(r"\n(?=\S)", "\n".join(lines))
    return {block.split("\\")[0].strip(): block for block in found if block}


def cpu_build_hash(requirement: str, folder: Path) -> str | None:
    """sha256 of the ``+cpu`` wheel that pip is configured to find here for ``torch==VERSION``, or None."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, f"{requirement}+cpu"]
    if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
        return None
    (wheel,) = folder.glob("*.whl")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def with_cpu_build(text: str, old: str, folder: Path) -> str:
    """``text`` with the hashes of torch's CPU builds added: those of the old lock (same version) and pip's own here."""
    packages = blocks(text)
    name = next((first for first in packages if first.startswith(f"{CPU_BUILD}==")), None)
    if name is None:
        return text
    hashes = re.findall(r"sha256:\w+", blocks(old).get(name, ""))
    here = cpu_build_hash(name.split(";")[0].strip(), folder)
    hashes += [f"sha256:{here}"] if here else []
    added = [digest for digest in dict.fromkeys(hashes) if digest not in packages[name]]
    return text.replace(packages[name], packages[name] + "".join(f" \\\n    --hash={digest}" for digest in added))


def write_locks() -> None:
    """Resolve again and write every file; prints what moved."""
    with tempfile.TemporaryDirectory() as temporary:
        uv = tool_venv(Path(temporary, "venv"))
        follow = HOLD
        for name, extras in EXTRAS.items():
            path = FOLDER / f"{name}.txt"
            old = path.read_text("utf-8") if path.exists() else ""
            platform = ONE_PLATFORM.get(name, ANYWHERE)
            text = compile_lock(uv, extras, "--generate-hashes", "--constraint", follow, *platform)
            leave = {first.split()[0] for first in blocks(follow.read_text("utf-8"))} if name in ONE_PLATFORM else ()
            kept = [b for first, b in blocks(text).items() if not CUDA.match(first) and first.split()[0] not in leave]
            new = with_cpu_build("\n".join(kept) + "\n", old, Path(temporary, "wheel"))
            path.write_text(HEADER.format(extras=", ".join(extras)) + new, "utf-8")
            for first in sorted(set(blocks(old)) ^ set(blocks(new))):
                print(f"{path.name}: {'-' if first in blocks(old) else '+'} {first}")
            follow = FOLDER / "test.txt"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_locks()
