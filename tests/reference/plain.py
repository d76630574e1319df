"""The port without adapters, for PEFT to put its own on; and PEFT folders of every kind, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Phi4MultimodalForCausalLM

from palmtop.export.verify.judging.multimodal_reference import port_config
from tests.reference.port import load_port

TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def plain_port(checkpoint: Path) -> Phi4MultimodalForCausalLM:
    """Float32, eval, every weight of the base and no adapter."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    state = {
        key.replace(".base_layer", ""): tensor
        for key, tensor in load_port(checkpoint).state_dict().items()
        if ".lora_" not in key
    }
    model = Phi4MultimodalForCausalLM._from_config(port_config(config), dtype=torch.float32)
    model.load_state_dict(state)
    return model.eval()


def language_targets(*modules: str) -> str:
    """PEFT's pattern for modules of the decoder; the encoders have some of the same names."""
    return rf"model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(modules or TARGETS)})"


def random_lora(checkpoint: Path, folder: Path, seed: int, *, safe: bool = True, **config: Any) -> PeftModel:
    """Write a LoRA with random weights as PEFT does; gives the float model with it."""
    settings = {"r": 8, "lora_alpha": 16, "target_modules": language_targets(), **config}
    model = get_peft_model(plain_port(checkpoint), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if ".lora_" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.08)
    if safe:
        model.save_pretrained(folder)
        return model.eval()
    model.save_pretrained(folder)  # PEFT 0.21 writes safetensors only; the older file is what it wrote before
    from safetensors.torch import load_file

    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    return model.eval()
