"""Checkpoints of the Hugging Face hub: which files an export reads, and their download into the hub's own cache.

huggingface_hub, which tokenizers brings along, does the work: interrupted downloads continue, the token comes from its
usual places (HF_TOKEN, ``hf auth login``), and HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE act as everywhere.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palmtop.errors import CheckpointError, InputError, RuntimeMissingError
from palmtop.packages import install_command
from palmtop.runtime.memory.plan import megabytes

REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
TEXTS = ("*.json", "*.jinja", "*/adapter_config.json")
WEIGHTS = ("*.safetensors", "*/adapter_model.safetensors")
NOT_READ = ("onnx/*", "original/*", "*.onnx.json", "consolidated*", "optimizer*", "*trainer_state.json", "runs/*")
GATED = "accept its terms on its page, then set HF_TOKEN or run 'hf auth login'"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubCheckpoint:
    """Files of a repository that an export reads.

    Attributes:
        repository: owner and name.
        commit: hash of the commit.
        files: names of the files.
        size_bytes: bytes of all of them.
        licence: the licence that the repository states; "not stated" without one.
    """

    repository: str
    commit: str
    files: tuple[str, ...]
    size_bytes: int
    licence: str

    def __str__(self) -> str:
        return f"{self.repository}: {megabytes(self.size_bytes)} in {len(self.files)} files, licence {self.licence}"


def repository_of(path: Path) -> str | None:
    """Return the repository that a path names if nothing lies there: OWNER/NAME or OWNER/NAME@REVISION.

    >>> repository_of(Path("microsoft/Phi-4-mini-instruct"))
    'microsoft/Phi-4-mini-instruct'
    """
    text = path.as_posix()
    return text if REPOSITORY.fullmatch(text) and not os.path.lexists(path) and not path.parent.is_dir() else None


def read_files(names: Sequence[str]) -> list[str]:
    """Return the files of a repository that an export reads: settings, tokenizer, safetensors, adapters.

    >>> read_files(["config.json", "model.safetensors", "pytorch_model.bin", "README.md", "onnx/config.json"])
    ['config.json', 'model.safetensors']
    """
    kept = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in NOT_READ)]
    return [
        name
        for name in kept
        if any(fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in TEXTS + WEIGHTS)
    ]


def look_up(name: str) -> HubCheckpoint:
    """Ask the hub what a repository has.

    Args:
        name: OWNER/NAME or OWNER/NAME@REVISION.

    Raises:
        CheckpointError: there is no such repository, it is gated, or it has no safetensors.
        InputError: the hub cannot be reached.
        RuntimeMissingError: huggingface_hub is not installed.
    """
    repository, _, revision = name.partition("@")
    info: Any = _asked(
        name, lambda hub: hub.HfApi().model_info(repository, revision=revision or None, files_metadata=True)
    )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    files = read_files(list(sizes))
    if not any(file.endswith(".safetensors") for file in files):
        there = sorted({Path(file).suffix for file in sizes} & {".bin", ".gguf", ".pth", ".onnx"})
        found = f"files in {', '.join(there)} alone" if there else "no weights"
        raise CheckpointError(f"{name}: the repository has {found}, expected safetensors")
    card: Any = info.card_data or {}
    licence = card.get("license_name") or card.get("license") or "not stated"
    return HubCheckpoint(
        repository=repository,
        commit=str(info.sha),
        files=tuple(files),
        size_bytes=sum(sizes[file] for file in files),
        licence=str(licence),
    )


def fetch(found: HubCheckpoint, *, quiet: bool) -> Path:
    """Download the files into the hub's cache and return their folder; those that are there are not read again.

    Args:
        found: result of ``look_up``.
        quiet: whether no progress bar is shown.

    Raises:
        InputError: the disk has too little room, or the download stopped.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import disable_progress_bars

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    there = _bytes_there(found, cache)
    if found.size_bytes - there > free:
        raise InputError(
            f"{found.repository}: {free / 1e9:.1f} GB are free for {cache}, expected {found.size_bytes / 1e9:.1f} GB;"
            " set HF_HOME to a folder with room"
        )
    if quiet:
        disable_progress_bars()
    return Path(
        _asked(
            found.repository,
            lambda hub: hub.snapshot_download(
                found.repository, revision=found.commit, allow_patterns=[_literal(name) for name in found.files]
            ),
        )
    )


def _bytes_there(found: HubCheckpoint, cache: Path) -> int:
    folder = cache / f"models--{found.repository.replace('/', '--')}" / "snapshots" / found.commit
    return sum(path.stat().st_size for name in found.files if (path := folder / name).is_file())


def _literal(name: str) -> str:
    """Return a pattern for one name."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _asked(name: str, ask: Callable[[Any], Any]) -> Any:
    """Return what the hub answers, its errors as one sentence each."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise RuntimeMissingError(
            f"{name}: a download needs huggingface_hub, which is not installed; {install_command(only='tokenizers')}"
        ) from error
    try:
        return ask(huggingface_hub)
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{name}: the repository is gated; {GATED}") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name}: is neither a path here nor a repository of the hub that can be seen; a private one needs HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name}: the repository has no such revision") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{name}: is no name of a repository ({error!s:.100})") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{name}: the hub cannot be asked ({reason}); the same command continues a download"
        ) from error
    except Exception as error:  # the HTTP client's own errors, whose classes depend on its version
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "requests", "urllib3"):
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"{name}: the hub cannot be reached ({reason}); the same command continues a download"
        ) from error
