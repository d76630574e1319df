"""How often an export reads the checkpoint, and how many bundles it writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palmtop.export import convert
from palmtop.export.arch import read_model
from palmtop.export.checkpoint import safetensors_reader
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.tensor_slice import Place
from palmtop.export.kv.calibrate import calibrated_cache
from palmtop.export.kv.stored_cache import stored_cache
from palmtop.export.mixed_precision.budget import Request
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes that were read of every tensor: all reads go through these two functions."""
    count = Counter[str]()
    rows, blocks = safetensors_reader.read_rows, safetensors_reader.read_blocks

    def counted_rows(name: str, place: Place, start: int, stop: int) -> bytes:
        data = rows(name, place, start, stop)
        count[name] += len(data)
        return data

    def counted_blocks(name: str, place: Place) -> Iterator[bytes]:
        for data in blocks(name, place):
            count[name] += len(data)
            yield data

    monkeypatch.setattr(safetensors_reader, "read_rows", counted_rows)
    monkeypatch.setattr(safetensors_reader, "read_blocks", counted_blocks)
    return count


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders of the bundles that were written."""
    folders: list[Path] = []
    write = convert.write_bundle

    def counted(folder: Path, *args: Any, **kwargs: Any) -> Any:
        folders.append(folder)
        return write(folder, *args, **kwargs)

    monkeypatch.setattr(convert, "write_bundle", counted)
    return folders


@pytest.mark.parametrize(("method", "most", "mean"), [("gptq", 4, 3.05), ("gptq-in-order", 5, 3.95)])
def test_a_calibrated_export_with_a_small_cache_reads_four_times_and_writes_once(
    reference_checkpoint: Path,
    tmp_path: Path,
    read: Counter[str],
    written: list[Path],
    method: str,
    most: int,
    mean: float,
) -> None:
    """Hash, calibration of weights and cache, writing; small weights once more while the float graphs are built."""
    checkpoint, recipe = Checkpoint(reference_checkpoint), Recipe(method=method, kv=8, context=512)
    sizes = {name: checkpoint._tensors._places[name].size_bytes for name in checkpoint.names}
    bundle = open_bundle(convert.export_model(reference_checkpoint, tmp_path / "b", recipe, request=Request(items=1)))
    assert len(written) == 1
    assert sorted(read) == sorted(sizes)
    assert max(read[name] / size for name, size in sizes.items()) <= most
    assert sum(read.values()) / sum(sizes.values()) <= mean
    stored = stored_cache(bundle.file("decoder.onnx"), bundle.manifest.decoder)
    alone = calibrated_cache(checkpoint, read_model(checkpoint, recipe), recipe, None)
    for one, other in zip(stored.layers, alone.layers, strict=True):
        assert np.allclose(one.key, other.key, rtol=1e-5)
        assert np.allclose(one.value, other.value, rtol=1e-5)
