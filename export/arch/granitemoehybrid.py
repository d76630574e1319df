"""Granite 4.0, the dense models: their config says ``granitemoehybrid``, without an expert and without a Mamba layer.

As in ``GraniteMoeHybridForCausalLM``; the graph is Granite's.
"""

from __future__ import annotations

from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.reading.settings import check_values
from palmtop.export.reading.tensors import PARTS, TABLE, read_head

from . import About, Model, text_model
from .granite import read_granite

ABOUT = About(
    models="Granite 4.0 350m, 1b and micro",
    sources="transformers folder; GGUF files of these models say granite",
    refused=("Mamba layers (the -h- models)", "experts", "layers without rotary positions"),
)
# Values that transformers' GraniteMoeHybridConfig implies.
DEFAULTS = {"tie_word_embeddings": False, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
MAMBA = (  # settings of layers that a dense model does not have
    *("mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_head", "mamba_d_conv", "mamba_expand"),
    *("mamba_chunk_size", "mamba_conv_bias", "mamba_proj_bias", "time_step_min", "time_step_max", "time_step_limit"),
)
NAMES = {
    "self_attn.qkv_proj": PARTS["self_attn.qkv_proj"],
    "mlp.gate_up_proj": ("shared_mlp.input_linear",),  # gate above up
    "mlp.down_proj": ("shared_mlp.output_linear",),
}


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of ``GraniteMoeHybridForCausalLM`` that is dense."""
    config = ConfigSection({**DEFAULTS, **checkpoint.config}, "config.json")
    layers = config.size("num_hidden_layers")
    dense = {
        "num_local_experts": (0,),
        "position_embedding_type": ("rope",),
        "layer_types": (["attention"] * layers, ["full_attention"] * layers),
        "layers_block_type": (["attention"] * layers,),
        "mlp_bias": (False,),
    }
    check_values(config, {(key,): values for key, values in dense.items()})
    for key in (*MAMBA, "num_experts_per_tok", "normalization_function", "init_method"):
        config.skip(key)  # of what the model does not have
    if config.raw("shared_intermediate_size") is not None:  # intermediate_size is an expert's
        config.data["intermediate_size"] = config.raw("shared_intermediate_size")
    config.data["layer_types"] = None
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=False))
    return text_model("granitemoehybrid", checkpoint, config, read_granite(config, head), head, parts=NAMES)
