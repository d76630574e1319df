"""Tables of GGUF architectures: names of tensors and keys in transformers' model of the same kind.

A new architecture needs its table here and its file in ``export/arch``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .metadata import Metadata
from .multipliers import granite, minicpm, phimoe
from .place import GgufSlice

MODEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "output_norm.bias": "model.norm.bias",
    "output.bias": "lm_head.bias",
}
_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Table of one GGUF architecture.

    Attributes:
        name: ``general.architecture``, and the prefix of its metadata.
        model_type: model_type of the config that is made.
        layers: transformers' name of each tensor of a layer.
        interleaved: tensors of a layer whose rotated halves are interleaved in each head, and the config key of their
            number of heads.
        biases: config keys for biases of linears, and a tensor of a layer that exists only with one.
        scalings: kinds of rotary scaling that its model computes, with transformers' names.
        settings: function that returns further settings, from the metadata and the config so far.
        experts: transformers' name of one expert's matrix, by the tensor of a layer that holds those of all experts.
    """

    name: str
    model_type: str
    layers: Mapping[str, str]
    interleaved: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, str] = field(default_factory=dict)
    scalings: tuple[str, ...] = ()
    settings: Callable[[Metadata, Mapping[str, Any]], Mapping[str, Any]] = lambda said, config: {}
    experts: Mapping[str, str] = field(default_factory=dict)

    def transformers_name(self, name: str) -> str:
        """Return the checkpoint's name of a tensor; one without a place in the model keeps its own."""
        if name in MODEL:
            return MODEL[name]
        match = _TENSOR.fullmatch(name)
        if match is None or match[2] not in self.layers:
            return name
        return f"model.layers.{match[1]}.{self.layers[match[2]]}.{match[3]}"

    def apart(self, name: str, place: GgufSlice) -> dict[str, GgufSlice]:
        """Return the places of a tensor by transformers' name: several for one that holds all experts' matrices."""
        match = _TENSOR.fullmatch(name)
        pattern = None if match is None else self.experts.get(match[2])
        if match is None or pattern is None or len(place.shape) != 3:
            return {self.transformers_name(name): place}
        return {
            f"model.layers.{match[1]}.{pattern.format(number)}.{match[3]}": each
            for number, each in enumerate(place.apart())
        }

    def heads_key(self, name: str) -> str | None:
        """Return the config key of an interleaved tensor's number of heads; None where rows are in order."""
        match = _TENSOR.fullmatch(name)
        return None if match is None else self.interleaved.get(match[2])


PHI3 = Family(  # Phi-3, Phi-3.5-mini, Phi-4-mini; and the text backbone of Phi-4-multimodal
    name="phi3",
    model_type="phi3",
    layers={
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.gate_up_proj",  # gate above up, as in the checkpoint
        "ffn_down": "mlp.down_proj",
    },
    scalings=("longrope",),
)
LLAMA = Family(  # Llama, SmolLM2, MiniCPM5, R1-Distill-Llama
    name="llama",
    model_type="llama",
    layers={
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    interleaved={"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"},
    biases={"attention_bias": "attn_q", "mlp_bias": "ffn_down"},
    scalings=("linear", "yarn", "freq_factors", "longrope"),
)
QWEN2 = replace(  # Qwen2, Qwen2.5, R1-Distill-Qwen
    LLAMA, name="qwen2", model_type="qwen2", interleaved={}, biases={}, scalings=("linear", "yarn")
)
QWEN3 = replace(
    QWEN2,
    name="qwen3",
    model_type="qwen3",
    layers={**LLAMA.layers, "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"},
    biases={"attention_bias": "attn_q"},
)
GRANITE = replace(  # all dense ones: the converter has one form for both of transformers' classes
    LLAMA,
    name="granite",
    model_type="granite",
    settings=granite,
)
MINICPM = replace(  # MiniCPM 1B and 2B, MiniCPM4, MiniCPM4.1
    LLAMA,
    name="minicpm",
    model_type="minicpm",
    biases={"attention_bias": "attn_q"},
    scalings=("linear", "longrope"),
    settings=minicpm,
)
PHIMOE = Family(  # Phi-3.5-MoE, Phi-mini-MoE, Phi-tiny-MoE
    name="phimoe",
    model_type="phimoe",
    layers={
        **{name: module for name, module in LLAMA.layers.items() if name.startswith("attn_")},
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate_inp": "block_sparse_moe.gate",
    },
    experts={
        "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
        "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
        "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
    },
    biases={"attention_bias": "attn_q"},
    scalings=("longrope",),
    settings=phimoe,
)
FAMILIES = {family.name: family for family in (LLAMA, QWEN2, QWEN3, GRANITE, MINICPM, PHI3, PHIMOE)}
