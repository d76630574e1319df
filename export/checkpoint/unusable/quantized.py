"""Quantised checkpoints, recognised by their config, by files beside it, and by names of tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from palmtop.errors import CheckpointError

FLOAT_WANTED = "palmtop quantises itself; export the float model that this one was made of"
# Keys of config.json that hold a quantiser's settings.
CONFIG_KEYS = ("quantization_config", "compression_config", "quantization", "quantize_config")
# Files that older quantisers write beside a config.json without their settings.
FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
    "quanto_qmap.json": "Quanto",
    "quantization_config.json": None,
}
NAMES = {
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "awq": "AWQ",
    "bitnet": "BitNet",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "EETQ",
    "fbgemm_fp8": "FBGEMM FP8",
    "fp8": "FP8",
    "gptq": "GPTQ",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
    "quanto": "Quanto",
    "quark": "Quark",
    "spqr": "SpQR",
    "torchao": "TorchAO",
    "vptq": "VPTQ",
}
# Ends of tensor names that only quantised layers have.
TENSORS = (
    (re.compile(r"\.weight\.(?:absmax|quant_map|nested_absmax|quant_state\..*)|\.SCB|\.weight_format"), "bitsandbytes"),
    (re.compile(r"\.(?:qweight|qzeros|g_idx)"), "GPTQ or AWQ"),
    (re.compile(r"\.(?:weight_packed|weight_shape|weight_zero_point)"), "compressed-tensors"),
    (re.compile(r"\.(?:W_q|meta)"), "HQQ"),
    (re.compile(r"\.weight_scale(?:_inv|_2)?|\.(?:input|k|v|activation)_scale"), "FP8"),
    (re.compile(r"\.weight\._(?:data|scale|shift)|\.(?:input|output)_scale"), "Quanto"),
    (re.compile(r"_(?:blocks|scales)"), "MXFP4"),
    (re.compile(r"\.(?:scales|biases)"), "MLX"),
)


def refuse_quantized_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that config.json, one of its sections, or a file beside it describes as quantised.

    Raises:
        CheckpointError: the checkpoint is quantised; names the method.
    """
    sections = [("", config), *((f"{k}.", v) for k, v in config.items() if isinstance(v, Mapping))]
    for prefix, section in sections:
        for key in CONFIG_KEYS:
            if section.get(key):
                raise CheckpointError(
                    f"{folder / 'config.json'}: {prefix}{key} says that the checkpoint is quantised"
                    f" ({_method(section[key])}), expected float weights: {FLOAT_WANTED}"
                )
    for name, method in FILES.items():
        if (folder / name).is_file():
            by = "" if method is None else f" ({method})"
            raise CheckpointError(
                f"{folder / name}: is there, so the checkpoint is quantised{by}, expected float weights: {FLOAT_WANTED}"
            )


def refuse_quantized_tensors(folder: Path, names: Iterable[str]) -> None:
    """Refuse a checkpoint with a quantiser's tensors, independent of its config.

    Raises:
        CheckpointError: a tensor has such a name; names the method.
    """
    for name in names:
        for pattern, method in TENSORS:
            found = pattern.search(name)
            if found is not None and found.end() == len(name):
                raise CheckpointError(
                    f"{folder}: tensor '{name}' is one of a quantised checkpoint ({method}), expected float weights:"
                    f" {FLOAT_WANTED}"
                )


def _method(settings: Any) -> str:
    """Name and bits of the method, if the settings contain them."""
    if not isinstance(settings, Mapping):
        return str(settings)[:60]
    method = settings.get("quant_method") or settings.get("quant_algo") or settings.get("quant_type")
    bits = settings.get("bits") or settings.get("w_bit") or settings.get("nbits")
    if method is None:
        method = "bitsandbytes" if any("load_in_" in key or key.startswith("bnb_") for key in settings) else None
    for flag, count in (("load_in_4bit", 4), ("load_in_8bit", 8), ("_load_in_4bit", 4), ("_load_in_8bit", 8)):
        if settings.get(flag):
            bits = count
    if method is None:
        method = "MLX" if {"group_size", "bits"} <= settings.keys() else "by an unnamed method"
    name = NAMES.get(str(method).lower(), str(method)[:40])
    return f"{name}, {bits} bits" if isinstance(bits, int) else name
