"""Paths and graphs that the native libraries can open, where they cannot open the bundle's own.

onnxruntime and genai take paths of UTF-8 only, and onnxruntime 1.31 refuses external data behind a link, as every file
is in the hub's cache (``snapshots/X/weights/decoder.bin -> ../../../blobs/HASH``). Here such a folder gets another name
while it is loaded, and such a graph gets locations of files. Loads nothing itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from palmtop.errors import BundleError

from .external_locations import with_locations

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_ROOT = "root"


@dataclass(frozen=True, slots=True)
class GraphSource:
    """Model and weights folder for ``onnxruntime.InferenceSession``.

    Attributes:
        model: the path of an .onnx file, or a serialised graph.
        weights_folder: folder of the graph's external data, for ``WEIGHTS_FOLDER``; None if beside the file.
    """

    model: str | bytes
    weights_folder: str | None = None

    def open(self, session: Callable[..., Any], options: Any, **how: Any) -> Any:
        """Return a session of the graph, whose options get the folder of its external data.

        Args:
            session: ``onnxruntime.InferenceSession``; this module imports no native library.
            options: ``onnxruntime.SessionOptions``.
            **how: further arguments, such as ``providers``.
        """
        if self.weights_folder is not None:
            options.add_session_config_entry(WEIGHTS_FOLDER, self.weights_folder)
        return session(self.model, options, **how)


@dataclass(frozen=True, slots=True)
class GenaiSource:
    """Folder, graph and weights folder for ``onnxruntime_genai.Config``.

    Attributes:
        folder: folder with genai_config.json.
        graph: the decoder, if it is not the folder's file.
        weights_folder: folder of the graph's external data, below ``folder``; None if beside the decoder.
    """

    folder: str
    graph: bytes | None = None
    weights_folder: str | None = None


@contextmanager
def native_path(path: Path) -> Iterator[str]:
    """Yield a UTF-8 path of a file or folder: its own, or that of a link that exists as long as the block.

    Raises:
        BundleError: a link cannot be made.
    """
    if _is_utf8(path):
        yield str(path)
        return
    with _scratch(path) as scratch:
        link = scratch / (path.name if _is_utf8(Path(path.name)) else f"named{path.suffix}")
        if not _is_utf8(link):
            link = scratch / "named"
        link.symlink_to(path.absolute(), target_is_directory=path.is_dir())
        yield str(link)


@contextmanager
def graph_source(path: Path, graph: bytes | None = None) -> Iterator[GraphSource]:
    """Yield an .onnx file, or another graph on the same weights, for onnxruntime; valid while it is loaded.

    Args:
        path: path of the file.
        graph: graph to load instead.

    Raises:
        BundleError: the file cannot be read, or is not a graph.
    """
    if not _has_links(path.parent):
        with native_path(path.parent) as folder:
            if graph is not None:
                yield GraphSource(graph, folder)
            else:
                yield GraphSource(os.path.join(folder, path.name))
        return
    data, root = _relocated(path, _read(path) if graph is None else graph)
    with native_path(root) as folder:
        yield GraphSource(data, folder)


@contextmanager
def genai_source(folder: Path, decoder: str, config: str) -> Iterator[GenaiSource]:
    """Yield a bundle for genai; valid while it is loaded.

    Args:
        folder: folder of the bundle.
        decoder: name of the decoder's .onnx file.
        config: name of genai's config file.

    Raises:
        BundleError: the decoder cannot be read, or is not a graph.
    """
    if not _has_links(folder):
        with native_path(folder) as name:
            yield GenaiSource(name)
        return
    data, root = _relocated(folder / decoder, _read(folder / decoder))
    with _scratch(folder) as scratch:  # genai searches weights below the folder of its config
        shutil.copyfile(folder / config, scratch / config)
        (scratch / _ROOT).symlink_to(root, target_is_directory=True)
        yield GenaiSource(str(scratch), data, _ROOT)


def _relocated(path: Path, graph: bytes) -> tuple[bytes, Path]:
    """The graph with locations that are not links, and the folder that they are relative to."""
    places: dict[str, Path] = {}

    def note(location: str) -> str:
        parts = PurePosixPath(location).parts
        if PurePosixPath(location).is_absolute() or any(p.startswith(".") or p.endswith(".md") for p in parts):
            raise BundleError(f"{path}: reads weights from '{location:.80}', expected a file that the bundle lists")
        places[location] = (path.parent / location).resolve()
        return location

    with_locations(graph, note)
    if not places:
        return graph, path.parent.resolve()
    root = Path(os.path.commonpath([place.parent for place in places.values()]))
    return with_locations(graph, lambda location: places[location].relative_to(root).as_posix()), root


def _has_links(folder: Path) -> bool:
    """Return whether a file of the folder, or of one in it, is a link."""
    try:
        return any(path.is_symlink() for pattern in ("*", "*/*") for path in folder.glob(pattern))
    except OSError as error:
        raise BundleError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error})") from error


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _scratch(what: Path) -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="palmtop-")
    except OSError as error:
        raise BundleError(f"{what}: needs a link in the folder for temporary files ({error.strerror})") from error
    with folder as name:
        yield Path(name)
