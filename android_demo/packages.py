"""Pinned packages that the Android build and its tests are made with, and how they are fetched.

Everything comes through the clients this machine is configured for (apt, npm, pip), is checked against the sha256 in
``packages.txt`` and kept in a cache, so a second build needs no network. Knows nothing about Android.
Standard library only. ``python android_demo/packages.py --help`` fetches by hand and makes new pins.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("packages.txt")
KINDS = ("deb", "npm", "pypi")
HASH_BLOCK_BYTES = 4 << 20
FETCH_TIMEOUT_S = 900
MIRROR_VARIABLE = "PALMTOP_DEBIAN_MIRROR"


class PackageError(Exception):
    """A package cannot be had, or is not what was pinned; one sentence for the user."""


@dataclass(frozen=True)
class Package:
    """One line of ``packages.txt``.

    Attributes:
        name: as its archive spells it; another architecture's Debian package ends in ":arm64".
        kind: "deb", "npm" or "pypi".
        version: exact, epoch included.
        source: suite and architecture of a deb ("bookworm/amd64"), platform tag of a wheel, "-" for npm.
        group: what it is needed for; packages of a group are unpacked into one tree.
        size_bytes: of the archive.
        sha256: of the archive.
        part: only files below this folder of the archive are unpacked; "" unpacks everything.
    """

    name: str
    kind: str
    version: str
    source: str
    group: str
    size_bytes: int
    sha256: str
    part: str = ""

    @property
    def file_name(self) -> str:
        """In the cache: unique, and free of the colons and slashes of names and epochs."""
        ending = {"deb": ".deb", "npm": ".tgz", "pypi": ".whl"}[self.kind]
        return f"{self.name}_{self.version}".replace(":", "%3a").replace("/", "%2f") + ending


def read_table(path: Path = TABLE) -> dict[str, Package]:
    """All pinned packages by name.

    Raises:
        PackageError: a line is not a package.
    """
    packages: dict[str, Package] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        if len(fields) not in (7, 8) or fields[1] not in KINDS or not fields[5].isdigit() or len(fields[6]) != 64:
            raise PackageError(f"{path.name}, line {number}: found {line!r}, expected the fields its first line names")
        name, kind, version, source, group, size_bytes, sha256, *part = fields
        packages[name] = Package(name, kind, version, source, group, int(size_bytes), sha256, *part)
    return packages


def default_cache() -> Path:
    """``palmtop/android`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palmtop" / "android"


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def fetch(
    name: str, cache: Path | None = None, *, offline: bool = False, progress: Callable[[str], None] = say
) -> Path:
    """The package's archive in the cache, downloaded if it is not there yet.

    Raises:
        PackageError: not pinned, not in the cache when offline, a client is missing or failed, or the hash is wrong.
    """
    package = find(name)
    cache = cache or default_cache()
    there = cache / "archives" / package.file_name
    if there.is_file():
        if sha256_of(there) == package.sha256:
            return there
        progress(f"{there.name}: is damaged, fetching it again")
    if offline:
        raise PackageError(f"{package.name} {package.version}: is not in {cache}, expected it there when offline")
    progress(f"fetching {package.name} {package.version} ({package.size_bytes / 1e6:.1f} MB, {package.kind})")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as folder:
        found = _download(package, Path(folder), cache)
        digest = sha256_of(found)
        if digest != package.sha256:
            raise PackageError(
                f"{package.name} {package.version}: the downloaded file has sha256 {digest[:12]}..., "
                f"expected {package.sha256[:12]}..."
            )
        there.parent.mkdir(exist_ok=True)
        os.replace(found, there)
    return there


def unpack(
    name: str, cache: Path | None = None, *, offline: bool = False, progress: Callable[[str], None] = say
) -> Path:
    """The folder with one package's files, fetched and unpacked once.

    Raises:
        PackageError: as ``fetch``, or the archive cannot be unpacked.
    """
    package = find(name)
    return _tree(f"{package.name}_{package.version}", [package], cache or default_cache(), offline, progress)


def unpack_group(
    group: str, cache: Path | None = None, *, offline: bool = False, progress: Callable[[str], None] = say
) -> Path:
    """One folder with the files of every package of a group, as if they were installed there.

    Raises:
        PackageError: no such group, or as ``unpack``.
    """
    members = [package for package in read_table().values() if package.group == group]
    if not members:
        raise PackageError(f"{TABLE.name}: no package has group '{group}'")
    return _tree(group, members, cache or default_cache(), offline, progress)


def find(name: str) -> Package:
    """One pinned package.

    Raises:
        PackageError: it is not pinned.
    """
    try:
        return read_table()[name]
    except KeyError:
        raise PackageError(f"{TABLE.name}: package '{name}' is not pinned there") from None


def sha256_of(path: Path) -> str:
    """Hash of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _tree(name: str, packages: list[Package], cache: Path, offline: bool, progress: Callable[[str], None]) -> Path:
    # The pins are part of the folder's name: other pins are another tree, and a finished tree needs no check.
    key = hashlib.sha256("".join(p.sha256 + p.part for p in packages).encode()).hexdigest()[:12]
    root = cache / "unpacked" / f"{name.replace(':', '%3a').replace('/', '%2f')}-{key}"
    if root.is_dir():
        return root
    if not offline:
        _fetch_debs(packages, cache, progress)
    archives = [fetch(package.name, cache, offline=offline, progress=progress) for package in packages]
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=root.parent) as folder:
        for package, archive in zip(packages, archives, strict=True):
            _extract(package, archive, Path(folder))
        with _one_winner(root):
            os.rename(folder, root)
        os.makedirs(folder, exist_ok=True)  # what the context manager expects to remove
    return root


def _fetch_debs(packages: list[Package], cache: Path, progress: Callable[[str], None]) -> None:
    """Download what several Debian packages lack by one call for each suite: apt reads its lists each time."""
    archives = cache / "archives"
    wanted = [p for p in packages if p.kind == "deb" and not (archives / p.file_name).is_file()]
    for source in sorted({p.source for p in wanted}):
        members = {p.sha256: p for p in wanted if p.source == source}
        if len(members) < 2:
            continue  # fetch does it
        megabytes = sum(p.size_bytes for p in members.values()) / 1e6
        progress(f"fetching {', '.join(p.name for p in members.values())} ({megabytes:.1f} MB, deb)")
        archives.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as folder:
            _apt_download(list(members.values()), Path(folder), cache)
            for found in Path(folder).iterdir():
                package = members.get(sha256_of(found))
                if package is not None:  # else fetch says what is wrong with it
                    os.replace(found, archives / package.file_name)


@contextmanager
def _one_winner(root: Path) -> Iterator[None]:
    """Two builds may unpack the same tree at the same time: the second one's rename fails, and that is fine."""
    try:
        yield
    except OSError:
        if not root.is_dir():
            raise


def _extract(package: Package, archive: Path, folder: Path) -> None:
    try:
        if package.kind == "deb":
            _run(["dpkg-deb", "-x", str(archive), str(folder)], package)
        elif package.kind == "npm":
            with tarfile.open(archive) as tar:
                members = [m for m in tar if m.isfile() and m.name.startswith(package.part)]
                for member in members:
                    if member.name.startswith("/") or ".." in member.name.split("/"):
                        raise PackageError(f"{package.name}: file '{member.name}' leads out of the package")
                    tar.extract(member, folder)
        else:
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(folder, [n for n in wheel.namelist() if n.startswith(package.part)])
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise PackageError(f"{package.name} {package.version}: cannot be unpacked ({error})") from error


def _download(package: Package, folder: Path, cache: Path) -> Path:
    """Let the package's own client write one file into an empty folder."""
    if package.kind == "deb":
        _apt_download([package], folder, cache)
    elif package.kind == "npm":
        _run(
            ["npm", "pack", "--silent", "--pack-destination", ".", f"{package.name}@{package.version}"], package, folder
        )
    else:
        pip = [sys.executable, "-m", "pip"] if _has_pip() else ["pip"]
        where = [] if package.source == "-" else ["--platform", package.source]
        options = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", "."]
        _run([*pip, *options, *where, f"{package.name}=={package.version}"], package, folder)
    found = [p for p in folder.iterdir() if p.is_file()]
    if len(found) != 1:
        raise PackageError(
            f"{package.name} {package.version}: the {package.kind} client wrote {len(found)} files, expected 1"
        )
    return found[0]


def _has_pip() -> bool:
    return subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0


def _apt_download(packages: list[Package], folder: Path, cache: Path) -> None:
    """Download packages of one suite, with lists of our own: the machine's apt state is left alone."""
    environment = _apt_environment(packages[0].source, cache)
    names = [f"{package.name.split(':')[0]}={package.version}" for package in packages]
    request = ["apt-get", "download", "-qq", *names]
    lists = Path(environment["APT_CONFIG"]).parent / "lists"
    if any(lists.glob("*Packages*")):
        try:
            _run(request, packages[0], folder, environment)
            return
        except PackageError:
            pass  # the lists may be older than the archive
    _run(["apt-get", "update", "-qq"], packages[0], folder, environment)
    _run(request, packages[0], folder, environment)


def _apt_environment(source: str, cache: Path) -> dict[str, str]:
    suite, _, architecture = source.partition("/")
    state = (cache / "apt" / f"{suite}-{architecture}").absolute()
    for below in ("lists/partial", "cache/archives/partial", "parts"):
        (state / below).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    # Every file is checked against its pin, so that a suite whose signing key has expired still serves.
    (state / "sources.list").write_text(f"deb [trusted=yes] {_debian_mirror()} {suite} main\n", "utf-8")
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": state / "parts",
        "Dir::Etc::preferencesparts": state / "parts",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",  # the cache may be a folder that apt's own user cannot enter
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Retries": "3",
    }
    config = state / "apt.conf"
    config.write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()), "utf-8")
    return {**os.environ, "APT_CONFIG": str(config)}


def _debian_mirror() -> str:
    """Where this machine gets Debian from; other systems name a mirror in the environment."""
    if os.environ.get(MIRROR_VARIABLE):
        return os.environ[MIRROR_VARIABLE]
    if shutil.which("apt-get") is None:
        raise PackageError("apt-get: is not installed, expected it because the Android tools are Debian packages")
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
    for line in answer.splitlines():
        uri, _, component = line.partition(" ")
        if component == "main" and uri.rstrip("/").endswith("debian"):
            return uri
    raise PackageError(f"apt: no Debian archive is configured; set {MIRROR_VARIABLE} to the address of a mirror")


def _run(
    command: list[str], package: Package, folder: Path | None = None, environment: dict[str, str] | None = None
) -> None:
    what = f"{package.name} {package.version}"
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FETCH_TIMEOUT_S,
        )
    except FileNotFoundError:
        raise PackageError(f"{what}: needs the command '{command[0]}', which is not installed") from None
    except subprocess.TimeoutExpired:
        raise PackageError(f"{what}: '{command[0]}' was not done after {FETCH_TIMEOUT_S} seconds") from None
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and "arn" not in line[:8]]
        raise PackageError(f"{what}: '{' '.join(command[:2])}' failed, is there a network? ({' '.join(said[-1:])})")


def pin(kind: str, name: str, version: str, source: str, group: str, cache: Path) -> str:
    """A new line for ``packages.txt``, from what the archive serves today: look at it before you trust it."""
    trial = Package(name, kind, version, source, group, 0, "0" * 64)
    with tempfile.TemporaryDirectory(prefix="pin-") as folder:
        found = _download(trial, Path(folder), cache)
        return " ".join((name, kind, version, source, group, str(found.stat().st_size), sha256_of(found)))


def main() -> None:
    """``fetch [NAME...]`` fills the cache; ``pin`` prints new lines for the table."""
    parser = argparse.ArgumentParser(description="Fetch or pin the packages of packages.txt.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="fill the cache")
    fetching.add_argument("names", nargs="*", help="packages or groups (default: all)")
    pinning = commands.add_parser("pin", help="print a line for packages.txt")
    for name in ("kind", "name", "version", "source", "group"):
        pinning.add_argument(name)
    arguments = parser.parse_args()
    try:
        if arguments.command == "pin":
            values = (arguments.kind, arguments.name, arguments.version, arguments.source, arguments.group)
            print(pin(*values, default_cache()))
            return
        table = read_table()
        unknown = set(arguments.names) - {p.name for p in table.values()} - {p.group for p in table.values()}
        if unknown:
            raise PackageError(f"{TABLE.name}: no package or group is named '{sorted(unknown)[0]}'")
        for package in table.values():
            if not arguments.names or {package.name, package.group} & set(arguments.names):
                print(fetch(package.name))
    except PackageError as error:
        sys.exit(f"packages: {error}")


if __name__ == "__main__":
    main()
