"""Opening of a bundle folder, with checks before anything native reads it.

Sizes and paths are checked at every opening; hashes on request, or at first use, with the result cached by size and
modification time. Uses the manifest and the file system; loads no model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from palmtop.errors import BundleError

from .manifest import MANIFEST_FILE, Manifest
from .replacing import finish_change
from .stand_ins import START_BYTES, stand_in

MAX_MANIFEST_BYTES = 16 << 20
HASH_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Return the path of one of the bundle's files."""
        return self.path / name

    @property
    def size_bytes(self) -> int:
        """Total bytes of the files in the manifest."""
        return sum(f.size_bytes for f in self.manifest.files.values())


def open_bundle(path: str | os.PathLike[str], *, hashes: bool = True) -> Bundle:
    """Read the manifest and check every file's path and size, and its hash unless it was checked before.

    Files that the manifest does not list are refused: a graph could read unchecked weights from them. A file may be a
    link to a file outside, as in the hub's cache; its hash is then always checked.

    Raises:
        BundleError: there is no bundle, or a file is missing, of the wrong size or hash, outside the bundle, or not
            listed; the message names file, found and expected.
        BundleVersionError: a newer palmtop wrote the bundle.
    """
    folder = Path(path)
    finish_change(folder)
    bundle = Bundle(folder, _read_manifest(folder))
    for name, spec in bundle.manifest.files.items():
        with _readable(f"{folder}: file {name!r}"):
            there = _inside(folder, name)
            if not there.is_file():
                what = f"is a link to {there.readlink()}, where no file is" if there.is_symlink() else "is missing"
                raise BundleError(f"{folder}: file '{name}' {what}")
            size_bytes, links = there.stat().st_size, there.stat().st_nlink
        if links > 1 and there.suffix == ".bin":  # onnxruntime 1.31 treats hard links as an attack
            raise BundleError(
                f"{folder}: file '{name}' has {links} hard links, which onnxruntime refuses, expected a copy of its own"
            )
        if size_bytes != spec.size_bytes:
            with _readable(f"{folder}: file {name!r}"), there.open("rb") as file:
                _refuse_stand_in(there, file.read(START_BYTES))
            raise BundleError(f"{folder}: file '{name}' has {size_bytes} bytes, expected {spec.size_bytes}")
    _refuse_unlisted(bundle)
    leading_out = [name for name in bundle.manifest.files if _leads_out(folder, folder / name)]
    if hashes or leading_out:
        check_hashes(bundle, cached=True, only=None if hashes else leading_out)
    return bundle


def _refuse_stand_in(path: Path, start: bytes) -> None:
    if (found := stand_in(start)) is not None:
        raise BundleError(f"{path}: {found}")


def check_hashes(bundle: Bundle, *, cached: bool = False, only: Collection[str] | None = None) -> None:
    """Compare every file's sha256 with the manifest.

    Args:
        bundle: the opened bundle.
        cached: whether to trust an earlier check of a file with unchanged size and modification time.
        only: names of the files to check; None for all.

    Raises:
        BundleError: a file's hash differs from the manifest's.
    """
    known = _read_cache(bundle) if cached else {}
    seen: dict[str, str] = {} if only is None else dict(known)
    for name, spec in bundle.manifest.files.items():
        if only is not None and name not in only:
            continue
        with _readable(f"{bundle.path}: file {name!r}"):
            stat = bundle.file(name).stat()
        mark = f"{stat.st_size}:{stat.st_mtime_ns}:{spec.sha256}"
        if known.get(name) != mark:
            found = sha256_of(bundle.file(name))
            if found != spec.sha256:
                what = (
                    "is a link that leads out of the bundle and " if _leads_out(bundle.path, bundle.file(name)) else ""
                )
                raise BundleError(
                    f"{bundle.path}: file '{name}' {what}has sha256 {found[:12]}..., expected {spec.sha256[:12]}..."
                )
        seen[name] = mark
    if seen != known:
        _write_cache(bundle, seen)


def sha256_of(path: Path) -> str:
    """Return the hash of a file, read in blocks.

    Raises:
        BundleError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with _readable(str(path)), path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_FILE
    with _readable(str(path)):
        if not path.is_file():
            found = (
                f"no {MANIFEST_FILE} there" if folder.is_dir() else "is a file" if folder.exists() else "no such folder"
            )
            raise BundleError(f"{folder}: {found}, expected a bundle folder written by 'palmtop export'")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path}: has {path.stat().st_size} bytes, expected at most {MAX_MANIFEST_BYTES}")
        content = path.read_bytes()
    _refuse_stand_in(path, content[:START_BYTES])
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, a number of 5000 digits
        raise BundleError(f"{path}: is not valid JSON ({error})") from error
    return Manifest.from_dict(data)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Convert errors of the file system to ``BundleError``."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"{what}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a NUL byte, or half a surrogate pair, in a name
        raise BundleError(f"{what}: is not a possible file name ({error})") from error


def _is_bystander(name: str) -> bool:
    """Return whether desktops, git or model hubs create such a file; no graph reads weights from it."""
    return name.startswith(".") or name.endswith(".md")


def _refuse_unlisted(bundle: Bundle) -> None:
    def stop(error: OSError) -> None:
        raise error

    listed = {PurePosixPath(name) for name in bundle.manifest.files} | {PurePosixPath(MANIFEST_FILE)}
    with _readable(str(bundle.path)):
        for where, folders, names in os.walk(bundle.path, onerror=stop):
            folders[:] = [name for name in folders if not name.startswith(".")]
            names = [name for name in names if not _is_bystander(name)]
            links = [name for name in folders if (Path(where) / name).is_symlink()]
            for name in (*names, *links):
                found = PurePosixPath((Path(where) / name).relative_to(bundle.path).as_posix())
                if found not in listed:
                    raise BundleError(f"{bundle.path}: file '{found}' is not in {MANIFEST_FILE}, expected it elsewhere")


def _inside(folder: Path, name: str) -> Path:
    """Return ``folder / name``; refuse names that are absolute or lead out of the folder, also through a link."""
    if "\0" in name:
        raise BundleError(f"{folder}: file {name!r}: is not a possible file name (embedded null byte)")
    pure = PurePosixPath(name)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or "\\" in name or ":" in name:
        raise BundleError(f"{folder}: file name '{name}' leads out of the bundle")
    path = folder.joinpath(*pure.parts)
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{folder}: file '{name}' lies in a folder that is a link out of the bundle")
    return path


def _leads_out(folder: Path, path: Path) -> bool:
    """Return whether a file is a link to one outside."""
    return path.is_symlink() and not path.resolve().is_relative_to(folder.resolve())


def _cache_path(bundle: Bundle) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(os.fsencode(bundle.path.resolve())).hexdigest()[:24]
    return root / "palmtop" / "hashes" / f"{key}.json"


def _read_cache(bundle: Bundle) -> dict[str, str]:
    try:
        data = json.loads(_cache_path(bundle).read_text("utf-8"))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home, or JSON nested too deep
        return {}
    return data if isinstance(data, dict) else {}


def _write_cache(bundle: Bundle, seen: dict[str, str]) -> None:
    try:
        path = _cache_path(bundle)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(seen), "utf-8")
        beside.replace(path)
    except (OSError, RuntimeError):
        return  # without a writable home only the next opening is slower
