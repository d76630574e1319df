"""The house rules that a reader relies on: who imports whom, what is shipped, and that importing is light."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import draw_house

ROOT = Path(__file__).parents[1]
ROOMS = ("export", "quantize", "runtime")
# Rooms from the ground up: each may import those above it in this list, never those below.
FLOORS = (
    "palmtop.errors",
    "palmtop.packages",
    "palmtop.runtime.bundle",
    "palmtop.runtime.memory",
    "palmtop.runtime.saved",
    "palmtop.runtime.processor",
    "palmtop.runtime.decoding",
    "palmtop.runtime.media",
    "palmtop.runtime.chat",
    "palmtop.runtime.providers",
    "palmtop.runtime.reference",
    "palmtop.runtime",
    "palmtop.quantize",
    "palmtop.export.recipe",
    "palmtop.export.checkpoint",
    "palmtop.export.graph",
    "palmtop.export.reading",
    "palmtop.export.arch",
    "palmtop.export.bundle",
    "palmtop.export.measure",
    "palmtop.export.adapters",
    "palmtop.export.kv",
    "palmtop.export.mixed_precision",
    "palmtop.export.providers",
    "palmtop.export.verify",
    "palmtop.export.cost",
    "palmtop.export",
    "palmtop.runtime.serve",
    "palmtop.runtime.commands",
    "palmtop",
)
# What rooms may import of other folders, or of the front door; everything below a name counts.
ABROAD = {
    "palmtop.runtime": ("palmtop.errors", "palmtop.packages"),
    "palmtop.quantize": ("palmtop.errors",),
    "palmtop.export": ("palmtop.errors", "palmtop.packages", "palmtop.quantize", "palmtop.runtime"),
    "palmtop": ("palmtop.errors", "palmtop.packages", "palmtop.runtime", "palmtop.export"),
}
FRONT_DOOR = {"palmtop.runtime.commands", "palmtop.export"}  # they may ask ``palmtop`` for its version
MAX_MODULES = 15
NATIVE = {
    "onnxruntime_genai": {"palmtop.runtime.session"},
    "llguidance": {"palmtop.runtime.decoding.guided_decoding"},
    # the page writes small copies of what the other has read; slices are resized by the reference's own library
    "PIL": {
        "palmtop.runtime.processor.images.image_file",
        "palmtop.runtime.processor.images.slices",
        "palmtop.export.verify.page.media",
    },
    "soundfile": {
        "palmtop.runtime.processor.sounds.stream",
        "palmtop.runtime.reference.heldout",
        "palmtop.export.verify.page.media",
    },
    "onnxruntime": {
        "palmtop.runtime.decoding.loop_decoder",
        "palmtop.runtime.media.encoder_runner",
        "palmtop.runtime.providers.plugins",
        "palmtop.export.providers.qnn.ranges",
        "palmtop.export.mixed_precision.kernel_time",
        "palmtop.export.measure.layerwise",
        "palmtop.export.measure.onnx_decoder",
    },
}
ONLY_IN_TESTS = ("torch", "transformers", "peft", "sklearn", "skimage", "torchvision", "cv2")
INDEPENDENT = {  # they ask for them when they are asked
    "palmtop.export.verify.judging.transformers_reference",
    "palmtop.export.verify.judging.multimodal_reference",
}
HEAVY = (
    "numpy",
    "onnxruntime",
    "onnxruntime_genai",
    "onnx",
    "onnx_ir",
    "PIL",
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
    """The longest entry of FLOORS that the module lives in."""
    return max((r for r in FLOORS if name == r or name.startswith(f"{r}.")), key=len)


def folder_of(name: str) -> str:
    return max((r for r in ABROAD if name == r or name.startswith(f"{r}.")), key=len)


def is_below(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_only_go_down_the_stairs(name: str, path: Path) -> None:
    """Imports inside functions count, but for the front door's, which calls a subcommand only when it is asked for."""
    room, folder = room_of(name), folder_of(name)
    for target in imports(name, path):
        if not target.startswith("palmtop") or room_of(target) == room:
            continue
        if target == "palmtop" and any(is_below(name, door) for door in FRONT_DOOR):
            continue
        arrow = f"{path.relative_to(ROOT)} imports {target}"
        assert FLOORS.index(room_of(target)) < FLOORS.index(room), arrow
        assert is_below(target, folder) or any(is_below(target, step) for step in ABROAD[folder]), arrow


def test_the_picture_of_the_house_is_what_the_imports_say() -> None:
    assert draw_house.PICTURE.read_text("utf-8") == draw_house.draw(), "python -m docs.draw_house --write"


def test_no_folder_is_crowded() -> None:
    count = Counter(str(path.parent.relative_to(ROOT)) for _, path in modules() if path.name != "__init__.py")
    assert {folder: number for folder, number in count.items() if number > MAX_MODULES} == {}


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_native_runtimes_and_references_stay_where_they_belong(name: str, path: Path) -> None:
    for target in imports(name, path):
        top = target.split(".")[0]
        assert top not in ONLY_IN_TESTS or name in INDEPENDENT, f"{name} imports {target}"
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
