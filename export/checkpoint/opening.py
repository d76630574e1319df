"""Opening of a checkpoint by its path: a folder of safetensors, or one GGUF file."""

from __future__ import annotations

import os
from pathlib import Path

from palmtop.errors import CheckpointError, InputError
from palmtop.packages import install_command

from .folder import Checkpoint


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint; reads headers only.

    Raises:
        CheckpointError: the path is neither, or a file or key is missing, truncated, or contradicts another.
        UnsupportedModelError: a GGUF file of another architecture.
        InputError: it is GGUF and the package that reads it is not installed.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if files and not (path / "config.json").exists():
            raise CheckpointError(f"{path}: is a folder with GGUF files, expected one of them, such as {files[0]}")
    if path.suffix.lower() != ".gguf" or path.is_dir():
        return Checkpoint(path)
    try:
        from palmtop.export.checkpoint.gguf.checkpoint import GgufCheckpoint
    except ImportError as error:
        raise InputError(
            f"{path}: GGUF needs the package gguf, which is not installed; {install_command('gguf')}"
        ) from error
    return GgufCheckpoint(path)
