"""Export by the name of a repository: only the files needed, size and licence first, resumed, refused with a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palmtop.export.checkpoint.hub import read_files, repository_of
from tests.export.test_llama import write_llama
from tests.front.hub_server import COMMIT, Hub, serving


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    write_llama(tmp_path / "repository", 4, intermediate_size=96)
    for name in ("README.md", "pytorch_model.bin", "model.onnx", "training_args.bin"):
        (tmp_path / "repository" / name).write_bytes(b"not read" * 1000)
    (tmp_path / "repository" / "onnx").mkdir()
    (tmp_path / "repository" / "onnx" / "config.json").write_text("{}")
    with serving(Hub(tmp_path / "repository")) as server:
        yield server


def palmtop(hub: Hub, tmp_path: Path, *arguments: str, **more: str) -> Any:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "PALMTOP_MODELS": str(tmp_path / "models")}
    command = [sys.executable, "-m", "palmtop", *arguments]
    return subprocess.run(
        command, cwd=tmp_path, env={**own, **settings, **more}, capture_output=True, text=True, check=False
    )


def downloads(hub: Hub) -> list[str]:
    return [path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]


def test_a_repository_becomes_a_bundle_with_a_short_name(hub: Hub, tmp_path: Path) -> None:
    done = palmtop(hub, tmp_path, "export", "owner/tiny", "--no-verify")
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert first.startswith("palmtop: owner/tiny: ")
    assert first.endswith("licence apache-2.0")
    assert (tmp_path / "models" / "tiny" / "bundle.json").is_file()
    assert not set(downloads(hub)) & {"README.md", "pytorch_model.bin", "model.onnx", "training_args.bin"}
    assert sum(name.endswith(".safetensors") for name in downloads(hub)) >= 1
    listed = json.loads(palmtop(hub, tmp_path, "list", "--json").stdout)
    assert [bundle["name"] for bundle in listed["bundles"] if not bundle["is_cached"]] == ["tiny"]
    answer = palmtop(hub, tmp_path, "run", "tiny", "hello", "--max-tokens", "2", "--threads", "1")
    assert answer.returncode == 0, answer.stderr
    before = len(downloads(hub))
    again = palmtop(hub, tmp_path, "export", f"owner/tiny@{COMMIT}", "-o", "again", "--no-verify")
    assert again.returncode == 0, again.stderr
    assert len(downloads(hub)) == before  # all is in the hub's cache
    removed = palmtop(hub, tmp_path, "remove", "tiny", "--yes", "--json")
    assert json.loads(removed.stdout)["removed"] == [str(tmp_path / "models" / "tiny")]
    assert not (tmp_path / "models" / "tiny").exists()


def test_a_download_that_broke_off_continues_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(24 << 20)
    (hub.folder / "model.safetensors").write_bytes(data)
    hub.cut_after = 15 << 20
    code = "from palmtop.export.checkpoint.hub import *; print(fetch(look_up('owner/tiny'), quiet=True))"
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "model.safetensors").read_bytes() == data
    ranges = [wanted for method, path, wanted in hub.requests if method == "GET" and path.endswith(".safetensors")]
    assert ranges[0] is None
    assert any(str(wanted).startswith("bytes=10485760-") for wanted in ranges[1:])  # the client writes 10 MiB at a time


def test_what_is_wrong_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    for repository, wanted in (("owner/other", "neither a path here nor a repository"), ("owner/tiny@v9", "revision")):
        refused = palmtop(hub, tmp_path, "export", repository)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert wanted in refused.stderr
    hub.gated = True
    refused = palmtop(hub, tmp_path, "export", "owner/tiny")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "gated" in refused.stderr
    assert palmtop(hub, tmp_path, "export", "owner/tiny", "--no-verify", HF_TOKEN="hf_right").returncode == 0
    (hub.folder / "model.safetensors").rename(hub.folder / "model.gguf")
    for shard in hub.folder.glob("*.safetensors"):
        shard.unlink()
    refused = palmtop(hub, tmp_path, "export", "owner/tiny", HF_TOKEN="hf_right")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "expected safetensors" in refused.stderr
    gone = palmtop(hub, tmp_path, "export", "owner/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert (gone.returncode, gone.stderr.count("\n")) == (2, 1), gone.stderr


def test_paths_are_no_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert repository_of(Path("models/there")) is repository_of(Path("models/gone")) is None
    assert repository_of(Path("a/b/c")) is repository_of(Path("/a/b")) is repository_of(Path("gone")) is None
    assert repository_of(Path("owner/name@main")) == "owner/name@main"


def test_the_files_of_a_phi_4_multimodal_repository() -> None:
    adapters = [
        f"{kind}-lora/adapter_{name}" for kind in ("vision", "speech") for name in ("config.json", "model.safetensors")
    ]
    needed = [
        *("config.json", "generation_config.json", "model-00001-of-00003.safetensors", "model.safetensors.index.json"),
        *("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", *adapters),
    ]
    others = ["README.md", "LICENSE", "modeling_phi4mm.py", "figures/a.png", "examples/what_is_shown.wav", "merges.txt"]
    assert read_files([*needed, *others, "original/consolidated.safetensors"]) == needed
