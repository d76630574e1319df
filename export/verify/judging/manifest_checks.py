"""Comparison of a bundle's manifest, configuration and text files with checkpoint and recipe."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from palmtop.export.arch import Model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.tokenizer_files import (
    CHAT_TEMPLATE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    write_tokenizer,
)
from palmtop.export.verify.quality import Check
from palmtop.runtime.bundle.genai_config import GENAI_CONFIG_FILE, genai_config
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import Bundle

SIZES = ("vocab_size", "hidden_size", "num_layers", "num_heads")


def same_manifest(bundle: Bundle, checkpoint: Checkpoint, model: Model, expected: Manifest) -> list[Check]:
    """Return one check for each part of the manifest, and for each file that follows from checkpoint and recipe.

    Args:
        bundle: bundle to be compared.
        checkpoint: the checkpoint that it should have been made from.
        model: model of the checkpoint.
        expected: manifest that follows from them and the recipe.

    Raises:
        BundleError: a file is missing.
        CheckpointError: the checkpoint has no tokenizer.
    """
    manifest = bundle.manifest
    pairs: dict[str, tuple[object, object]] = {
        "architecture": (manifest.architecture, expected.architecture),
        "routes": ({n: r for n, r in manifest.routes.items() if n not in manifest.tasks}, expected.routes),
        "processor": (manifest.processor, expected.processor),
        "decoder": (manifest.decoder, expected.decoder),
        "vision": (manifest.vision, expected.vision),
        "audio": (manifest.audio, expected.audio),
        "source hash": (manifest.source_sha256, expected.source_sha256),
    }
    checks = [_check(f"manifest: {name}", found, wanted) for name, (found, wanted) in pairs.items()]
    config = json.loads(bundle.file(GENAI_CONFIG_FILE).read_text("utf-8"))
    checks.append(_check("genai config", config, genai_config(expected.decoder, model.processor.text)))
    with tempfile.TemporaryDirectory(prefix="palmtop-verify-") as folder:
        write_tokenizer(checkpoint, Path(folder), model.chat_template)
        for label, name in {
            "manifest: chat template": CHAT_TEMPLATE_FILE,
            "tokenizer": TOKENIZER_FILE,
            "tokenizer config": TOKENIZER_CONFIG_FILE,
        }.items():
            found, wanted = (path.read_text("utf-8") for path in (bundle.file(name), Path(folder) / name))
            checks.append(_check(label, found, wanted))
    return checks


def wrong_checkpoint(found: Manifest, expected: Manifest) -> str | None:
    """Return why a bundle cannot be of a checkpoint, in one sentence; None if architecture and sizes agree."""
    pairs = {"architecture": (found.architecture, expected.architecture)} | {
        name.replace("_", " ").replace("num", "number of"): (
            getattr(found.decoder, name),
            getattr(expected.decoder, name),
        )
        for name in SIZES
    }
    sides = [{state.name: list(state.shape) for state in side.decoder.states} for side in (found, expected)]
    pairs |= {f"state {name}": (sides[0].get(name), sides[1].get(name)) for name in sides[0] | sides[1]}
    pairs["vision encoder"] = found.vision is not None, expected.vision is not None
    pairs["audio encoder"] = found.audio is not None, expected.audio is not None
    different = [f"{name} {one} against {other}" for name, (one, other) in pairs.items() if one != other]
    return None if not different else f"is not of this checkpoint: {', '.join(different)} (bundle against checkpoint)"


def _check(name: str, found: object, wanted: object) -> Check:
    same = found == wanted
    return Check(
        name=name,
        passed=same,
        value=float(same),
        limit=1.0,
        detail="as the checkpoint says" if same else _difference(found, wanted),
    )


def _difference(found: object, wanted: object) -> str:
    """Return both texts from shortly before their first difference."""
    texts = str(found), str(wanted)
    place = next((n for n, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(0, place - 40)
    shown = [f"{'...' if start else ''}{text[start : start + 120]}" for text in texts]
    return f"found {shown[0]!r}, expected {shown[1]!r}"
