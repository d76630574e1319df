"""Keys of a config.json that may stay unread, and values of unread keys that match the graphs.

An architecture looks up the keys of its computation; any other key is in one of the two lists here, in the
architecture's own list of values, or refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection

# Keys that change no logit, as patterns of whole names.
HARMLESS = re.compile(
    "|".join(
        (
            # origin of the file and class that reads it
            r"_.*|model_type|name_or_path|architectures|auto_map|custom_pipelines|.*_version|transformers\.js_config",
            r"is_llama_config|base_model.*|license|language|tags|unsloth.*|task_specific_params|finetuning_task|base_config_key",
            # how weights and activations are held
            r"dtype|torch_dtype|bf16|fp16|fp32|.*attn_implementation.*|use_flash_attn|flash_attn|torchscript|use_bfloat16",
            r"tf_legacy_loss|.*attention_softmax_in_fp32|use_cache|cache_implementation|low_cpu_mem_usage|device_map",
            # training only
            r".*dropout.*|.*drop_?path.*|.*pdrop|dp|initializer_range|initializer_factor|.*gradient_checkpointing",
            r"activation_checkpointing|.*aux_loss.*|output_router_logits|.*jitter_noise|seed|.*label_smoothing.*",
            # outputs of a call
            r"output_attentions|output_hidden_states|output_scores|return_dict.*|use_return_dict|problem_type",
            r"id2label|label2id|num_labels|chunk_size_feed_forward|keys_to_ignore_at_inference|remove_invalid_values",
            # search options of transformers 4; those of an answer come from generation_config.json
            r"do_sample|temperature|top_k|top_p|typical_p|min_length|max_length|max_new_tokens|min_new_tokens|num_beams",
            r"num_beam_groups|num_return_sequences|early_stopping|diversity_penalty|.*repetition_penalty|length_penalty",
            r"no_repeat_ngram_size|.*no_repeat_ngram.*|bad_words_ids|begin_suppress_tokens|suppress_tokens",
            r"exponential_decay_length_penalty|.*_token_id",
            r"prefix|max_sequence_length|tokenizer_class|model_max_length|chat_template",
        )
    )
)
# Values of keys that would change the computation if they were different.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "alibi": (False,),
    "add_bias_linear": (False,),
    "add_cross_attention": (False,),
    "attention_bias": (False,),
    "attention_chunk_size": (0,),
    "attn_logit_softcapping": (0,),
    "bias": (False,),
    "clip_qkv": (0,),
    "cross_attention_hidden_size": (0,),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (0,),
    "full_attn_mod": (1,),
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish"),
    "interpolate_factor": (1,),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "is_causal": (True,),
    "lm_head_bias": (False,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "mlp_bias": (False,),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "num_mtp_modules": (0,),
    "num_nextn_predict_layers": (0,),
    "parallel_attn": (False,),
    "pretraining_tp": (0, 1),
    "pruned_heads": ({}, []),
    "qk_layernorm": (False,),
    "qk_norm": (False,),
    "qkv_bias": (False,),
    "residual_multiplier": (1,),
    "rope_interleaved": (False,),
    "scale_emb": (1,),
    "tie_encoder_decoder": (False,),
    "use_bias": (False,),
    "use_mrope": (False,),
    "use_qk_norm": (False,),
}


def check_values(config: ConfigSection, expected: Mapping[tuple[str, ...], tuple[object, ...]]) -> None:
    """Refuse a config whose settings differ from the graphs, rather than export a wrong model.

    Args:
        config: the whole config.
        expected: accepted values by path of a key; a key that is missing or null is accepted too.

    Raises:
        CheckpointError: a value is none of those expected.
    """
    for path, allowed in expected.items():
        section: ConfigSection | None = config
        for key in path[:-1]:
            section = None if section is None else section.optional(key)
        if section is not None:
            _check(section, path[-1], allowed)


def positive(config: ConfigSection, key: str, *, default: float) -> float:
    """Return a factor.

    Raises:
        CheckpointError: the value is not a positive number.
    """
    value = default if config.raw(key) is None else config.number(key)
    if value <= 0:
        raise CheckpointError(f"{config.named(key)} is {value}, expected a positive number")
    return value


def refuse_unread(config: ConfigSection) -> None:
    """Refuse keys of a config that were not looked up, unless they are known to be without effect.

    Called when everything was read; whole objects that were not entered count as one key.

    Raises:
        CheckpointError: names the key and its value.
    """
    for section, key in list(config.not_looked_up()):
        if key in NEUTRAL:
            _check(section, key, NEUTRAL[key])
        elif not HARMLESS.fullmatch(key):
            raise CheckpointError(
                f"{section.named(key)} is {brief(section.data[key])}, which this architecture does not read; expected"
                " no such key: take it out of the file if it does not change what the model computes"
            )


def _check(section: ConfigSection, key: str, allowed: tuple[object, ...]) -> None:
    value = section.raw(key)
    # 1 == True in Python, but not in JSON
    fits = any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed)
    if value is not None and not fits:
        raise CheckpointError(f"{section.named(key)} is {brief(value)}, expected {allowed[0]!r}")


def brief(value: Any) -> str:
    """Return a value as text for an error, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
