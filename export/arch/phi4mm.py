"""Phi-4-multimodal: one frozen decoder, a vision and a speech tower, one LoRA for each.

Knows how the upstream checkpoint (``model_type: phi4mm``, remote code layout) spells its config and tensors.
Sizes of the vision tower are not in upstream's config: they are SigLIP so400m's unless
``embd_layer.image_embd_layer.vision_config`` gives others.
"""

from __future__ import annotations

import json
import re
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint import Checkpoint
from palmtop.export.config_keys import Keys
from palmtop.export.graph.attention import AttentionConfig
from palmtop.export.graph.audio_config import AudioConfig
from palmtop.export.graph.decoder import DecoderConfig
from palmtop.export.graph.lora import Adapter, LoraPair
from palmtop.export.graph.rope import RopeConfig, longrope_attention_factor
from palmtop.export.graph.siglip import VisionConfig
from palmtop.export.weight import Weight, Weights
from palmtop.runtime.manifest import Route
from palmtop.runtime.processor.spec import AudioSpec, ImageSpec, ProcessorSpec, TextSpec

from . import Model

IMAGE_TOKEN_ID, AUDIO_TOKEN_ID = 200010, 200011  # <|endoftext10|>, <|endoftext11|>; not in upstream's config
END_OF_TURN = "<|end|>"
AUDIO_WINDOW_STEPS = 500  # of the reference's encoder; a multiple of the stacking in a bundle
ADAPTERS = ("vision", "speech")  # in the order of their gates
LORA_TARGETS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
# Values that other files of the family could have and whose meaning this exporter does not build.
EXPECTED_VALUES: dict[tuple[str, ...], tuple[object, ...]] = {
    ("attention_bias",): (False,),
    ("mlp_bias",): (False,),
    ("lm_head_bias",): (False,),
    ("embd_layer", "image_embd_layer", "hd_transform_order"): ("sub_glb",),
    ("embd_layer", "image_embd_layer", "use_hd_transform"): (True,),
    ("embd_layer", "image_embd_layer", "with_learnable_separator"): (True,),
    ("embd_layer", "image_embd_layer", "image_token_compression_cls"): ("avg_pool_2d",),
    ("embd_layer", "image_embd_layer", "projection_cls"): ("mlp",),
    ("embd_layer", "audio_embd_layer", "projection_cls"): ("mlp",),
    ("embd_layer", "audio_embd_layer", "use_qformer"): (False,),
    ("embd_layer", "audio_embd_layer", "use_conv_downsample"): (False,),
    ("audio_processor", "config", "batch_norm"): (False,),
    ("audio_processor", "config", "causal"): (True,),
    ("audio_processor", "config", "bias_in_glu"): (True,),
    ("audio_processor", "config", "cnn_layer_norm"): (True,),
    ("audio_processor", "config", "input_layer"): ("nemo_conv",),
    ("audio_processor", "config", "ext_pw_kernel_size"): (1,),
    ("audio_processor", "config", "relative_attention_bias_args", "type"): ("t5",),
}

# Upstream's spelling of the towers' tensors, as (canonical, upstream) parts; the canonical one is transformers'.
RENAMED = (
    (r"(encoders\.\d+\.feed_forward_(?:in|out))\.gate_up_proj\.", r"\1.net.0.linear."),
    (r"(encoders\.\d+\.feed_forward_(?:in|out))\.down_proj\.", r"\1.net.2."),
    (r"(audio_embed\.encoder\.encoders\.\d+\.self_attn)\.([qkv])_proj\.", r"\1.linear_\2."),
    (r"(audio_embed\.encoder\.encoders\.\d+\.self_attn)\.o_proj\.", r"\1.linear_out."),
    (r"image_embed\.img_projection_up\.", "image_embed.img_projection.0."),
    (r"image_embed\.img_projection_down\.", "image_embed.img_projection.2."),
    (r"image_embed\.global_img_feature_extensor$", "image_embed.glb_GN"),
    (r"image_embed\.sub_img_feature_extensor$", "image_embed.sub_GN"),
    (r"audio_embed\.up_proj_for_speech\.", "audio_embed.audio_projection.speech.0."),
    (r"audio_embed\.down_proj_for_speech\.", "audio_embed.audio_projection.speech.2."),
    (r"audio_embed\.up_proj_for_vision_speech\.", "audio_embed.audio_projection.vision.0."),
    (r"audio_embed\.down_proj_for_vision_speech\.", "audio_embed.audio_projection.vision.2."),
)

