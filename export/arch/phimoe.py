"""Mixtures of experts of the Phi family: text only, as in ``PhimoeForCausalLM``."""

from __future__ import annotations

from dataclasses import replace

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.graph.decoder import Decoder
from palmtop.export.graph.moe.mixture import CHOSEN, MixtureOfExperts
from palmtop.export.graph.norm import LayerNorm
from palmtop.export.reading.decoder import read_decoder
from palmtop.export.reading.rope import RopeRules
from palmtop.export.reading.settings import check_values
from palmtop.export.reading.tensors import PARTS, TABLE, read_head

from . import About, Model, text_model

ABOUT = About(
    models="Phi-3.5-MoE, Phi-mini-MoE, Phi-tiny-MoE (SlimMoE)",
    refused=("another number than 2 experts of a token", "long and short factors with different mscales"),
)
# Values that transformers' PhimoeConfig implies.
DEFAULTS = {
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "num_local_experts": 16,
    "num_experts_per_tok": CHOSEN,
    "router_jitter_noise": 0.01,
}
ROPE = RopeRules(kinds={"default": "default", "longrope": "longrope"}, theta=1e6, has_mscale=True, rotates_part=False)
EXPERT_PARTS = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of ``PhimoeForCausalLM``."""
    config = ConfigSection({**DEFAULTS, **checkpoint.config}, "config.json")
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=False))
    decoder = read_phimoe(config, is_tied=head.is_tied)
    return text_model("phimoe", checkpoint, config, decoder, head, parts=parts(config.size("num_local_experts")))


def read_phimoe(config: ConfigSection, *, is_tied: bool) -> Decoder:
    """Return the decoder of a config.

    Raises:
        CheckpointError: a key is missing, impossible, or of a model that this is not.
    """
    check_values(config, {("num_experts_per_tok",): (CHOSEN,)})
    experts, jitter = config.size("num_local_experts"), config.number("router_jitter_noise")
    if experts < CHOSEN:
        raise CheckpointError(f"config.json: num_local_experts is {experts}, expected at least {CHOSEN}")
    if jitter < 0:
        raise CheckpointError(f"config.json: router_jitter_noise is {jitter}, expected at least 0")
    decoder = read_decoder(
        config, ROPE, is_tied=is_tied, has_attention_bias=config.flag("attention_bias", default=False)
    )
    mixture = MixtureOfExperts(size=config.size("intermediate_size"), experts=experts, jitter=jitter)

    def layer_norm(name: str) -> LayerNorm:
        return LayerNorm(name, decoder.hidden_size, config.number("rms_norm_eps"))

    norms = layer_norm("input_layernorm"), layer_norm("post_attention_layernorm")
    return replace(
        decoder,
        layers=tuple(replace(layer, ffn=mixture, norms=norms) for layer in decoder.layers),
        norm=layer_norm("norm"),
        has_head_bias=config.flag("lm_head_bias", default=False),
    )


def parts(experts: int) -> dict[str, tuple[str, ...]]:
    """Return the checkpoint's names of the linears, by the decoder's."""
    own = {
        f"mlp.experts.{number}.{name}": (f"block_sparse_moe.experts.{number}.{part}",)
        for number in range(experts)
        for name, part in EXPERT_PARTS.items()
    }
    names = {"self_attn.qkv_proj": PARTS["self_attn.qkv_proj"], "mlp.router": ("block_sparse_moe.gate",)}
    return {**names, **own}
