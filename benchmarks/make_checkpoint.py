"""Write a checkpoint with the true dimensions of Phi-4-multimodal-instruct, filled with random weights.

    python -m benchmarks.make_checkpoint -o phi4mm                  # 11.2 GB, bfloat16, upstream's layout
    python -m benchmarks.make_checkpoint -o phi4mini --text-only    # 7.7 GB, Phi-4-mini (model_type phi3)

Memory, disk and time of an export depend on sizes, not on what was learnt. Drawing 5.6 G normals would take minutes
of arithmetic, so there is one pool of 8 M standard normals: a tensor is written in blocks of 2 M values, each a slice
of the pool from a random place, scaled, its signs flipped by a slice of a second pool. No two rows are equal, every
tensor has its mean and deviation, and the same seed gives the same bytes.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from benchmarks.full_size import Dimensions, Plan, config, tensors
from benchmarks.full_size_tokenizer import special_ids, write_tokenizer
from palmtop.errors import InputError, PalmtopError
from palmtop.export.bundle.atomic_directory import written_beside
from palmtop.export.checkpoint.safetensors_reader import INDEX_FILE

POOL, BLOCK = (1 << 23) + 3, 1 << 21  # values; the pool's length shares no factor with a row's
SHARD_BYTES = 3 << 30
BESIDE_BYTES = 64 << 20  # tokenizer and configs, generously
BF16 = np.dtype(ml_dtypes.bfloat16)


class RandomValues:
    """Blocks of bfloat16 values, cheap enough to keep up with a disk.

    Args:
        seed: of everything drawn.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._normals = self._rng.standard_normal(POOL, np.float32)
        # 0 or the sign bit of a bfloat16; another length, so that the two pools never meet the same way twice
        self._signs = self._rng.integers(0, 2, POOL - 2 * 1001, np.uint16) << np.uint16(15)

    def blocks(self, plan: Plan) -> Iterator[NDArray[np.uint16]]:
        """The bits of the tensor's values, in consecutive blocks."""
        left = math.prod(plan.shape)
        if plan.mean:  # norms: a few thousand values, drawn as they are
            values = plan.mean + plan.std * self._rng.standard_normal(left, np.float32)
            yield values.astype(BF16).view(np.uint16)
            return
        while left:
            count = min(left, BLOCK)
            at, signs_at = (int(self._rng.integers(len(pool) - count + 1)) for pool in (self._normals, self._signs))
            scaled = (self._normals[at : at + count] * np.float32(plan.std)).astype(BF16)
            yield scaled.view(np.uint16) ^ self._signs[signs_at : signs_at + count]
            left -= count


def make_checkpoint(
    target: Path,
    dimensions: Dimensions,
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[str, int], None] | None = None,
) -> None:
    """Write a checkpoint folder; it appears whole or not at all.

    Args:
        target: a folder that is not there yet.
        dimensions: of the model.
        seed: of the weights.
        shard_bytes: a shard is closed before it grows beyond this.
        progress: told name and bytes of every block.

    Raises:
        InputError: the folder exists, or there is no room for the checkpoint.
    """
    plans = list(tensors(dimensions))
    needed = sum(size_bytes(plan) for plan in plans) + BESIDE_BYTES
    _refuse_small_disk(target, needed)
    ids = special_ids(dimensions.vocab_size)
    with written_beside(target) as folder:
        values = RandomValues(seed)
        weight_map: dict[str, str] = {}
        shards = split(plans, shard_bytes)
        for number, shard in enumerate(shards, 1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            weight_map |= {plan.name: name for plan in shard}
            _write_shard(folder / name, shard, values, progress)
        write_tokenizer(folder, dimensions.vocab_size)
        total = sum(size_bytes(plan) for plan in plans)
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
        described = config(dimensions, ids)
        _write_json(folder / "config.json", described)
        eos = {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": [ids["<|end|>"], ids["<|endoftext|>"]]}
        _write_json(folder / "generation_config.json", {"_from_model_config": True, **eos})
        if not dimensions.text_only:
            _write_processor(folder)


def size_bytes(plan: Plan) -> int:
    """Of a tensor in bfloat16."""
    return math.prod(plan.shape) * int(BF16.itemsize)


def split(plans: list[Plan], shard_bytes: int) -> list[list[Plan]]:
    """Consecutive tensors in shards of at most this many bytes, or of one tensor."""
    shards: list[list[Plan]] = [[]]
    filled = 0
    for plan in plans:
        if shards[-1] and filled + size_bytes(plan) > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(plan)
        filled += size_bytes(plan)
    return shards


def _write_shard(
    path: Path, plans: list[Plan], values: RandomValues, progress: Callable[[str, int], None] | None
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for plan in plans:
        end = offset + size_bytes(plan)
        header[plan.name] = {"dtype": "BF16", "shape": list(plan.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for plan in plans:
            for block in values.blocks(plan):
                file.write(block.data.cast("B"))
                if progress is not None:
                    progress(plan.name, block.nbytes)


def _refuse_small_disk(target: Path, needed: int) -> None:
    there = next(folder for folder in target.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(
            f"{there}: {free / 1e9:.1f} GB of disk are free, the checkpoint needs {needed / 1e9:.1f} GB"
            " (--layers N writes a smaller one)"
        )


def _write_processor(folder: Path) -> None:
    preprocessor = {
        "audio_compression_rate": 8,
        "audio_downsample_rate": 1,
        "audio_feat_stride": 1,
        "dynamic_hd": 36,
        "feature_extractor_type": "Phi4MMAudioFeatureExtractor",
        "image_processor_type": "Phi4MMImageProcessor",
        "processor_class": "Phi4MMProcessor",
    }
    _write_json(folder / "preprocessor_config.json", preprocessor)
    _write_json(folder / "processor_config.json", {"processor_class": "Phi4MMProcessor"})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


@click.command()
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--text-only", is_flag=True, help="Phi-4-mini: no encoders and adapters, model_type phi3.")
@click.option("--layers", type=click.IntRange(1, 32), default=32, show_default=True, help="Decoder layers.")
@click.option(
    "--encoder-layers",
    type=click.IntRange(1, 26),
    help="SigLIP layers in use and conformer blocks (default: 26 and 24).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random weights.")
def main(target: Path, text_only: bool, layers: int, encoder_layers: int | None, seed: int) -> None:
    """Write a full-size checkpoint of random weights."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    dimensions = Dimensions(layers=layers, text_only=text_only)
    if encoder_layers is not None:
        blocks = min(encoder_layers, dimensions.audio_blocks)
        dimensions = replace(dimensions, vision_layers=encoder_layers + 1, audio_blocks=blocks)
    total = sum(size_bytes(plan) for plan in tensors(dimensions))
    columns = (TextColumn("{task.description:60.60}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("writing", total=total)
        try:
            make_checkpoint(
                target,
                dimensions,
                seed=seed,
                progress=lambda name, count: bar.update(task, description=name, advance=count),
            )
        except PalmtopError as error:
            bar.stop()
            click.echo(f"make_checkpoint: {error}", err=True)
            raise SystemExit(2) from error
    click.echo(f"{target}: {total / 1e9:.2f} GB of weights")


if __name__ == "__main__":
    main()
