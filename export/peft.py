"""Read a PEFT LoRA folder (adapter_config.json and its tensors) as an ``Adapter``. Knows PEFT's words, no graph."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from palmtop.errors import CheckpointError

from .config_keys import Keys, read_json_object
from .graph.lora import Adapter, LoraPair
from .tensor_folder import TensorFolder
from .torch_file import torch_places

CONFIG_FILE = "adapter_config.json"
SAFETENSORS_FILE, TORCH_FILE = "adapter_model.safetensors", "adapter_model.bin"
KEY_PREFIX = "base_model.model.model."  # of the causal model inside PEFT's wrapper, and of its decoder
FUSED_TARGETS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
SPLIT_TARGETS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_TENSOR = re.compile(
    r"base_model\.model\.(?:model\.)?(?:language_model\.)?(?:model\.)?"
    r"(layers\.\d+\.(?:self_attn|mlp)\.\w+)\.lora_([AB])(?:\.default)?\.weight"
)
# What PEFT can do besides, and why a low-rank branch beside a frozen linear cannot stand for it.
_REFUSED = {
    "use_dora": "DoRA rescales each row by the norm of base plus delta, which a branch beside a quantised base has not",
    "use_qalora": "QA-LoRA pools its inputs",
    "alora_invocation_tokens": "an activated LoRA begins in the middle of a prompt",
    "modules_to_save": "whole layers would have to be replaced, and the base is shared",
    "trainable_token_indices": "rows of the shared embedding would have to be replaced",
    "target_parameters": "it adapts parameters that are not linear layers",
    "layer_replication": "the base would need more layers",
    "fan_in_fan_out": "its base keeps weights transposed",
    "lora_bias": "its B has a bias",
    "megatron_config": "its layers are split over processes",
    "use_bdlora": "its tensors are blocks of another product",
    "kasa_config": "its product has singular values between A and B",
    "monteclora_config": "its weights are drawn anew",
    "arrow_config": "it routes between adapters by token",
}
_BASE_CHANGING_INIT = ("pissa", "olora", "corda", "loftq", "lora_ga")


def open_peft(path: Path) -> TensorFolder:
    """The tensors of a PEFT folder: safetensors, else torch's file.

    Raises:
        CheckpointError: neither is there, or it cannot be read.
    """
    if not (path / CONFIG_FILE).is_file():
        raise CheckpointError(f"{path}: has no {CONFIG_FILE}, expected a folder that PEFT's save_pretrained wrote")
    if (path / SAFETENSORS_FILE).is_file():
        return TensorFolder(path)
    if (path / TORCH_FILE).is_file():
        return TensorFolder(path, torch_places(path / TORCH_FILE))
    raise CheckpointError(f"{path}: has neither {SAFETENSORS_FILE} nor {TORCH_FILE}")


def read_adapter(folder: TensorFolder, name: str, *, targets: Collection[str] = FUSED_TARGETS) -> Adapter:
    """Interpret a folder; no tensor is read yet.

    Args:
        folder: with adapter_config.json.
        name: the adapter's name in the bundle.
        targets: modules of a layer that it may adapt; their names are those of the adapter's own base.

    Raises:
        CheckpointError: not a LoRA, one of a kind that cannot stand beside a linear, or tensors that contradict the
            config; names key or tensor.
    """
    config = Keys(read_json_object(folder.path / CONFIG_FILE), f"{folder.path.name}/{CONFIG_FILE}")
    _refuse_other_kinds(config)
    alpha = config.number("lora_alpha")
    pairs = _pairs(folder, config, targets)
    if not pairs:
        raise CheckpointError(f"{folder.path}: has no LoRA tensors, expected {KEY_PREFIX}layers.N...lora_A.weight")
    return Adapter(
        name=name,
        rank=max(pair.a.shape[0] for pair in pairs.values()),
        alpha=alpha,
        pair=pairs.get,
        targets=tuple(pairs),
    )


def _refuse_other_kinds(config: Keys) -> None:
    kind = config.text("peft_type", default="LORA")
    if kind != "LORA":
        raise CheckpointError(f"{config.where}: peft_type is '{kind}', expected 'LORA'")
    for key, reason in _REFUSED.items():
        if config.data.get(key):
            raise CheckpointError(f"{config.where}: {key} is {config.data[key]!r}, expected a plain LoRA: {reason}")
    bias = config.data.get("bias", "none")
    if bias != "none":
        raise CheckpointError(f"{config.where}: bias is {bias!r}, expected 'none': trained biases belong to the base")
    init = config.data.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INIT):
        raise CheckpointError(
            f"{config.where}: init_lora_weights is '{init}', expected a LoRA of the unchanged base: that start moves a"
            " part of the base into the adapter; save it with PEFT's path_initial_model_for_weight_conversion"
        )


def _pairs(folder: TensorFolder, config: Keys, targets: Collection[str]) -> dict[str, LoraPair]:
    """By the linear's name below the decoder, alpha / r folded into b."""
    parts: dict[str, dict[str, str]] = {}
    for tensor in folder.names:
        match = _TENSOR.fullmatch(tensor)
        if match is None or match[1].split(".", 2)[2] not in targets:
            expected = f"{KEY_PREFIX}layers.N.(MODULE).lora_A.weight with a module of {', '.join(targets)}"
            raise CheckpointError(f"{folder.path}: tensor '{tensor}' there, expected {expected}")
        parts.setdefault(match[1], {})[match[2]] = tensor
    found = {}
    for target, names in sorted(parts.items(), key=lambda item: _in_layer_order(item[0])):
        if missing := {"A", "B"} - names.keys():
            there = next(iter(names.values()))
            raise CheckpointError(f"{folder.path}: tensor '{there}' has no lora_{missing.pop()} beside it")
        a, b = folder.weight(names["A"]), folder.weight(names["B"])
        rank = _pattern(config, "rank_pattern", target)
        expected_rank = config.size("r") if rank is None else int(rank)
        for weight, axis in ((a, 0), (b, 1)):
            if len(weight.shape) != 2 or weight.shape[axis] != expected_rank:
                raise CheckpointError(
                    f"tensor '{weight.name}' is {list(weight.shape)}, expected rank {expected_rank} as"
                    f" {config.where} says"
                )
        alpha = _pattern(config, "alpha_pattern", target)
        alpha = config.number("lora_alpha") if alpha is None else alpha
        rslora = config.flag("use_rslora", default=False)
        found[target] = LoraPair(a, b.scaled(alpha / (expected_rank**0.5 if rslora else expected_rank)))
    return found


def _in_layer_order(target: str) -> tuple[int, str]:
    return int(target.split(".")[1]), target


def _pattern(config: Keys, key: str, target: str) -> float | None:
    """A module's own rank or alpha; PEFT matches its keys, regular expressions, against the end of the name."""
    patterns: Any = config.data.get(key) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{config.where}: {key} is {type(patterns).__name__}, expected an object")
    for pattern, value in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", f"model.{target}") is not None
        except re.error as error:
            raise CheckpointError(f"{config.where}: {key} has '{pattern}', not a pattern ({error})") from error
        if matches:
            return Keys({key: value}, config.where).number(key)
    return None
