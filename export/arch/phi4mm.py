"""Phi-4-multimodal: one frozen decoder, a vision and a speech tower, one LoRA for each.

Knows how the upstream checkpoint (``model_type: phi4mm``, remote code layout) spells its config and tensors.
Sizes of the vision tower are not in upstream's config: they are SigLIP so400m's unless
``embd_layer.image_embd_layer.vision_config`` gives others.
"""

from __future__ import annotations

import re

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import Keys
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import Weight, Weights
from palmtop.export.checkpoint.lora import Adapter, LoraPair
from palmtop.export.graph.audio_config import AudioConfig
from palmtop.export.graph.siglip import VisionConfig
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.processor_config import AudioSpec, ImageSpec, ProcessorSpec

from . import Model
from .phi3 import TEXT_VALUES, chat_template, check_values, read_decoder, text_spec

IMAGE_TOKEN_ID, AUDIO_TOKEN_ID = 200010, 200011  # <|endoftext10|>, <|endoftext11|>; not in upstream's config
AUDIO_WINDOW_STEPS = 500  # of the reference's encoder; a multiple of the stacking in a bundle
ADAPTERS = ("vision", "speech")  # in the order of their gates
LORA_TARGETS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
# Values that other files of the family could have and whose meaning this exporter does not build.
EXPECTED_VALUES: dict[tuple[str, ...], tuple[object, ...]] = {
    **TEXT_VALUES,
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
    check_values(config, EXPECTED_VALUES)
    is_tied = config.flag("tie_word_embeddings", default=True)
    decoder = read_decoder(config, context, has_media=True, is_tied=is_tied)
    return Model(
        architecture="phi4mm",
        decoder=decoder,
        weights=weights,
        adapters=adapters,
        vision=_vision(config, decoder.hidden_size),
        audio=_audio(config, decoder.hidden_size),
        processor=_processor(checkpoint, config),
        routes=ROUTES,
        chat_template=chat_template(checkpoint),
        original_context=decoder.rope.original_context,
    )


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
    rates = {"audio_compression_rate": audio.time_reduction, "audio_downsample_rate": audio.downsample_rate}
    for key, built in rates.items():
        if pre.size(key, default=built) != built:
            raise CheckpointError(f"preprocessor_config.json: {key} is {pre.size(key)}, config.json says {built}")
    return ProcessorSpec(
        text=text_spec(checkpoint, config),
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
