"""MiniCPM-V in torch, apart from palmtop: transformers' SigLIP blocks and text models, the resampler by its formulas.

Its ``state_dict`` has the names of the published checkpoints, so a saved one has their structure.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
)
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from palmtop.runtime.processor.prompt import Segment
from tests.export.families import CHATML, SMALL, ends, tokenizer
from tests.reference.vocabulary import write_tokenizer

MARKUP = ("<unk>", "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>")
THINKING_CHATML = CHATML + (
    "{% if add_generation_prompt and enable_thinking is defined %}"
    "{% if enable_thinking %}{{ '<think>\n' }}{% else %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
VISION = {
    "hidden_size": 32,
    "image_size": 98,
    "intermediate_size": 56,
    "model_type": "siglip",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "patch_size": 14,
}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 1.0,
    "long_factor": [1.0 + 0.25 * i for i in range(16)],
    "short_factor": [1.0 + 0.25 * i for i in range(16)],
    "original_max_position_embeddings": 260,
}
CLASSES: dict[float, tuple[Any, Any]] = {
    2.6: (Qwen2Config, Qwen2ForCausalLM),
    4.0: (LlamaConfig, LlamaForCausalLM),
    4.5: (Qwen3Config, Qwen3ForCausalLM),
}
OUTSIDE = ("version", "vision", "queries", "slices", "scale")
"""Changes that are not settings of the text model."""


class Tower(nn.Module):
    """SigLIP for views of any shape, with position ids from torch's own buckets."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        config = SiglipVisionConfig(**sizes)
        config._attn_implementation = "eager"
        self.side = config.image_size // config.patch_size
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.embeddings.position_embedding = nn.Embedding(self.side**2, config.hidden_size)
        self.encoder = SiglipEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """[N, 3, h, w] -> [N, P, hidden], and the grid."""
        maps = self.embeddings.patch_embedding(pixels)
        rows, columns = maps.shape[2:]
        boundaries = torch.arange(1 / self.side, 1.0, 1 / self.side)
        places = [
            torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / torch.tensor(n)), boundaries, right=True)
            for n in (rows, columns)
        ]
        ids = (places[0][:, None] * self.side + places[1]).flatten()
        hidden = maps.flatten(2).transpose(1, 2) + self.embeddings.position_embedding(ids)
        found = self.encoder(inputs_embeds=hidden).last_hidden_state
        return self.post_layernorm(found), (rows, columns)


