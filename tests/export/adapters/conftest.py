"""One LoRA with random weights, its float model, and probes of bundles."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.runtime.bundle.opening import open_bundle
from tests.reference.plain import random_lora

IDS = np.random.default_rng(2).integers(0, 250, 20)
PROMPT = 15


def bundle_logits(folder: Path, **weights: float) -> NDArray[np.float32]:
    """[5, V] teacher-forced, with these adapters on."""
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    probe = OnnxDecoder(bundle.file(manifest.decoder.file), manifest.decoder, threads=1)
    empty = np.zeros((1, manifest.decoder.hidden_size), np.float32)
    prompt = DecoderPrompt(mode="text", input_ids=IDS[:PROMPT], media_places=np.zeros(PROMPT, np.int64), features=empty)
    gates = np.zeros(len(manifest.adapters), np.float32)
    for adapter in manifest.adapters:
        gates[adapter.gate] = weights.get(adapter.name.replace("-", "_"), 0.0)
    return probe.logits(prompt, gates, IDS[PROMPT:])


def float_logits(model: Any) -> NDArray[np.float32]:
    """The same positions of a transformers model."""
    with torch.no_grad():
        logits = model(torch.tensor(IDS)[None], use_cache=False).logits[0]
    return np.asarray(logits.numpy()[PROMPT - 1 : len(IDS) - 1])


def share(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference, of the range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.fixture(scope="session")
def lora(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32]]:
    """A PEFT folder, and the logits of the float model with it."""
    folder = tmp_path_factory.mktemp("lora") / "mine"
    return folder, float_logits(random_lora(reference_checkpoint, folder, 1))


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a bundle, to be changed."""
    return lambda bundle: Path(shutil.copytree(bundle, tmp_path / f"copy-{bundle.name}"))
