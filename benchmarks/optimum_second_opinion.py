"""The native encoder graphs against the same towers exported by optimum: one more opinion, from other code.

Run where ``pip install '.[optimum,export]'`` was done (transformers 4.57; no torchvision), from the
root: ``python -m benchmarks.optimum_second_opinion``. ``--full`` takes the reference model's sizes (random
weights; needs 12 GB of RAM and some minutes). Exits with 1 when the two disagree.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.optimum_route import export_module
from tests.export.towers import (
    audio_embedding,
    image_embedding,
    port_config,
    relative_error,
    session,
    write_audio,
    write_vision,
)

AGREEMENT = 1e-5  # of the range, float32 against float32

FULL_VISION = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 448, "crop_size": 448, "patch_size": 14,
}  # fmt: skip
FULL_AUDIO = {
    "hidden_size": 1024, "intermediate_size": 1536, "num_blocks": 24, "num_attention_heads": 16,
    "nemo_conv_channels": 1024, "ext_pw_out_channel": 1024, "depthwise_separable_out_channel": 1024,
}  # fmt: skip


class VisionTower(torch.nn.Module):  # type: ignore[misc, unused-ignore]  # Any where torch is not followed
    """Tower, pooling and projector of the port, as one traceable module."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, pixel_values: torch.Tensor, patch_mask: torch.Tensor) -> torch.Tensor:
        """[N, 3, C, C] and [N, P, P] -> [N, p * p, H]."""
        e = self.embedding
        rows = e.get_img_features(pixel_values, patch_mask)
        features: torch.Tensor = e.img_projection_down(torch.nn.functional.gelu(e.img_projection_up(rows)))
        return features


class AudioTower(torch.nn.Module):  # type: ignore[misc, unused-ignore]  # Any where torch is not followed
    """Encoder and one projector of the port, as one traceable module."""

    def __init__(self, embedding: Any, pair: str = "speech") -> None:
        super().__init__()
        self.encoder = embedding.encoder
        self.up = getattr(embedding, f"up_proj_for_{pair}")
        self.down = getattr(embedding, f"down_proj_for_{pair}")

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """[1, T, mels] -> [1, S, H]."""
        features: torch.Tensor = self.down(torch.nn.functional.gelu(self.up(self.encoder(log_mel, None))))
        return features


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """How far two exports of one tower are apart.

    Attributes:
        tower: which one.
        difference: the largest, as a part of the features' range.
        native_s: seconds for a run of the native graph.
        optimum_s: seconds for a run of optimum's.
    """

    tower: str
    difference: float
    native_s: float
    optimum_s: float


def compare_vision(folder: Path, sizes: dict[str, Any], seed: int = 0) -> Opinion:
    """Two tiles, the second partly masked."""
    config = port_config(sizes)
    embedding = image_embedding(config, seed)
    side, patches = (
        config.vision_config.image_size,
        config.vision_config.image_size // config.vision_config.patch_size,
    )
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(2, patches, patches, dtype=torch.bool)
    mask[1, :, patches - 1 :] = False  # a mask in the example, or tracing leaves the masked branch out
    feeds = {"pixel_values": pixels, "patch_mask": mask}
    other = export_module(VisionTower(embedding), feeds, ["features"], folder / "optimum_vision.onnx")
    native = write_vision(folder, embedding, config)
    arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
    return _opinion("vision", native, arrays, other, arrays)


def compare_audio(folder: Path, sizes: dict[str, Any], frames: int = 300, seed: int = 0) -> Opinion:
    """One sound; tracing fixes its length."""
    config = port_config(None, sizes)
    embedding = audio_embedding(config, seed)
    mel = torch.randn(1, frames, 80, generator=torch.Generator().manual_seed(seed))
    other = export_module(AudioTower(embedding), {"log_mel": mel}, ["features"], folder / "optimum_audio.onnx")
    native = write_audio(folder, embedding, config)
    feeds = {"log_mel": mel.numpy()}
    switches = {name: np.zeros(1, np.int64) for name in ("left_context", "window", "projector")}
    return _opinion("audio", native, feeds | switches, other, feeds)


def _opinion(
    tower: str, native: Path, native_feeds: dict[str, Any], other: Path, other_feeds: dict[str, Any]
) -> Opinion:
    ours, native_s = _timed(lambda: session(native), native_feeds)
    theirs, optimum_s = _timed(lambda: session(other), other_feeds)
    difference = relative_error(ours.reshape(theirs.shape), theirs)
    return Opinion(tower=tower, difference=difference, native_s=native_s, optimum_s=optimum_s)


def _timed(open_session: Callable[[], Any], feeds: dict[str, Any]) -> tuple[NDArray[np.float32], float]:
    graph = open_session()
    graph.run(None, feeds)
    start = time.perf_counter()
    first: NDArray[np.float32] = graph.run(None, feeds)[0]
    return first, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the reference model's sizes")
    full = parser.parse_args().full
    warnings.filterwarnings("ignore")  # the tracer's, which are about lengths that this does not vary
    with tempfile.TemporaryDirectory() as name:
        opinions = [
            compare_vision(Path(name), FULL_VISION if full else {}),
            compare_audio(Path(name), FULL_AUDIO if full else {}),
        ]
    for o in opinions:
        print(
            f"{o.tower:7} difference {o.difference:.1e} of range, "
            f"native {o.native_s:.3f} s, optimum {o.optimum_s:.3f} s"
        )
    return int(any(o.difference > AGREEMENT for o in opinions))


if __name__ == "__main__":
    sys.exit(main())