class ResamplerReference(nn.Module):
    """Formulas of the perspective resampler, attention by torch's own module."""

    def __init__(self, queries: int, width: int, source: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, width))
        self.kv_proj = nn.Linear(source, width, bias=False)
        self.attn = nn.MultiheadAttention(width, width // 128, batch_first=True)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.proj = nn.Parameter(torch.zeros(width, width))

    def forward(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """[N, P, source] -> [N, queries, width]."""
        x = self.ln_kv(self.kv_proj(patches))
        places = torch.tensor(positions(*grid, x.shape[-1]), dtype=x.dtype)
        queries = self.ln_q(self.query).expand(len(x), -1, -1)
        mixed, _ = self.attn(queries, x + places, x, need_weights=False)
        return self.ln_post(mixed) @ self.proj


def positions(rows: int, columns: int, width: int) -> NDArray[np.float64]:
    """[rows * columns, width]: sine and cosine of the column, then of the row, one patch after the other."""
    omega = np.array([10000.0 ** -(j / (width // 4)) for j in range(width // 4)])
    table = []
    for row in range(rows):
        for column in range(columns):
            parts = [function(place * omega) for place in (column, row) for function in (np.sin, np.cos)]
            table.append(np.concatenate(parts))
    return np.array(table)


class MiniCpmV(nn.Module):
    """The whole model; called as a text model it has no picture."""

    def __init__(self, version: float, text: dict[str, Any], vision: dict[str, Any], queries: int) -> None:
        super().__init__()
        config_class, model_class = CLASSES[version]
        self.version, self.vision, self.queries = version, vision, queries
        self.llm = model_class(config_class(**text))
        self.vpm = Tower(vision)
        self.resampler = ResamplerReference(queries, self.config.hidden_size, vision["hidden_size"])

    @property
    def config(self) -> Any:
        return self.llm.config

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        return self.llm(input_ids=input_ids, use_cache=use_cache)

    def rows(self, views: list[NDArray[np.float32]]) -> torch.Tensor:
        """[views * queries, width] of views [3, h, w], one after the other."""
        with torch.no_grad():
            found = [self.resampler(*self.vpm(torch.tensor(view)[None])) for view in views]
        return torch.cat(found, dim=1)[0]

    def logits(self, ids: NDArray[np.int64], unk: int, rows: torch.Tensor | None) -> NDArray[np.float32]:
        """[S, V]; every ``unk`` is a row of a picture."""
        tokens = torch.tensor(ids)[None]
        with torch.no_grad():
            embedded = self.llm.get_input_embeddings()(tokens)
            if rows is not None:
                embedded[0, tokens[0] == unk] = rows
            found: NDArray[np.float32] = self.llm(inputs_embeds=embedded, use_cache=False).logits[0].numpy()
        return found

    def answer(
        self, ids: list[int], unk: int, rows: torch.Tensor | None, ends: tuple[int, ...], count: int
    ) -> list[int]:
        """Greedy ids, without the one that ends the answer."""
        said: list[int] = []
        while len(said) < count:
            token = int(self.logits(np.array(ids + said), unk, rows)[-1].argmax())
            if token in ends:
                break
            said.append(token)
        return said


def words() -> Tokenizer:
    made = tokenizer()
    made.add_special_tokens(list(MARKUP))
    made.add_tokens(["<think>", "</think>"])
    return made


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Weights of a trained model's spread, so that every tensor counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in sorted(model.state_dict().items()):
            noise = torch.randn(tensor.shape, generator=generator)
            name = key.rpartition(".")[0].rpartition(".")[2]
            if key.endswith(("embed_tokens.weight", "lm_head.weight")):
                tensor.copy_(4 * noise / math.sqrt(tensor.shape[-1]))
            elif "norm" in name or name.startswith("ln_"):
                tensor.copy_(0.2 * noise + (1.0 if key.endswith("weight") else 0.0))
            elif tensor.ndim < 2 or key.endswith(("query", "position_embedding.weight")):
                tensor.copy_(0.5 * noise)
            else:
                tensor.copy_(1.4 * noise / tensor[0].numel() ** 0.5)
    return model.eval()


def make(seed: int, **changes: Any) -> MiniCpmV:
    """A tiny model of random weights; ``changes`` are settings of the text model or of ``OUTSIDE``."""
    version = changes.get("version", 2.6)
    sizes = {**SMALL, "hidden_size": 128, "vocab_size": 517, "max_position_embeddings": 512, **ends()}
    text = sizes | {key: value for key, value in changes.items() if key not in OUTSIDE}
    model = MiniCpmV(version, text, VISION | changes.get("vision", {}), changes.get("queries", 4))
    found = randomise(model, seed)
    assert isinstance(found, MiniCpmV)
    return found


def write(folder: Path, seed: int, **changes: Any) -> MiniCpmV:
    """Save a tiny checkpoint in the published layout and give back its model."""
    model = make(seed, **changes)
    save(folder, model, slices=changes.get("slices", 4), scale=changes.get("scale", 56))
    return model


def save(folder: Path, model: MiniCpmV, *, slices: int, scale: int, dtype: torch.dtype = torch.float32) -> None:
    """Write config, preprocessor, tokenizer and tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {key: value for key, value in model.config.to_dict().items() if value is not None}
    outside = {
        "architectures": ["MiniCPMV"],
        "batch_vision_input": True,
        "drop_vision_last_layer": False,
        "image_size": scale,
        "model_type": "minicpmv",
        "patch_size": 14,
        "query_num": model.queries,
        "slice_config": {
            "max_slice_nums": slices,
            "scale_resolution": scale,
            "patch_size": 14,
            "model_type": "minicpmv",
        },
        "slice_mode": True,
        "use_image_id": True,
        "version": model.version,
        "vision_config": model.vision,
    }
    preprocessor = {
        "image_feature_size": model.queries,
        "image_processor_type": "MiniCPMVImageProcessor",
        "max_slice_nums": slices,
        "norm_mean": [0.5, 0.5, 0.5],
        "norm_std": [0.5, 0.5, 0.5],
        "patch_size": 14,
        "scale_resolution": scale,
        "slice_mode": True,
        "use_image_id": True,
        "version": 2.6,
    }
    (folder / "config.json").write_text(json.dumps({**text, **outside}))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    tensors = {key: tensor.to(dtype).contiguous() for key, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["llm.lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(words(), folder)
    path = folder / "tokenizer_config.json"
    usual = THINKING_CHATML if model.version == 4.5 else CHATML
    stated = {"chat_template": usual, "eos_token": "<|im_end|>", "add_bos_token": model.version == 4.0}
    path.write_text(json.dumps({**json.loads(path.read_text()), **stated}))


def chat_text(dialogue: list[tuple[str, list[tuple[Segment, ...]], str]], template: str, **options: Any) -> str:
    """The reference's chat(): parts joined by newlines, template, then the markup of each picture in its place.

    Args:
        dialogue: role, the markup of each picture as numbers of rows and texts, and text of each message.
        template: jinja source.
        options: variables of the template.
    """
    from jinja2 import Environment

    tag = "(<image>./</image>)"
    messages = [
        {"role": role, "content": "\n".join([*[tag] * len(pictures), *([text] if text else [])])}
        for role, pictures, text in dialogue
    ]
    rendered = (
        Environment(trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(messages=messages, add_generation_prompt=True, **options)
    )
    found, chunks = "", rendered.split(tag)
    pictures = [markup for _, each, _ in dialogue for markup in each]
    assert len(chunks) == len(pictures) + 1
    for number, (chunk, markup) in enumerate(zip(chunks, pictures, strict=False)):
        found += chunk + "".join(
            "<unk>" * s if isinstance(s, int) else s.replace("{index}", str(number)) for s in markup
        )
    return found + chunks[-1]
