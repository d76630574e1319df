"""The house rules that a reader relies on: who imports whom, what is shipped, and that importing is light."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[1]
ROOMS = ("export", "quantize", "runtime")
# Rooms may import these modules or anything below them, besides themselves.
STAIRS = {
    "palmtop": ("palmtop.errors", "palmtop.runtime"),
    "palmtop.quantize": ("palmtop.errors",),
    "palmtop.runtime": ("palmtop", "palmtop.errors"),
    "palmtop.export": (
        "palmtop",
        "palmtop.errors",
        "palmtop.quantize",
        "palmtop.runtime.bundle",
        "palmtop.runtime.bundle_change",
        "palmtop.runtime.genai_config",
        "palmtop.runtime.machine",
        "palmtop.runtime.manifest",
        "palmtop.runtime.processor.positions",
        "palmtop.runtime.processor.spec",
        "palmtop.runtime.targets",
    ),
    "palmtop.export.npu": ("palmtop.errors", "palmtop.export", "palmtop.runtime"),
    "palmtop.export.plan": (
        "palmtop.errors",
        "palmtop.quantize",
        "palmtop.export",
        "palmtop.runtime.audio_windows",
        "palmtop.runtime.machine",
        "palmtop.runtime.manifest",
        "palmtop.runtime.processor",
        "palmtop.runtime.reference",
    ),
    "palmtop.export.verify": (
        "palmtop.errors",
        "palmtop.quantize",
        "palmtop.export",
        "palmtop.runtime.bundle",
        "palmtop.runtime.encoders",
        "palmtop.runtime.evaluate",
        "palmtop.runtime.machine",
        "palmtop.runtime.manifest",
        "palmtop.runtime.processor",
        "palmtop.runtime.reference",
        "palmtop.runtime.routing",
    ),
}
NATIVE = {
    "onnxruntime_genai": {"palmtop.runtime.session"},
    "llguidance": {"palmtop.runtime.guide"},
    "onnxruntime": {
        "palmtop.runtime.encoders",
        "palmtop.runtime.providers",
        "palmtop.export.npu.ranges",
        "palmtop.export.plan.stages",
        "palmtop.export.verify.probe",
    },
}
ONLY_IN_TESTS = ("torch", "transformers", "peft", "sklearn", "skimage", "PIL", "torchvision")
HEAVY = (
    "numpy",
    "onnxruntime",
    "onnxruntime_genai",
    "onnx",
    "onnx_ir",
    "cv2",
    "librosa",
    "soxr",
    "llguidance",
    "tokenizers",
    "torch",
    "PIL",
)


def modules() -> Iterator[tuple[str, Path]]:
    """Every shipped module and its file: folder X is palmtop.X, runtime/front is palmtop itself."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[2:] if parts[:2] == ("runtime", "front") else parts
            parts = parts[:-1] if parts and parts[-1] == "__init__" else parts
            yield ".".join(("palmtop", *parts)), path


@functools.cache
def module_names() -> frozenset[str]:
    return frozenset(name for name, _ in modules())


def imports(name: str, path: Path, *, only_at_import: bool = False) -> Iterator[str]:
    """Absolute names of what a file imports; ``if TYPE_CHECKING`` blocks count, they are edges too."""
    tree = ast.parse(path.read_text("utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    inside_functions = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if only_at_import and node in inside_functions:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join((*anchor, base)) if base else ".".join(anchor)
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in module_names() else base


def room_of(name: str) -> str:
    """The longest entry of STAIRS that the module lives in."""
    return max((r for r in STAIRS if name == r or name.startswith(f"{r}.")), key=len)


def is_below(name: str, parent: str) -> bool:
    return name == parent or (parent != "palmtop" and name.startswith(f"{parent}."))


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_only_go_down_the_stairs(name: str, path: Path) -> None:
    room = room_of(name)
    for target in imports(name, path, only_at_import=room in ("palmtop", "palmtop.export")):
        if not target.startswith("palmtop"):
            continue
        allowed = is_below(target, room) or any(is_below(target, step) for step in STAIRS[room])
        assert allowed, f"{path.relative_to(ROOT)} imports {target}"


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_native_runtimes_and_references_stay_where_they_belong(name: str, path: Path) -> None:
    for target in imports(name, path):
        top = target.split(".")[0]
        assert top not in ONLY_IN_TESTS or name == "palmtop.export.optimum_route", f"{name} imports {target}"
        if top in NATIVE:
            assert name in NATIVE[top], f"{name} imports {target}"


def test_no_two_modules_import_each_other() -> None:
    graph = {name: set(imports(name, path, only_at_import=True)) for name, path in modules()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name in done:
            return
        for target in graph.get(name, set()) & graph.keys():
            if target != name:
                visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_every_package_on_disk_is_shipped() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    on_disk = {name for name, path in modules() if path.name == "__init__.py"}
    assert set(setup["packages"]) == on_disk


def test_importing_palmtop_is_light() -> None:
    code = f"import sys, palmtop, palmtop.__main__; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert found.stdout.strip() == "[]"


def test_no_file_is_too_long_to_read() -> None:
    long = {str(p.relative_to(ROOT)): n for _, p in modules() if (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long
