"""Check of this machine and installation, with advice on what to change."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from palmtop.packages import dependencies, install_command
from palmtop.runtime.memory.machine import available_memory
from palmtop.runtime.memory.plan import megabytes
from palmtop.runtime.providers.plugins import ProviderState

Level = Literal["good", "advice", "problem"]

OPTIONAL = {  # package: (purpose, extra)
    "llguidance": ("answers that follow a grammar or JSON schema", "guidance"),
    "onnx-ir": ("palmtop export, verify and demo", "export"),
    "safetensors": ("palmtop export, verify and demo", "export"),
}
SMALL_MEMORY_BYTES = 4 << 30
SMALL_DISK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one check.

    Attributes:
        name: name of the check.
        level: "good", "advice" for a possible improvement, "problem" if palmtop will not work.
        found: description of the state found.
        advice: recommended action; empty if none is needed.
    """

    name: str
    level: Level
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the finding as plain JSON types."""
        return asdict(self)


def examine(
    import_genai: Callable[[], ModuleType],
    providers: Callable[[], list[str]],
    packaged: Callable[[], Iterable[ProviderState]] = tuple,
) -> Iterator[Finding]:
    """Run all checks; loads the native libraries.

    Args:
        import_genai: function that imports onnxruntime-genai.
        providers: execution providers that onnxruntime was built with.
        packaged: providers in packages of their own.
    """
    yield _python()
    yield from _packages()
    yield _native("onnxruntime-genai", lambda: str(getattr(import_genai(), "__version__", "loads")))
    yield _native("execution providers", lambda: _providers(providers()))
    yield from map(_packaged, packaged())
    yield _cpu(cpu_flags(), platform.machine())
    yield _cores(os.cpu_count())
    yield _memory(available_memory())
    yield _disk()


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding(name="python", level="good", found=found)


def _packages() -> Iterator[Finding]:
    for package in dependencies():
        version = _version(package.name)
        if version is None:
            advice = install_command(only=package.name)
            yield Finding(name=package.name, level="problem", found="not installed", advice=advice)
        elif _parts(version) < _parts(package.least) or (package.below and _parts(version) >= _parts(package.below)):
            advice = install_command(only=package.name).replace("pip install", "pip install --upgrade")
            yield Finding(name=package.name, level="problem", found=version, advice=advice)
        else:
            yield Finding(name=package.name, level="good", found=version)
    for name, (purpose, extra) in OPTIONAL.items():
        version = _version(name)
        if version is None:
            advice = f"for {purpose}: {install_command(extra)}"
            yield Finding(name=name, level="advice", found="not installed", advice=advice)
        else:
            yield Finding(name=name, level="good", found=version)


def _native(name: str, load: Callable[[], str]) -> Finding:
    try:
        return Finding(name=name, level="good", found=load())
    except Exception as error:  # any exception of a native library that cannot be loaded
        reason = " ".join(str(error).split())[:200]
        advice = "reinstall it: pip install --force-reinstall onnxruntime onnxruntime-genai"
        return Finding(name=name, level="problem", found=f"cannot be loaded ({reason})", advice=advice)


def _providers(found: list[str]) -> str:
    return ", ".join(found) + "; palmtop uses CPUExecutionProvider"


def _packaged(state: ProviderState) -> Finding:
    """Check a provider that is optional: a missing package is no problem."""
    name = f"provider {state.name}"
    if state.version is None:
        return Finding(name=name, level="advice", found="not installed", advice=state.missing.partition("; ")[2])
    if state.missing:
        return Finding(name=name, level="advice", found=f"{state.version}, not usable", advice=state.missing)
    return Finding(name=name, level="good", found=f"{state.version}, {'; '.join(state.devices)}")


def _cpu(flags: frozenset[str] | None, machine: str) -> Finding:
    """Check the CPU for instructions that quantised kernels use."""
    if flags is None:
        return Finding(name="cpu", level="good", found=f"{machine}; this system does not report its features")
    if machine.lower() in ("aarch64", "arm64"):
        arm = [name for name in ("asimddp", "i8mm", "sve") if name in flags]
        advice = "" if "asimddp" in arm else "without dot product instructions INT4 runs several times slower"
        return Finding(name="cpu", level="advice" if advice else "good", found=", ".join(arm) or machine, advice=advice)
    names = ("avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
    has = [name for name in names if name in flags]
    found = f"{machine}, {', '.join(has) or 'none of ' + ', '.join(names)}"
    if "avx2" not in flags:
        advice = "without AVX2 INT4 kernels run several times slower; use a newer machine"
        return Finding(name="cpu", level="advice", found=found, advice=advice)
    if not flags & {"avx512_vnni", "avx_vnni"}:
        return Finding(name="cpu", level="good", found=f"{found} (no VNNI: reading a prompt is slower than with it)")
    return Finding(name="cpu", level="good", found=found)


def _cores(count: int | None) -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    found = f"{usable} of {count} usable"
    threads = os.environ.get("OMP_NUM_THREADS")
    if usable is not None and count is not None and usable < count:
        advice = f"pass --threads {usable}: the libraries count all {count} cores"
        return Finding(name="cores", level="advice", found=found, advice=advice)
    return Finding(name="cores", level="good", found=found + (f", OMP_NUM_THREADS={threads}" if threads else ""))


def _memory(available: int | None) -> Finding:
    if available is None:
        return Finding(name="memory", level="good", found="this system does not report it")
    found = f"{megabytes(available)} free to this process"
    if available < SMALL_MEMORY_BYTES:
        advice = (
            "a full-size bundle needs about 4 GB; see 'palmtop inspect BUNDLE', and pass a shorter --context"
            " (a bundle exported with --kv 8 holds four times as many tokens in the same KV cache)"
        )
        return Finding(name="memory", level="advice", found=found, advice=advice)
    return Finding(name="memory", level="good", found=found)


def _disk() -> Finding:
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    there = next((folder for folder in (root, *root.parents) if folder.is_dir()), Path("/"))
    if not os.access(there, os.W_OK):
        advice = "set XDG_CACHE_HOME to a writable folder, or bundles are hashed again at every start"
        return Finding(name="cache", level="advice", found=f"{there} cannot be written", advice=advice)
    free = shutil.disk_usage(there).free
    if free < SMALL_DISK_BYTES:
        advice = "free some space: palmtop demo exports its bundle there"
        return Finding(name="cache", level="advice", found=f"{there}, {megabytes(free)} free", advice=advice)
    return Finding(name="cache", level="good", found=f"{there}, {megabytes(free)} free")


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Return the instruction set extensions by Linux's names; None on other systems."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _parts(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version.

    >>> _parts("1.31.1rc2")
    (1, 31, 1)
    """
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
