"""Nothing that differs from its pin is used, and what is missing is one sentence (clients are scripts)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from android_demo import packages
from android_demo.packages import PackageError, fetch, read_table, unpack, unpack_group


def quiet(_: str) -> None:
    """No progress."""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table of one npm and one pypi package, and clients that serve them from ``shop``."""
    shop, tools = tmp_path / "shop", tmp_path / "bin"
    shop.mkdir()
    tools.mkdir()
    (tmp_path / "a.txt").write_text("alpha")
    with tarfile.open(shop / "thing.tgz", "w:gz") as tar:
        tar.add(tmp_path / "a.txt", "package/keep/a.txt")
        tar.add(tmp_path / "a.txt", "package/drop/a.txt")
    with zipfile.ZipFile(shop / "wheel.whl", "w") as wheel:
        wheel.writestr("wheel/b.txt", "beta")
    for client, file in (("npm", "thing.tgz"), ("pip", "wheel.whl")):
        script = (
            f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ -e {tmp_path}/down ] && {{ echo "no route" >&2; exit 1; }}\n'
        )
        (tools / client).write_text(script + f'cp {shop}/{file} "$PWD/"\n')
        (tools / client).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(packages, "_has_pip", lambda: False)
    lines = [
        f"thing npm 1.0 - things 9 {sha(shop / 'thing.tgz')} package/keep/",
        f"wheel pypi 2.0 - wheels 9 {sha(shop / 'wheel.whl')}  # a remark",
    ]
    (tmp_path / "table.txt").write_text("\n".join(lines))
    table = read_table(tmp_path / "table.txt")
    monkeypatch.setattr(packages, "read_table", lambda: table)
    return tmp_path


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_package_is_fetched_once_and_then_from_the_cache(world: Path) -> None:
    cache = world / "cache"
    path = fetch("thing", cache, progress=quiet)
    (world / "down").touch()
    assert fetch("thing", cache, offline=True, progress=quiet) == path
    assert (world / "asked").read_text().split("\n")[0].endswith("thing@1.0")
    assert [p.name for p in (cache / "archives").iterdir()] == [path.name]
    assert not list(cache.glob("fetch-*"))


def test_only_the_named_part_is_unpacked(world: Path) -> None:
    root = unpack("thing", world / "cache", progress=quiet)
    assert [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()] == ["package/keep/a.txt"]
    assert (unpack_group("wheels", world / "cache", progress=quiet) / "wheel/b.txt").read_text() == "beta"


def test_another_file_of_the_same_name_is_refused(world: Path) -> None:
    (world / "shop/thing.tgz").write_bytes(b"evil")
    with pytest.raises(PackageError, match=r"thing 1\.0: the downloaded file has sha256 \w{12}\.\.\., expected"):
        fetch("thing", world / "cache", progress=quiet)
    assert not list((world / "cache").rglob("*.tgz"))


def test_a_damaged_archive_in_the_cache_is_fetched_again(world: Path) -> None:
    path = fetch("thing", world / "cache", progress=quiet)
    path.write_bytes(path.read_bytes()[:-1])
    told: list[str] = []
    assert sha(fetch("thing", world / "cache", progress=told.append)) == read_digest("thing")
    assert "is damaged" in told[0]
    path.write_bytes(b"")
    with pytest.raises(PackageError, match="expected it there when offline"):
        fetch("thing", world / "cache", offline=True, progress=quiet)


def read_digest(name: str) -> str:
    return packages.find(name).sha256


def test_without_network_one_sentence_says_so(world: Path) -> None:
    (world / "down").touch()
    with pytest.raises(PackageError, match=r"thing 1\.0: 'npm pack' failed, is there a network\? \(no route\)"):
        fetch("thing", world / "cache", progress=quiet)


def test_a_missing_client_is_named(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(world / "nothing"))
    with pytest.raises(PackageError, match="needs the command 'npm', which is not installed"):
        fetch("thing", world / "cache", progress=quiet)


def test_a_package_that_climbs_out_is_refused(world: Path) -> None:
    with tarfile.open(world / "shop/thing.tgz", "w:gz") as tar:
        tar.add(world / "a.txt", "package/keep/../../../evil.txt")
    pinned = packages.Package("thing", "npm", "1.0", "-", "things", 9, sha(world / "shop/thing.tgz"), "package/keep/")
    packages.read_table()["thing"] = pinned
    with pytest.raises(PackageError, match="leads out of the package"):
        unpack("thing", world / "cache", progress=quiet)
    assert not (world / "evil.txt").exists()
    assert not list((world / "cache").glob("unpacked/*"))


