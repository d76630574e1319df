"""Write ``requirements/*.txt``: exact versions and hashes of all that the README's commands and ``.ci/run`` install.

    python .ci/lock.py              # the newest that pyproject.toml and requirements/hold.txt allow; prints what moved

One lock for CPython 3.11 to 3.14 on Linux, macOS and Windows. Standard library only; uv is installed for the run into
a temporary venv.

PyPI's torch brings CUDA libraries on Linux, PyTorch's CPU build of the same version does not. Both are locked; the CUDA
libraries are left out (torch pins them itself), and pip adds them where they are needed. pip prefers a file whose
sha256 both the index and the lock state; a file in a local folder has none stated. PyPI's wheels for Linux on x86-64
are therefore locked by sha512: then a CPU build that pip can find comes first, as it does without a lock.
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
LINUX_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The environments of [tool.uv] in pyproject.toml, as uv writes them out for a package that all of them need.
EVERYWHERE = (
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


def compile_lock(uv: Path, extras: tuple[str, ...], *options: str | Path, python: str = OLDEST_PYTHON) -> str:
    """The resolved requirements of palmtop with ``extras`` and its build, one block of lines a package."""
    command = [uv, "pip", "compile", "-q", "--python-version", python, "--no-annotate", "--no-header", *options]
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


def pip_download(requirement: str, folder: Path, *options: str) -> list[Path]:
    """The wheels that pip finds here for a requirement; empty where it finds none."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-cache-dir", "--no-deps", "-d", folder, *options]
    subprocess.run([*command, "--only-binary", ":all:", requirement], stderr=subprocess.DEVNULL, check=False)
    return list(folder.glob("*.whl"))


def digest_of(wheel: Path, algorithm: str) -> str:
    """``ALGORITHM:HEX`` of a file."""
    with wheel.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"


def torch_block(block: str, old: str, folder: Path) -> str:
    """Lines of torch, with its CPU build's hash added and its Linux wheels' exchanged (see the top of this file).

    An unchanged version keeps its old lines; another one downloads about 2 GB.
    """
    requirement = block.split()[0]
    if requirement == old.split(" ")[0]:
        return old
    digests = set(re.findall(r"sha256:\w+", block))
    platform = ("--platform", "manylinux_2_28_x86_64")
    for python in LINUX_PYTHONS:
        options = (*platform, "--python-version", python)
        wheels = pip_download(requirement.replace("==", "==="), folder / python, *options)
        digests = digests - {digest_of(w, "sha256") for w in wheels} | {digest_of(w, "sha512") for w in wheels}
    digests |= {digest_of(wheel, "sha256") for wheel in pip_download(f"{requirement}+cpu", folder / "cpu")}
    return " \\\n    --hash=".join((requirement, *sorted(digests)))


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
            before = next((block for block in blocks(old).values() if block.startswith("torch==")), " ")
            kept = [torch_block(b, before, Path(temporary)) if b.startswith("torch==") else b for b in kept]
            new = "\n".join(kept) + "\n"
            path.write_text(HEADER.format(extras=", ".join(extras)) + new, "utf-8")
            for first in sorted(set(blocks(old)) ^ set(blocks(new))):
                print(f"{path.name}: {'-' if first in blocks(old) else '+'} {first}")
            follow = FOLDER / "test.txt"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_locks()