# The reference's routing (modeling_phi4mm.py): vision wins when both are there, and brings its own audio projector.
ROUTES = {
    "text": Route(adapters={}, audio_projector="speech"),
    "image": Route(adapters={"vision": 1.0}, audio_projector="vision"),
    "audio": Route(adapters={"speech": 1.0}, audio_projector="speech"),
    "image+audio": Route(adapters={"vision": 1.0}, audio_projector="vision"),
}


def read_model(checkpoint: Checkpoint, context: int) -> Model:
    """Interpret an upstream Phi-4-multimodal checkpoint."""
    config = Keys(checkpoint.config, "config.json")
    weights = Weights(lambda name: checkpoint.weight(_upstream_name(checkpoint, name)))
    adapters = tuple(_adapter(checkpoint, config, name) for name in ADAPTERS)
    return interpret(checkpoint, config, context, weights, adapters)


def interpret(
    checkpoint: Checkpoint, config: Keys, context: int, weights: Weights, adapters: tuple[Adapter, ...]
) -> Model:
    """The model that a config in upstream's spelling describes; the transformers port has one made for it."""
    _check_values(config)
    hidden_size = config.size("hidden_size")
    original = config.optional_size("original_max_position_embeddings")
    rope = _rope(config, original)
    limit = config.size("max_position_embeddings")
    if context > limit:
        raise CheckpointError(f"config.json: max_position_embeddings is {limit}, expected at least {context}")
    window = config.optional_size("sliding_window")
    num_layers = config.size("num_hidden_layers")
    heads = config.size("num_attention_heads")
    decoder = DecoderConfig(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.size("intermediate_size"),
        num_layers=num_layers,
        attention=AttentionConfig(
            num_layers=num_layers,
            num_heads=heads,
            num_kv_heads=config.optional_size("num_key_value_heads") or heads,
            head_size=_head_size(config),
            window=window if window is not None and window < context else None,
        ),
        rope=rope,
        rms_norm_eps=config.number("rms_norm_eps"),
        is_tied=config.flag("tie_word_embeddings", default=True),
        has_media=True,
        context=context,
    )
    if config.text("hidden_act", default="silu") != "silu":
        raise CheckpointError(f"config.json: hidden_act is '{config.text('hidden_act')}', expected 'silu'")
    return Model(
        architecture="phi4mm",
        decoder=decoder,
        weights=weights,
        adapters=adapters,
        vision=_vision(config, hidden_size),
        audio=_audio(config, hidden_size),
        processor=_processor(checkpoint, config),
        routes=ROUTES,
        chat_template=_chat_template(checkpoint),
        original_context=original if rope.long_factor is not None else None,
    )


def _check_values(config: Keys) -> None:
    """Refuse a config that asks for something the graphs do not do, rather than export a wrong model."""
    for path, allowed in EXPECTED_VALUES.items():
        value: Any = config.data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and value not in allowed:
            raise CheckpointError(f"config.json: {'.'.join(path)} is {value!r}, expected {allowed[0]!r}")


def _upstream_name(checkpoint: Checkpoint, name: str) -> str:
    """The checkpoint's name of a canonical tensor name."""
    if name == "lm_head.weight":
        return name
    for canonical, upstream in RENAMED:
        name = re.sub(canonical, upstream, name)
    name = f"model.{name}"
    wrapped = re.sub(r"(_proj)\.weight$", r"\1.base_layer.weight", name)
    return wrapped if checkpoint.shape(wrapped) is not None else name


def _adapter(checkpoint: Checkpoint, config: Keys, name: str) -> Adapter:
    lora = config.within(f"{name}_lora")
    rank, alpha = lora.size("r"), lora.number("lora_alpha")

    def pair(target: str) -> LoraPair | None:
        a, b = (f"model.{target}.lora_{part}.{name}.weight" for part in "AB")
        if checkpoint.shape(a) is None and checkpoint.shape(b) is None:
            return None
        return LoraPair(
            _of_rank(checkpoint.weight(a), 0, rank),
            _of_rank(checkpoint.weight(b), 1, rank).scaled(alpha / rank),
        )

    targets = [f"layers.{layer}.{t}" for layer in range(config.size("num_hidden_layers")) for t in LORA_TARGETS]
    if missing := [t for t in targets if pair(t) is None]:
        raise CheckpointError(
            f"{checkpoint.path}: tensor 'model.{missing[0]}.lora_A.{name}.weight' is missing, expected the {name}"
            " adapter on every linear layer"
        )
    return Adapter(name=name, rank=rank, alpha=alpha, pair=pair)


