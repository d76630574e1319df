"""Reader of a PEFT LoRA folder (adapter_config.json and its tensors) as an ``Adapter``. Independent of graphs."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from palmtop.errors import CheckpointError

from .lora import Adapter, LoraPair
from .peft_config import CONFIG_FILE, PREFIX, PeftConfig, module_names
from .safetensors_reader import SafetensorsReader
from .torch_zip_reader import torch_places

SAFETENSORS_FILE, TORCH_FILE = "adapter_model.safetensors", "adapter_model.bin"
KEY_PREFIX = f"{PREFIX}model."  # prefix of the causal model inside PEFT's wrapper, and of its decoder
FUSED_TARGETS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
SPLIT_TARGETS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_TENSOR = re.compile(r"(.+)\.lora_([AB])(?:\.([^.]+))?\.weight")
# Names of parts around the decoder in causal and multimodal models; the encoders have other names.
_DECODER_MODULE = re.compile(
    r"(?:(?:model|language_model|text_model)\.)*(layers\.\d+)\.((?:self_attn|mlp|shared_mlp)\.\w+)"
)
# Names that a family has for a module that is the same as another family's: dense Granite 4.
_SAME_AS = {"shared_mlp.input_linear": "mlp.gate_up_proj", "shared_mlp.output_linear": "mlp.down_proj"}


def open_peft(path: Path) -> SafetensorsReader:
    """The tensors of a PEFT folder: safetensors, else torch's file.

    Raises:
        CheckpointError: neither exists, or the file cannot be read.
    """
    if not (path / CONFIG_FILE).is_file():
        raise CheckpointError(f"{path}: has no {CONFIG_FILE}, expected a folder that PEFT's save_pretrained wrote")
    if (path / SAFETENSORS_FILE).is_file():
        return SafetensorsReader(path)
    if (path / TORCH_FILE).is_file():
        return SafetensorsReader(path, torch_places(path / TORCH_FILE))
    raise CheckpointError(f"{path}: has neither {SAFETENSORS_FILE} nor {TORCH_FILE}")


def read_adapter(folder: SafetensorsReader, name: str, *, targets: Collection[str] = FUSED_TARGETS) -> Adapter:
    """Interpret a folder; no tensor is read yet.

    Args:
        folder: folder with adapter_config.json.
        name: name of the adapter in the bundle.
        targets: modules of a layer that it may adapt, with the names of the adapter's own base.

    Raises:
        CheckpointError: not a LoRA, a kind that cannot be added to a linear, or tensors that contradict the config;
            names key or tensor.
    """
    config = PeftConfig(folder.path)
    pairs = _pairs(folder, config, targets)
    if not pairs:
        raise CheckpointError(f"{folder.path}: has no LoRA tensors, expected {KEY_PREFIX}layers.N...lora_A.weight")
    config.warn_of_unused_patterns()
    prefix = next(iter(_parts(folder, targets).values())).prefix
    return Adapter(
        name=name,
        rank=max(pair.a.shape[0] for pair in pairs.values()),
        alpha=config.alpha,
        pair=pairs.get,
        targets=tuple(pairs),
        is_named=lambda linear: any(
            config.names_target((f"{prefix}{name}", name, f"model.{name}")) for name in _all_names(linear)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """Tensors of one module.

    Attributes:
        names: names that PEFT may use for the module.
        prefix: text before "layers." in the last of them.
        tensors: names in the file, by "A" and "B".
    """

    names: tuple[str, ...]
    prefix: str
    tensors: dict[str, str]


def _pairs(folder: SafetensorsReader, config: PeftConfig, targets: Collection[str]) -> dict[str, LoraPair]:
    """By the linear's name below the decoder, alpha / r folded into b."""
    found = {}
    for target, parts in sorted(_parts(folder, targets).items(), key=lambda item: _in_layer_order(item[0])):
        if missing := {"A", "B"} - parts.tensors.keys():
            there = next(iter(parts.tensors.values()))
            raise CheckpointError(f"{folder.path}: tensor '{there}' has no lora_{missing.pop()} beside it")
        if not config.is_target((*parts.names, target, f"model.{target}")):
            raise CheckpointError(
                f"{folder.path}: tensor '{parts.tensors['A']}' there, but target_modules, exclude_modules and"
                f" layers_to_transform of {config.where} leave that module out, expected tensors of its targets only"
            )
        a, b = folder.weight(parts.tensors["A"]), folder.weight(parts.tensors["B"])
        rank = config.rank(parts.names)
        for weight, axis in ((a, 0), (b, 1)):
            if len(weight.shape) != 2 or weight.shape[axis] != rank:
                raise CheckpointError(
                    f"tensor '{weight.name}' is {list(weight.shape)}, expected rank {rank} as {config.where} says"
                )
        found[target] = LoraPair(a, b.scaled(config.scale(parts.names)))
    return found


def _parts(folder: SafetensorsReader, targets: Collection[str]) -> dict[str, _Parts]:
    """Every module's tensors, by the linear's name below the decoder."""
    parts: dict[str, _Parts] = {}
    adapters: dict[str, str] = {}
    for tensor in folder.names:
        match = _TENSOR.fullmatch(tensor)
        names = module_names(match[1]) if match is not None else ("",)
        target = _DECODER_MODULE.fullmatch(names[-1])
        module = "" if target is None else _SAME_AS.get(target[2], target[2])
        if match is None or target is None or module not in targets:
            expected = f"{KEY_PREFIX}layers.N.(MODULE).lora_A.weight with a module of {', '.join(targets)}"
            raise CheckpointError(f"{folder.path}: tensor '{tensor}' there, expected {expected}")
        adapters.setdefault(match[3] or "default", tensor)
        if len(adapters) > 1:
            one, other = adapters.values()
            raise CheckpointError(f"{folder.path}: tensors '{one}' and '{other}' there, expected one adapter")
        prefix = names[-1][: target.start(1)]
        there = parts.setdefault(f"{target[1]}.{module}", _Parts(names, prefix, {})).tensors
        if match[2] in there:
            raise CheckpointError(f"{folder.path}: tensors '{there[match[2]]}' and '{tensor}' are of one module")
        there[match[2]] = tensor
    return parts


def _all_names(linear: str) -> list[str]:
    """Names of a linear of the decoder in any family."""
    layer, _, module = linear.removeprefix("layers.").partition(".")
    return [linear, *(f"layers.{layer}.{other}" for other, same in _SAME_AS.items() if same == module)]


def _in_layer_order(target: str) -> tuple[int, str]:
    return int(target.split(".")[1]), target
