"""Read a PEFT LoRA folder (adapter_config.json, adapter_model.safetensors) as an ``Adapter``."""

from __future__ import annotations

import re

from palmtop.errors import CheckpointError

from .config_keys import Keys, read_json_object
from .graph.lora import Adapter, LoraPair
from .tensor_folder import TensorFolder

KEY_PREFIX = "base_model.model.model."  # of the causal model inside PEFT's wrapper, and of its decoder
_TENSOR = re.compile(re.escape(KEY_PREFIX) + r"(layers\.\d+\.(?:self_attn|mlp)\.\w+)\.lora_[AB]\.weight$")


def read_adapter(folder: TensorFolder, name: str) -> Adapter:
    """Interpret a folder; no tensor is read yet.

    Args:
        folder: with adapter_config.json.
        name: the adapter's name in the bundle.

    Raises:
        CheckpointError: not a LoRA, or one of a kind that palmtop does not fold (DoRA, rank patterns).
    """
    config = Keys(read_json_object(folder.path / "adapter_config.json"), f"{folder.path.name}/adapter_config.json")
    kind = config.text("peft_type", default="LORA")
    if kind != "LORA":
        raise CheckpointError(f"{config.where}: peft_type is '{kind}', expected 'LORA'")
    for key in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias"):
        if config.data.get(key):
            raise CheckpointError(f"{config.where}: {key} is {config.data[key]!r}, expected a plain LoRA")
    rank, alpha = config.size("r"), config.number("lora_alpha")
    scale = alpha / rank**0.5 if config.flag("use_rslora", default=False) else alpha / rank

    def pair(target: str) -> LoraPair | None:
        a, b = (f"{KEY_PREFIX}{target}.lora_{part}.weight" for part in "AB")
        if folder.shape(a) is None and folder.shape(b) is None:
            return None
        return LoraPair(folder.weight(a), folder.weight(b).scaled(scale))

    for tensor in folder.names:
        match = _TENSOR.match(tensor)
        if match is None or (pair(match[1]) is None):
            raise CheckpointError(f"{folder.path}: tensor '{tensor}' there, expected {KEY_PREFIX}layers.N...")
    return Adapter(name=name, rank=rank, alpha=alpha, pair=pair)
