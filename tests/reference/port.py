"""Upstream Phi-4-multimodal checkpoints <-> transformers' Phi4MultimodalForCausalLM with PEFT adapters.

The mapping is that of `verify --reference transformers` (from transformers'
`convert_phi4_multimodal_weights_to_hf.py`); the exporter has one of its own. With PEFT's adapters injected, the
backbone's names in memory (`...qkv_proj.base_layer.weight`, `...qkv_proj.lora_A.vision.weight`) are upstream's names
already: PEFT named them. Only the two towers' projections and the conformer's linears are spelt differently.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import Phi4MultimodalForCausalLM

from palmtop.export.verify.judging.multimodal_reference import RENAMES, port_config, renamed, to_port_key
from tests.reference.sizes import LORA_TARGETS, Sizes, upstream_config
from tests.reference.vocabulary import build_tokenizer, token_ids, write_tokenizer

ADAPTERS = ("vision", "speech")


def to_upstream_key(key: str) -> str:
    """Upstream spelling of a tensor name of the port with injected adapters."""
    return renamed(key, tuple((new, old) for old, new in RENAMES))


def build_port(config: dict[str, Any]) -> Phi4MultimodalForCausalLM:
    """An untrained float32 port for an upstream `config.json`, adapters `vision` and `speech` attached."""
    model = Phi4MultimodalForCausalLM._from_config(port_config(config), dtype=torch.float32)
    # Given no mask (tiles without padding), SDPA turns the port's `is_causal = True` into causal attention over
    # patches; upstream's tower has none, and the port's own eager attention neither.
    model.model.embed_tokens_extend.image_embed.img_processor.config._attn_implementation = "eager"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # two adapters are meant
        for name in ADAPTERS:
            lora = config[f"{name}_lora"]
            spec = LoraConfig(r=lora["r"], lora_alpha=lora["lora_alpha"], target_modules=LORA_TARGETS)
            model.add_adapter(spec, name)
    return model.eval()


def load_port(checkpoint_dir: Path) -> Phi4MultimodalForCausalLM:
    """Load an upstream-layout checkpoint: float32, eval, adapters `vision` and `speech`, the first one on.

    Choose with `model.set_adapter("speech")`; `model.disable_adapters()` / `enable_adapters()` switch all
    LoRA.

    Raises:
        ValueError: a tensor is missing, unexpected or misshapen.
    """
    checkpoint_dir = Path(checkpoint_dir)
    config = json.loads((checkpoint_dir / "config.json").read_text(encoding="utf-8"))
    index = json.loads((checkpoint_dir / "model.safetensors.index.json").read_text(encoding="utf-8"))
    state: dict[str, torch.Tensor] = {}
    for shard in sorted(set(index["weight_map"].values())):
        state |= {to_port_key(key): tensor.float() for key, tensor in load_file(checkpoint_dir / shard).items()}
    model = build_port(config)
    wanted = model.state_dict()
    if config["tie_word_embeddings"]:
        wanted.pop("lm_head.weight")
    if wanted.keys() != state.keys():
        missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
        raise ValueError(f"{checkpoint_dir}: missing tensors {missing}, unexpected tensors {unexpected}")
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise ValueError(f"{key} is {list(tensor.shape)}, expected {list(wanted[key].shape)}")
    model.load_state_dict(state, strict=False)
    model.set_adapter("vision")
    return model


def upstream_state(model: Phi4MultimodalForCausalLM) -> dict[str, torch.Tensor]:
    """The model's tensors under upstream's names, in bfloat16, without the head when it is tied."""
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    return {to_upstream_key(key): tensor.detach().to(torch.bfloat16).contiguous() for key, tensor in state.items()}


def write_upstream(
    model: Phi4MultimodalForCausalLM, directory: Path, sizes: Sizes, tokenizer: Tokenizer, *, shards: int = 2
) -> None:
    """Write `model` in upstream's layout; every file is renamed into place, the index last."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    state = upstream_state(model)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=directory.name + ".") as name:
        staging = Path(name)
        weight_map = _write_shards(state, staging, shards)
        total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        write_tokenizer(tokenizer, staging)
        config = upstream_config(sizes, token_ids(tokenizer))
        eos = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        documents = {
            "config.json": config,
            "generation_config.json": {"_from_model_config": True} | eos | {"transformers_version": "4.46.1"},
            "preprocessor_config.json": {
                "audio_compression_rate": 8,
                "audio_downsample_rate": 1,
                "audio_feat_stride": 1,
                "dynamic_hd": sizes.dynamic_hd,
                "feature_extractor_type": "Phi4MMAudioFeatureExtractor",
                "image_processor_type": "Phi4MMImageProcessor",
                "processor_class": "Phi4MMProcessor",
            },
            "processor_config.json": {"processor_class": "Phi4MMProcessor"},
            "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map},
        }
        for file, value in documents.items():
            (staging / file).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        for path in sorted(staging.iterdir(), key=lambda path: path.name == "model.safetensors.index.json"):
            os.replace(path, directory / path.name)


def random_checkpoint(directory: Path, seed: int, *, shards: int = 2, **sizes: Any) -> None:
    """Write an untrained checkpoint in upstream's layout whose logits vary and whose adapters matter.

    Args:
        directory: where to; made if it does not exist.
        seed: the same seed and sizes give the same bytes.
        shards: number of safetensors files.
        **sizes: fields of `Sizes` that differ from the reference model's.
    """
    chosen = replace(Sizes(), **sizes)
    if "head_dim" not in sizes:
        chosen = replace(chosen, head_dim=chosen.hidden_size // chosen.num_attention_heads)
    tokenizer = build_tokenizer()
    model = build_port(upstream_config(chosen, token_ids(tokenizer)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in sorted(model.state_dict().items()):
            if key != "lm_head.weight" or not chosen.tie_word_embeddings:
                tensor.copy_(_random_values(key, tensor, generator))
    write_upstream(model, directory, chosen, tokenizer, shards=shards)


def _random_values(key: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(like.shape, generator=generator)
    if key.endswith("global_mean"):
        return 15.0 + noise
    if key.endswith("global_invstd"):
        return 0.2 + 0.02 * noise
    if "norm" in key:
        return noise * 0.1 + (1.0 if key.endswith("weight") else 0.0)
    if like.dim() < 2 or key.endswith((".b1", ".b2", "bias_values.weight", "_extensor", "probe")):
        return noise * 0.3
    if key.endswith(("embed_tokens.weight", "lm_head.weight")):
        return noise * 4.0 / math.sqrt(like.shape[1])
    gain = 0.25 if "lora_B" in key else 1.0
    return noise * gain / math.sqrt(math.prod(like.shape[1:]))


def _write_shards(state: dict[str, torch.Tensor], directory: Path, shards: int) -> dict[str, str]:
    total = sum(tensor.numel() for tensor in state.values())
    groups: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    done = 0
    for key in sorted(state):
        groups[min(done * shards // total, shards - 1)][key] = state[key]
        done += state[key].numel()
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file(group, directory / name, metadata={"format": "pt"})
        (directory / name).chmod(0o644)  # safetensors writes 0600
        weight_map |= dict.fromkeys(group, name)
    return weight_map
