"""One table for each GGUF architecture: which names its tensors and keys have in transformers' model of the same kind.

Adding one is adding its table here and the architecture's file in ``export/arch``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MODEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one GGUF architecture is read.

    Attributes:
        name: ``general.architecture``, and the prefix of its metadata.
        model_type: of the config that is made.
        layers: transformers' name of each tensor of a layer.
        interleaved: tensors of a layer whose heads have the halves that rotate interleaved, and the config key that
            counts their heads.
        biases: config keys that say that linears have biases, and a tensor of a layer that only then has one.
        scalings: kinds of rotary scaling that its model computes, as transformers names them.
    """

    name: str
    model_type: str
    layers: Mapping[str, str]
    interleaved: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, str] = field(default_factory=dict)
    scalings: tuple[str, ...] = ()

    def transformers_name(self, name: str) -> str:
        """The checkpoint's name of a tensor; one that has no place in the model keeps its own."""
        if name in MODEL:
            return MODEL[name]
        match = _TENSOR.fullmatch(name)
        if match is None or match[2] not in self.layers:
            return name
        return f"model.layers.{match[1]}.{self.layers[match[2]]}.{match[3]}"

    def heads_key(self, name: str) -> str | None:
        """The config key that counts the heads of an interleaved tensor; None where rows are in order."""
        match = _TENSOR.fullmatch(name)
        return None if match is None else self.interleaved.get(match[2])


PHI3 = Family(  # Phi-3, Phi-3.5-mini, Phi-4-mini; and the text backbone that Phi-4-multimodal becomes there
    name="phi3",
    model_type="phi3",
    layers={
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.gate_up_proj",  # gate above up, as the checkpoint has them
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
FAMILIES = {family.name: family for family in (LLAMA, PHI3)}
