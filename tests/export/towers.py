"""Small towers of the transformers port with random weights that matter, and the same as ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from transformers import Phi4MultimodalConfig
from transformers.models.phi4_multimodal import modeling_phi4_multimodal as port

from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict, from_array
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.source import BuildContext
from palmtop.export.graph.encoders.audio_config import AudioConfig
from palmtop.export.graph.encoders.conformer import Conformer
from palmtop.export.graph.encoders.siglip import Siglip
from palmtop.export.graph.encoders.vision_config import VisionConfig
from palmtop.export.graph.linear import FLOAT, GraphPrecision, Precision

PREFIX = "model.embed_tokens_extend."
TEXT_HIDDEN = 48


def port_config(vision: dict[str, Any] | None = None, audio: dict[str, Any] | None = None) -> Phi4MultimodalConfig:
    """A config of tiny towers; given keys replace the defaults. Attention is eager: see siglip.py."""
    small_vision = {
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 56,
        "crop_size": 56,
        "patch_size": 14,
        "image_token_id": 3,
    }
    small_audio = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_blocks": 2,
        "num_attention_heads": 4,
        "nemo_conv_channels": 16,
        "ext_pw_out_channel": 32,
        "depthwise_separable_out_channel": 32,
        "bias_max_distance": 500,
        "audio_token_id": 4,
    }
    config = Phi4MultimodalConfig(
        vocab_size=16,
        hidden_size=TEXT_HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vision_config=small_vision | (vision or {}),
        audio_config=small_audio | (audio or {}),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    for part in (config, config.vision_config, config.audio_config):
        part._attn_implementation = "eager"
    return config


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights of a trained model's spread: outputs depend on every one of them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, deviation: float, mean: float = 0.0) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * deviation + mean)

    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if ("norm" in name and name.endswith("weight")) or name.endswith("global_invstd"):
                normal(tensor, 0.2, 1.0)
            elif "bias_values" in name or tensor.ndim < 2 or "extensor" in name or "position_embedding" in name:
                normal(tensor, 0.5)
            else:
                normal(tensor, 1.4 / tensor[0].numel() ** 0.5)
    return module.eval()


def arrays_of(module: torch.nn.Module, inside: str) -> dict[str, NDArray[np.float32]]:
    """The module's tensors under the names that the checkpoint would give them."""
    return {PREFIX + inside + name: tensor.float().numpy() for name, tensor in module.state_dict().items()}


def weights_from(arrays: dict[str, NDArray[np.float32]], asked: list[str] | None = None) -> StateDict:
    """Tensors seen from ``model.``; ``asked`` takes down what is read."""

    def find(name: str) -> LazyTensor:
        if asked is not None:
            asked.append(name)
        return from_array(name, arrays[name])

    return StateDict(find, "model.")


def vision_config(config: Phi4MultimodalConfig) -> VisionConfig:
    names = set(VisionConfig.__dataclass_fields__) - {"output_size"}
    return VisionConfig(**{n: getattr(config.vision_config, n) for n in names}, output_size=config.hidden_size)


def audio_config(config: Phi4MultimodalConfig) -> AudioConfig:
    names = set(AudioConfig.__dataclass_fields__) - {"output_size"}
    return AudioConfig(**{n: getattr(config.audio_config, n) for n in names}, output_size=config.hidden_size)


def image_embedding(config: Phi4MultimodalConfig, seed: int = 0) -> Any:
    return randomise(port.Phi4MultimodalImageEmbedding(config), seed)


def audio_embedding(config: Phi4MultimodalConfig, seed: int = 0) -> Any:
    return randomise(port.Phi4MultimodalAudioEmbedding(config), seed)


def write_graph(path: Path, build: Callable[[GraphBuilder], None]) -> Path:
    """A graph and its weights as files."""
    with ExternalData(path.parent, f"weights/{path.stem}.bin") as sink:
        g = GraphBuilder(path.stem, sink)
        build(g)
        ir.save(g.model(), path)
    return path


def build_vision(g: GraphBuilder, weights: StateDict, config: VisionConfig, precision: Precision) -> None:
    Siglip(config).build(g, BuildContext(weights=weights, precision=GraphPrecision(precision, precision, precision)))


def build_audio(g: GraphBuilder, weights: StateDict, config: AudioConfig, precision: Precision) -> None:
    Conformer(config).build(g, BuildContext(weights=weights, precision=GraphPrecision(precision, precision, precision)))


def write_vision(
    folder: Path, embedding: torch.nn.Module, config: Phi4MultimodalConfig, precision: Precision = FLOAT
) -> Path:
    weights = weights_from(arrays_of(embedding, "image_embed."))
    return write_graph(folder / "vision.onnx", lambda g: build_vision(g, weights, vision_config(config), precision))


def write_audio(
    folder: Path, embedding: torch.nn.Module, config: Phi4MultimodalConfig, precision: Precision = FLOAT
) -> Path:
    weights = weights_from(arrays_of(embedding, "audio_embed."))
    return write_graph(folder / "audio.onnx", lambda g: build_audio(g, weights, audio_config(config), precision))


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference as a part of the expected values' range."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.ptp(expected))


def snr_db(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Power of the expected values over the power of the difference."""
    assert found.shape == expected.shape
    return float(10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()))