def test_an_unknown_name_and_a_bad_line_are_named(world: Path) -> None:
    with pytest.raises(PackageError, match="package 'nothing' is not pinned"):
        fetch("nothing", world / "cache")
    with pytest.raises(PackageError, match="no package has group 'nothing'"):
        unpack_group("nothing", world / "cache")
    (world / "bad.txt").write_text("# header\nthing npm 1.0\n")
    with pytest.raises(PackageError, match=r"bad\.txt, line 2: found 'thing npm 1\.0'"):
        read_table(world / "bad.txt")


def test_the_packages_of_the_project_are_all_pinned() -> None:
    table = read_table()
    assert {"aapt2", "apk", "ort", "genai", "cross", "enjarify", "screens"} <= {p.group for p in table.values()}
    for package in table.values():
        assert package.kind != "deb" or package.source.count("/") == 1
        int(package.sha256, 16)


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert packages.default_cache() == tmp_path / "palmtop/android"


def test_apt_is_asked_with_lists_of_its_own(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's apt state is not touched, and the mirror is the machine's."""
    apt = world / "bin/apt-get"
    apt.write_text(
        f"#!/bin/sh\n[ $1 = indextargets ] && {{ echo 'http://mirror.invalid/debian/ main'; exit 0; }}\n"
        f'echo "$@" >> {world}/apt-asked; cat "$APT_CONFIG" > {world}/conf\n'
        f'[ "$1" = download ] && echo content > "$PWD/tool_1%3a2_all.deb"\nexit 0\n'
    )
    apt.chmod(0o755)
    digest = hashlib.sha256(b"content\n").hexdigest()
    packages.read_table()["tool"] = packages.Package("tool", "deb", "1:2", "old/arm64", "g", 8, digest)
    assert fetch("tool", world / "cache", progress=quiet).read_text() == "content\n"
    assert (world / "apt-asked").read_text() == "update -qq\ndownload -qq tool=1:2\n"
    conf = (world / "conf").read_text()
    assert f'Dir::State::lists "{world}/cache/apt/old-arm64/lists"' in conf
    assert 'APT::Architecture "arm64"' in conf
    sources = (world / "cache/apt/old-arm64/sources.list").read_text()
    assert sources == "deb [trusted=yes] http://mirror.invalid/debian/ old main\n"
    monkeypatch.setenv(packages.MIRROR_VARIABLE, "http://chosen.invalid/debian")
    packages._apt_environment("old/arm64", world / "cache")
    assert "chosen.invalid" in (world / "cache/apt/old-arm64/sources.list").read_text()


def test_debs_of_one_suite_come_by_one_call_and_a_wrong_one_is_refused(world: Path) -> None:
    apt = world / "bin/apt-get"
    apt.write_text(
        f"#!/bin/sh\n[ $1 = indextargets ] && {{ echo 'http://mirror.invalid/debian/ main'; exit 0; }}\n"
        f'echo "$@" >> {world}/apt-asked; [ "$1" = download ] && shift 2 && '
        'for p in "$@"; do echo "$p" > "$PWD/${p%=*}_1_all.deb"; done\nexit 0\n'
    )
    apt.chmod(0o755)
    for name, content in (("one", b"one=1\n"), ("two", b"two=1\n"), ("bad", b"another\n")):
        digest = hashlib.sha256(content).hexdigest()
        packages.read_table()[name] = packages.Package(name, "deb", "1", "old/amd64", "debs", 6, digest)
    with pytest.raises(PackageError, match=r"bad 1: the downloaded file has sha256"):
        unpack_group("debs", world / "cache", progress=quiet)
    asked = (world / "apt-asked").read_text().splitlines()
    assert asked[:2] == ["update -qq", "download -qq one=1 two=1 bad=1"]
    assert sorted(p.name for p in (world / "cache/archives").iterdir()) == ["one_1.deb", "two_1.deb"]


def test_the_command_ends_with_one_sentence() -> None:
    command = [sys.executable, str(packages.TABLE.with_name("packages.py")), "fetch", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "packages: packages.txt: no package or group is named 'nothing'\n"
