"""Wheel and sdist: what is in them, that one builds the other, and that the wheel works with no repository near."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import palmtop

ROOT = Path(__file__).parents[1]
LARGEST_BYTES = 16_000_000  # 12 MB today, nearly all of it the reference model
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "build", "dist", "venv", "*.egg-info", "__pycache__", "tests", "android_demo"
)
BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, folder: Path) -> Path:
    """Call the build backend as pip and build do, without a network."""
    command = [sys.executable, "-c", BUILD, kind, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("sources") / "palmtop"
    shutil.copytree(ROOT, copy, ignore=NOT_SOURCES)
    (copy / "tests").mkdir()
    shutil.copy(__file__, copy / "tests")  # setuptools takes tests/test*.py into an sdist unless it is told not to
    return copy


@pytest.fixture(scope="module")
def sdist(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", sources, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", sources, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_has_every_module_and_the_reference_model_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        path.relative_to(ROOT).as_posix().replace("runtime/front/", "")
        for room in ("export", "quantize", "runtime")
        for path in (ROOT / room).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    data = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "runtime" / "reference").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md")
    }
    assert {name for name in data if name.endswith(".safetensors")}, "the reference model is not where this test looks"
    found = {name.removeprefix("palmtop/") for name in names if ".dist-info/" not in name}
    assert found == modules | data | {"py.typed", "runtime/bundle/bundle.schema.json", "runtime/serve/page.html"}
    assert wheel.stat().st_size < LARGEST_BYTES


def test_the_sdist_has_no_tests_and_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        archive.extractall(tmp_path, filter="data")
    assert {"pyproject.toml", "README.md", "LICENSE"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "android_demo", "."))]
    (source,) = tmp_path.iterdir()
    again = build("wheel", source, tmp_path)
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert {i.filename: i.CRC for i in first.infolist()} == {i.filename: i.CRC for i in second.infolist()}
    assert sdist.stat().st_size < LARGEST_BYTES


def test_the_wheel_runs_the_demonstration_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "palmtop"  # the natural name of a clone: an empty namespace package to Python started beside it
    folder.mkdir()
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    # Dependencies come from here; a path in a .pth file brings packages, but not an editable install's .pth file.
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(here), "utf-8")
    command = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, cwd=tmp_path)
    settings = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
    code = "import palmtop, runpy; print(palmtop.__file__); runpy.run_module('palmtop', run_name='__main__')"
    done = subprocess.run(
        [python, "-c", code, "demo"],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(site / "palmtop" / "__init__.py")
    assert done.stdout.count("(right)") == 4


def test_an_editable_install_works_in_the_folder_above_a_clone_called_palmtop(sources: Path, tmp_path: Path) -> None:
    assert sources.name == "palmtop"
    with zipfile.ZipFile(build("editable", sources, tmp_path)) as editable:
        editable.extractall(tmp_path / "site")
    code = f"import site; site.addsitedir({str(tmp_path / 'site')!r}); import palmtop; print(palmtop.__version__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=sources.parent, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == palmtop.__version__, done.stderr