def _of_rank(weight: Weight, axis: int, rank: int) -> Weight:
    if weight.shape[axis] != rank:
        raise CheckpointError(
            f"tensor '{weight.name}' is {list(weight.shape)}, expected rank {rank} as config.json says"
        )
    return weight


def _head_size(config: Keys) -> int:
    explicit = config.optional_size("head_dim")
    if explicit is not None:
        return explicit
    hidden_size, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if hidden_size % heads:
        raise CheckpointError(f"config.json: hidden_size is {hidden_size}, expected a multiple of {heads} heads")
    return hidden_size // heads


def _rope(config: Keys, original: int | None) -> RopeConfig:
    rotary_size = int(_head_size(config) * config.number("partial_rotary_factor", default=1.0))
    if rotary_size % 2 or rotary_size < 2:
        raise CheckpointError(f"config.json: heads rotate {rotary_size} dimensions, expected an even number")
    theta = config.number("rope_theta", default=10000.0)
    scaling = config.optional("rope_scaling")
    if scaling is None:
        return RopeConfig(
            theta=theta,
            rotary_size=rotary_size,
            short_factor=None,
            long_factor=None,
            original_context=None,
            attention_factor=1.0,
        )
    kind = scaling.text("type", default=scaling.text("rope_type", default="longrope"))
    if kind not in ("longrope", "su"):
        raise CheckpointError(f"config.json: rope_scaling.type is '{kind}', expected 'longrope'")
    if original is None:
        raise CheckpointError("config.json: original_max_position_embeddings is missing, longrope needs it")
    return RopeConfig(
        theta=theta,
        rotary_size=rotary_size,
        short_factor=scaling.numbers("short_factor", rotary_size // 2),
        long_factor=scaling.numbers("long_factor", rotary_size // 2),
        original_context=original,
        attention_factor=longrope_attention_factor(config.size("max_position_embeddings"), original),
    )


def _vision(config: Keys, hidden_size: int) -> VisionConfig:
    image = config.within("embd_layer").within("image_embd_layer")
    tower = image.optional("vision_config") or Keys({}, "vision_config")
    return VisionConfig(
        hidden_size=tower.size("hidden_size", default=1152),
        intermediate_size=tower.size("intermediate_size", default=4304),
        num_hidden_layers=tower.size("num_hidden_layers", default=27),
        num_attention_heads=tower.size("num_attention_heads", default=16),
        image_size=tower.size("image_size", default=image.size("crop_size", default=448)),
        patch_size=tower.size("patch_size", default=14),
        feature_layer=int(tower.number("feature_layer", default=-2)),
        layer_norm_eps=tower.number("layer_norm_eps", default=1e-6),
        hidden_act=tower.text("hidden_act", default="gelu_pytorch_tanh"),
        output_size=hidden_size,
    )


def _audio(config: Keys, hidden_size: int) -> AudioConfig:
    processor = config.within("audio_processor")
    if processor.text("name", default="cascades") != "cascades":
        raise CheckpointError(f"config.json: audio_processor.name is '{processor.text('name')}', expected 'cascades'")
    c = processor.within("config")
    bias = c.within("relative_attention_bias_args")
    layer = config.within("embd_layer").within("audio_embd_layer")
    width = c.size("attention_dim")
    return AudioConfig(
        hidden_size=width,
        intermediate_size=c.size("linear_units"),
        num_blocks=c.size("num_blocks"),
        num_attention_heads=c.size("attention_heads"),
        activation=c.text("activation", default="swish"),
        chunk_size=int(c.number("chunk_size", default=-1)),
        ext_pw_out_channel=c.size("ext_pw_out_channel", default=width),
        depthwise_separable_out_channel=c.size("depthwise_seperable_out_channel", default=width),
        depthwise_multiplier=c.size("depthwise_multiplier", default=1),
        kernel_size=c.size("kernel_size", default=3),
        conv_activation=c.text("conv_activation", default="swish"),
        conv_glu_type=c.text("conv_glu_type", default="swish"),
        input_size=c.size("input_size", default=80),
        time_reduction=c.size("time_reduction", default=8),
        bias_max_distance=bias.size("t5_bias_max_distance", default=1000),
        bias_symmetric=bias.flag("t5_bias_symmetric", default=False),
        nemo_activation="relu",
        nemo_conv_channels=c.within("nemo_conv_settings").size("conv_channels"),
        downsample_rate=layer.size("downsample_rate", default=1),
        output_size=hidden_size,
    )


def _processor(checkpoint: Checkpoint, config: Keys) -> ProcessorSpec:
    pre = Keys(checkpoint.json("preprocessor_config.json"), "preprocessor_config.json")
    tower = _vision(config, 0)
    audio = _audio(config, 0)
    eos = config.data.get("eos_token_id", config.data.get("bos_token_id"))
    tokens = _special_tokens(checkpoint)
    eos_ids = _eos_ids(checkpoint, eos, tokens)
    if not eos_ids:
        raise CheckpointError("config.json: eos_token_id is missing, expected the ids that end an answer")
    pad = config.optional_size("pad_token_id")
    rates = {"audio_compression_rate": audio.time_reduction, "audio_downsample_rate": audio.downsample_rate}
    for key, built in rates.items():
        if pre.size(key, default=built) != built:
            raise CheckpointError(f"preprocessor_config.json: {key} is {pre.size(key)}, config.json says {built}")
    return ProcessorSpec(
        text=TextSpec(
            bos_id=config.optional_size("bos_token_id"),
            eos_ids=eos_ids,
            end_of_turn_id=tokens.get(END_OF_TURN),
            pad_id=eos_ids[0] if pad is None else pad,
            adds_bos=False,
            image_placeholder="<|image_{n}|>",
            audio_placeholder="<|audio_{n}|>",
        ),
        image=ImageSpec(
            token_id=config.optional_size("image_token_id") or IMAGE_TOKEN_ID,
            crop_size=tower.image_size,
            patch_size=tower.patch_size,
            max_tiles=pre.size("dynamic_hd", default=36),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        audio=AudioSpec(
            token_id=config.optional_size("audio_token_id") or AUDIO_TOKEN_ID,
            rate_hz=16000,
            n_fft=512,
            win_length=400,
            hop_length=160,
            preemphasis=0.97,
            n_mels=audio.input_size,
            mel_min_hz=0.0,
            mel_max_hz=7690.0,
            compression_rate=audio.time_reduction,
            downsample_rate=audio.downsample_rate,
            window_steps=AUDIO_WINDOW_STEPS // audio.downsample_rate * audio.downsample_rate,
        ),
    )


def _eos_ids(checkpoint: Checkpoint, configured: Any, tokens: dict[str, int]) -> tuple[int, ...]:
    """Every id that ends an answer; the tokenizer's own comes first, templates call that one ``eos_token``."""
    named = checkpoint.json("tokenizer_config.json").get("eos_token")
    own = tokens.get(named["content"] if isinstance(named, dict) else str(named))
    ids = [*_ids(own), *_ids(_generation_eos(checkpoint)), *_ids(configured), *_ids(tokens.get(END_OF_TURN))]
    return tuple(dict.fromkeys(ids))


def _generation_eos(checkpoint: Checkpoint) -> Any:
    if not (checkpoint.path / "generation_config.json").is_file():
        return None
    return checkpoint.json("generation_config.json").get("eos_token_id")


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) for i in ids):
        raise CheckpointError(f"config.json: eos_token_id is {value!r}, expected numbers")
    return ids


def _special_tokens(checkpoint: Checkpoint) -> dict[str, int]:
    added = checkpoint.json("tokenizer.json").get("added_tokens", [])
    return {t["content"]: int(t["id"]) for t in added}


def _chat_template(checkpoint: Checkpoint) -> str:
    apart = checkpoint.path / "chat_template.jinja"
    if apart.is_file():
        return apart.read_text("utf-8")
    template = checkpoint.json("tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several named templates: the default one
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if not isinstance(template, str):
        raise CheckpointError(f"tokenizer_config.json: chat_template is {json.dumps(template)}, expected a template")
    return template
