"""Writer of PEFT folders: from a bundle's adapter, dequantised, or from arrays. Needs neither PEFT nor torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import palmtop
from palmtop.errors import InputError
from palmtop.export.bundle.atomic_directory import written_beside
from palmtop.export.checkpoint.peft_config import CONFIG_FILE
from palmtop.export.checkpoint.peft_reader import KEY_PREFIX, SAFETENSORS_FILE
from palmtop.export.graph.head_padding import Heads
from palmtop.runtime.bundle.opening import Bundle

from .adapter_source import ORIGIN_FILE
from .graph import DecoderGraph, Delta


@dataclass(frozen=True, slots=True)
class Product:
    """A low-rank delta ``b @ a`` in memory, in the checkpoint's layout.

    Attributes:
        a: [r, K] float32.
        b: [N, r] float32, all scales folded in.
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]

    @property
    def rank(self) -> int:
        """Rank r of the product."""
        return len(self.a)


Products = Mapping[str, Product]


def products_of(bundle: Bundle, name: str) -> dict[str, Product]:
    """Return the deltas of a bundle's adapter, dequantised, by linear.

    Raises:
        InputError: there is no such adapter.
    """
    if bundle.manifest.adapter(name) is None:
        there = ", ".join(a.name for a in bundle.manifest.adapters) or "none"
        raise InputError(f"adapter '{name}' is not in {bundle.path}, its adapters are: {there}")
    graph = DecoderGraph(bundle.file(bundle.manifest.decoder.file))
    heads = graph.heads(bundle.manifest.decoder)
    return {linear: _unpadded(linear, delta, heads) for linear, delta in graph.deltas(name).items()}


def export_adapter(bundle: Bundle, name: str, target: Path) -> None:
    """Write one of a bundle's adapters as a PEFT folder, dequantised.

    Raises:
        InputError: there is no such adapter, or the folder exists or cannot be written.
    """
    products = products_of(bundle, name)
    spec = bundle.manifest.adapter(name)
    assert spec is not None  # already refused by products_of
    origin: dict[str, Any] = {"base_sha256": spec.base_sha256, "merged_from": spec.merged_from}
    write_peft(target, products, spec.alpha, origin, base=bundle.manifest.model)


def write_peft(target: Path, products: Products, alpha: float, origin: Mapping[str, Any], *, base: str = "") -> None:
    """Write a PEFT folder; it appears whole or not at all.

    Args:
        target: path of a new folder.
        products: products by linear, such as "layers.0.mlp.down_proj".
        alpha: lora_alpha of the linears with the largest rank; alpha / r is divided out of b again.
        origin: palmtop's record of its origin (``adapter_source.Origin``).
        base: name of the base model, for information.

    Raises:
        InputError: the folder exists or cannot be written.
    """
    from safetensors.numpy import save_file

    rank = max(product.rank for product in products.values())
    scale = alpha / rank
    if not math.isfinite(scale) or scale == 0:
        raise InputError(f"alpha is {alpha}, expected a number other than 0")
    tensors: dict[str, NDArray[np.float32]] = {}
    others = {}
    for linear, product in products.items():
        tensors[f"{KEY_PREFIX}{linear}.lora_A.weight"] = np.ascontiguousarray(product.a)
        tensors[f"{KEY_PREFIX}{linear}.lora_B.weight"] = np.ascontiguousarray(product.b / np.float32(scale))
        if product.rank != rank:
            others[linear] = product.rank
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": others,
        "alpha_pattern": {linear: scale * r for linear, r in others.items()},
        "target_modules": [f"model.{linear}" for linear in products],  # encoders have modules of the same last name
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    with written_beside(target, overwrite=None) as folder:
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1), "utf-8")
        (folder / ORIGIN_FILE).write_text(json.dumps({"palmtop": palmtop.__version__, **origin}, indent=1), "utf-8")
        save_file(tensors, folder / SAFETENSORS_FILE, metadata={"format": "pt"})
        (folder / SAFETENSORS_FILE).chmod((folder / CONFIG_FILE).stat().st_mode)  # the library's name is private


def _unpadded(linear: str, delta: Delta, heads: Heads) -> Product:
    a, b = delta.a.array(), delta.b.array()
    rows, columns = heads.padded_rows(), heads.padded_columns()
    if rows is not None and linear.endswith(".qkv_proj"):
        b = b[rows >= 0]
    if columns is not None and linear.endswith(".o_proj"):
        a = a[:, columns >= 0]
    return Product(a, b)
