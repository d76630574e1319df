"""Contents of a bundle's manifest: sizes, modes, adapters, routes, and files with their hashes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import palmtop
from palmtop.errors import CheckpointError
from palmtop.export.arch import Model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lora import Adapter
from palmtop.export.recipe import Recipe
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.manifest import (
    MANIFEST_FILE,
    AdapterSpec,
    DecoderSpec,
    EncoderSpec,
    FileSpec,
    Manifest,
    Route,
)
from palmtop.runtime.bundle.opening import sha256_of

DECODER_FILE = "decoder.onnx"
QUALITY_FILE, PLAN_FILE = "quality.json", "plan.json"


def expected_manifest(checkpoint: Checkpoint, model: Model, recipe: Recipe, workers: Workers | None = None) -> Manifest:
    """Return the manifest without files: the part that follows from checkpoint and recipe."""
    source_sha256 = checkpoint.sha256(workers)
    return Manifest(
        model=str(checkpoint.config.get("_name_or_path") or _shown(checkpoint.path.resolve())),
        architecture=model.architecture,
        source_sha256=source_sha256,
        adapter_mode=recipe.adapter_mode,
        processor=model.processor,
        decoder=_decoder_spec(model, recipe),
        vision=_encoder_spec(model, "vision"),
        audio=_encoder_spec(model, "audio"),
        adapters=tuple(
            AdapterSpec(name=a.name, rank=a.rank, alpha=a.alpha, gate=gate, base_sha256=source_sha256)
            for gate, a in enumerate(gated_adapters(model, recipe))
        ),
        routes=served_routes(model, recipe),
        parts=(),
        recipe=recipe.to_dict(),
        files={},
        palmtop=palmtop.__version__,
    )


def list_files(folder: Path, hashes: Mapping[str, str] | None = None) -> dict[str, FileSpec]:
    """Return size and hash of every file in a bundle folder but the manifest; known hashes are not computed again."""
    known, files = hashes or {}, {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST_FILE:
            name = path.relative_to(folder).as_posix()
            files[name] = FileSpec(size_bytes=path.stat().st_size, sha256=known.get(name) or sha256_of(path))
    return files


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest to bundle.json."""
    (folder / MANIFEST_FILE).write_text(manifest_text(manifest), "utf-8")


def manifest_text(manifest: Manifest) -> str:
    """Return the text of bundle.json."""
    return json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False)


def _decoder_spec(model: Model, recipe: Recipe) -> DecoderSpec:
    decoder, spec = model.decoder, model.processor
    media = [part.token_id for part in (spec.image, spec.audio) if part is not None]
    if any(not 0 <= i < decoder.vocab_size for i in (*media, *spec.text.eos_ids)):
        raise CheckpointError(
            f"config.json: vocab_size is {decoder.vocab_size}, expected more than the special token ids"
            f" {sorted({*media, *spec.text.eos_ids})}"
        )
    return DecoderSpec(
        file=DECODER_FILE,
        vocab_size=decoder.vocab_size,
        hidden_size=decoder.hidden_size,
        num_layers=decoder.num_layers,
        num_heads=decoder.attention.num_heads,
        context_length=model.tokens(recipe),
        original_context=decoder.rope.original_context,
        sampled_never=tuple(media),
        draft_rows=recipe.draft_rows,
        states=decoder.states(recipe.kv),
    )


def _encoder_spec(model: Model, part: str) -> EncoderSpec | None:
    encoder = model.encoders.get(part)
    if encoder is None:
        return None
    return EncoderSpec(file=f"{part}.onnx", bytes_per_item=encoder.bytes_per_item(model.processor))


def served_routes(model: Model, recipe: Recipe) -> dict[str, Route]:
    """Return the model's routes; without gates only those of modes whose adapters are in the base."""
    if recipe.adapter_mode == "gated":
        return model.routes
    return {
        mode: Route(adapters={}, audio_projector=route.audio_projector)
        for mode, route in model.routes.items()
        if route.adapters.keys() <= recipe.merge.keys()
    }


def gated_adapters(model: Model, recipe: Recipe) -> tuple[Adapter, ...]:
    """Return the adapters that get a gate in the decoder."""
    return model.adapters if recipe.adapter_mode == "gated" else ()


def _shown(path: Path) -> str:
    """Return a folder's name as text, with marks for bytes that are not UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "replace")
