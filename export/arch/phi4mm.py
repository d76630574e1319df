"""Phi-4-multimodal: one decoder, a vision and a speech tower, one LoRA for each.

Reads the config and tensors of the upstream checkpoint (``model_type: phi4mm``, remote code layout). Sizes of the
vision tower are not in upstream's config: they are those of SigLIP so400m unless
``embd_layer.image_embd_layer.vision_config`` gives others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import replace

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict
from palmtop.export.checkpoint.lora import Adapter, LoraPair, notes_on
from palmtop.export.graph.building.source import GraphSource
from palmtop.export.graph.encoders.audio_config import AudioConfig
from palmtop.export.graph.encoders.conformer import Conformer
from palmtop.export.graph.encoders.siglip import Siglip
from palmtop.export.graph.encoders.vision_config import VisionConfig
from palmtop.export.reading.decoder import read_decoder
from palmtop.export.reading.modalities import Modalities
from palmtop.export.reading.preprocessor import check_preprocessor, read_preprocessor, unread_settings
from palmtop.export.reading.settings import check_values, refuse_unread
from palmtop.export.reading.tensors import HEAD, LINEARS, TABLE, read_head, refuse_other_tensors
from palmtop.export.reading.text import chat_template, special_tokens, text_spec
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.processor_config import AudioSpec, DynamicHdSpec, ImageSpec, ProcessorSpec, TextSpec

from . import About, Model
from .phi3 import ROPE

ABOUT = About(
    models="Phi-4-multimodal-instruct as Microsoft publishes it, and fine-tunes of it",
    tested="the packaged reference model; random weights",
    refused=("other towers than SigLIP and the conformer",),
)
IMAGE_TOKEN_ID, AUDIO_TOKEN_ID = 200010, 200011  # <|endoftext10|>, <|endoftext11|>; not in upstream's config
# Preprocessing of images and sounds in the runtime, with the keys of the checkpoint's preprocessor.
IMAGES = {
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
}
SOUNDS = {
    "sampling_rate": 16000,
    "n_fft": 512,
    "win_length": 400,
    "hop_length": 160,
    "preemphasis": 0.97,
    "mel_min_frequency": 0,
    "mel_max_frequency": 7690,
    "audio_feat_stride": 1,
}
AUDIO_WINDOW_STEPS = 500  # window length of the reference's encoder; a multiple of the stacking in a bundle
ADAPTERS = ("vision", "speech")  # in the order of their gates
# Values that other files of the family could have and that this exporter does not support.
EXPECTED_VALUES: dict[tuple[str, ...], tuple[object, ...]] = {
    ("embd_layer", "embedding_cls"): ("image_audio",),
    ("embd_layer", "image_embd_layer", "embedding_cls"): ("tune_image",),
    ("embd_layer", "audio_embd_layer", "embedding_cls"): ("audio",),
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
    ("embd_layer", "image_embd_layer", "vision_config", "num_channels"): (3,),
}

# Upstream's names of the towers' tensors, as (canonical, upstream) parts; the canonical ones are transformers'.
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

# The reference's routing (modeling_phi4mm.py): vision wins if both are there, with its own audio projector.
ROUTES = {
    "text": Route(adapters={}, audio_projector="speech"),
    "image": Route(adapters={"vision": 1.0}, audio_projector="vision"),
    "audio": Route(adapters={"speech": 1.0}, audio_projector="speech"),
    "image+audio": Route(adapters={"vision": 1.0}, audio_projector="vision"),
}


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret an upstream Phi-4-multimodal checkpoint."""
    config = ConfigSection(checkpoint.config, "config.json")
    there = Modalities.of(checkpoint, [name for name in ADAPTERS if _lora_names(checkpoint, name)])
    adapters = tuple(_adapter(checkpoint, config, name) for name in there.adapters)
    for name in set(ADAPTERS) - set(there.adapters):
        config.raw(f"{name}_lora")  # dropped with its tensors
    loras = {tensor for name in there.adapters for tensor in _lora_names(checkpoint, name)}
    return interpret(
        checkpoint, config, adapters, there, spelled=lambda n: _upstream_name(checkpoint, n), also_read=loras
    )


def interpret(
    checkpoint: Checkpoint,
    config: ConfigSection,
    adapters: tuple[Adapter, ...],
    there: Modalities,
    *,
    spelled: Callable[[str], str],
    also_read: Set[str] = frozenset(),
) -> Model:
    """Return the model of a config in upstream's spelling; the transformers port has one translated for it.

    Args:
        checkpoint: checkpoint with the tensors.
        config: config in upstream's spelling.
        adapters: adapters of the checkpoint.
        there: modalities of the checkpoint.
        spelled: function from a canonical name to the checkpoint's name.
        also_read: names of tensors that belong to the adapters.
    """
    check_values(config, EXPECTED_VALUES)
    head = read_head(checkpoint, spelled(TABLE), is_tied=config.flag("tie_word_embeddings", default=True))
    has_media = there.has_vision or there.has_audio
    decoder = read_decoder(config, ROPE, has_media=has_media, is_tied=head.is_tied)
    vision = _vision(config, decoder.hidden_size) if there.has_vision else None
    audio = _audio(config, decoder.hidden_size) if there.has_audio else None
    processor, notes = _processor(checkpoint, config, vision, audio)
    _skip_dropped(config, there)
    refuse_unread(config)
    names = there.names(decoder.num_layers, vision, audio) - {TABLE}
    read = {spelled(name) for name in names} | head.names | also_read
    model = f"a Phi-4-multimodal model of {decoder.num_layers} layers"
    refuse_other_tensors(checkpoint, read, model, unused=there.unused(vision))
    linears = [f"layers.{layer}.{name}" for layer in range(decoder.num_layers) for name in LINEARS]
    graphs: dict[str, GraphSource] = {"decoder": decoder}
    graphs |= {} if vision is None else {"vision": Siglip(vision)}
    graphs |= {} if audio is None else {"audio": Conformer(audio)}
    return Model(
        architecture="phi4mm",
        graphs=graphs,
        weights=StateDict(lambda name: checkpoint.weight(head.place(name, spelled(name)))),
        adapters=adapters,
        processor=processor,
        routes=there.routes(ROUTES),
        chat_template=chat_template(checkpoint),
        missing_adapters=there.missing_adapters,
        notes=(*head.notes, *there.notes, *notes, *(n for a in adapters for n in notes_on(a, linears))),
    )


def _upstream_name(checkpoint: Checkpoint, name: str) -> str:
    """The checkpoint's name of a tensor with this canonical name."""
    if name == HEAD:
        return name
    for canonical, upstream in RENAMED:
        name = re.sub(canonical, upstream, name)
    name = f"model.{name}"
    wrapped = re.sub(r"(_proj)\.weight$", r"\1.base_layer.weight", name)
    return wrapped if checkpoint.shape(wrapped) is not None else name


def _lora_names(checkpoint: Checkpoint, adapter: str) -> list[str]:
    """Names of an adapter's tensors on the decoder's linears."""
    tensor = re.compile(rf"model\.layers\.\d+\.(?:{'|'.join(map(re.escape, LINEARS))})\.lora_[AB]\.{adapter}\.weight")
    return [name for name in checkpoint.names if tensor.fullmatch(name)]


def _skip_dropped(config: ConfigSection, there: Modalities) -> None:
    """Skip settings of encoders that the checkpoint no longer has."""
    sizes = config.optional("embd_layer")
    for has, key, part in (
        (there.has_vision, "img_processor", "image_embd_layer"),
        (there.has_audio, "audio_processor", "audio_embd_layer"),
    ):
        if not has:
            config.skip(key)
            if sizes is not None:
                sizes.skip(part)


def _adapter(checkpoint: Checkpoint, config: ConfigSection, name: str) -> Adapter:
    lora = config.within(f"{name}_lora")
    rank, alpha = lora.size("r"), lora.number("lora_alpha")
    lora.raw("layer")  # the tensors show its target modules

    def pair(target: str) -> LoraPair | None:
        a, b = (f"model.{target}.lora_{part}.{name}.weight" for part in "AB")
        if checkpoint.shape(a) is None and checkpoint.shape(b) is None:
            return None
        return LoraPair(
            _of_rank(checkpoint.weight(a), 0, rank),
            _of_rank(checkpoint.weight(b), 1, rank).scaled(alpha / rank),
        )

    targets = [f"layers.{layer}.{t}" for layer in range(config.size("num_hidden_layers")) for t in LINEARS]
    if missing := [t for t in targets if pair(t) is None]:
        raise CheckpointError(
            f"{checkpoint.path}: tensor 'model.{missing[0]}.lora_A.{name}.weight' is missing, expected the {name}"
            " adapter on every linear layer"
        )
    return Adapter(name=name, rank=rank, alpha=alpha, pair=pair)


def _of_rank(weight: LazyTensor, axis: int, rank: int) -> LazyTensor:
    if weight.shape[axis] != rank:
        raise CheckpointError(
            f"tensor '{weight.name}' is {list(weight.shape)}, expected rank {rank} as config.json says"
        )
    return weight


def _vision(config: ConfigSection, hidden_size: int) -> VisionConfig:
    image = config.within("embd_layer").within("image_embd_layer")
    tower = image.optional("vision_config") or ConfigSection({}, "vision_config")
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


def _audio(config: ConfigSection, hidden_size: int) -> AudioConfig:
    processor = config.within("audio_processor")
    if processor.text("name", default="cascades") != "cascades":
        raise CheckpointError(f"config.json: audio_processor.name is '{processor.text('name')}', expected 'cascades'")
    c = processor.within("config")
    bias = c.within("relative_attention_bias_args")
    layer = config.within("embd_layer").within("audio_embd_layer")
    width = c.size("attention_dim")
    c.raw("left_chunk")  # for streaming, which chunk_size -1 switches off
    mels = c.size("input_size", default=80)
    embedded = c.optional("encoder_embedding_config")
    if embedded is not None and embedded.size("input_size", default=mels) != mels:
        raise CheckpointError(f"{embedded.where}: input_size is {embedded.size('input_size')}, expected {mels}")
    layer.raw("compression_rate")  # upstream reads the preprocessor's, which is compared with the encoder's
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
        input_size=mels,
        time_reduction=c.size("time_reduction", default=8),
        bias_max_distance=bias.size("t5_bias_max_distance", default=1000),
        bias_symmetric=bias.flag("t5_bias_symmetric", default=False),
        nemo_activation="relu",
        nemo_conv_channels=c.within("nemo_conv_settings").size("conv_channels"),
        downsample_rate=layer.size("downsample_rate", default=1),
        output_size=hidden_size,
    )


def _processor(
    checkpoint: Checkpoint, config: ConfigSection, vision: VisionConfig | None, audio: AudioConfig | None
) -> tuple[ProcessorSpec, tuple[str, ...]]:
    """Preprocessing of the encoders that are there, and notes on it for the user."""
    token_ids = config.optional_size("image_token_id"), config.optional_size("audio_token_id")
    text = text_spec(checkpoint, config)
    if vision is None and audio is None:
        return ProcessorSpec(text=text, image=None, audio=None), ()
    pre = read_preprocessor(checkpoint)
    notes = []
    max_tiles, size = pre.size("dynamic_hd", default=36), pre.raw("size")
    if vision is not None:
        check_preprocessor(pre, {**IMAGES, "patch_size": vision.patch_size})
        sides = set(size.values()) if isinstance(size, dict) else {size}
        if size is not None and sides != {vision.image_size}:
            notes.append(
                f"{pre.where}: size is {size}; tiles are {vision.image_size} pixels wide, as the vision encoder needs"
            )
    if audio is not None:
        rates = {"audio_compression_rate": audio.time_reduction, "audio_downsample_rate": audio.downsample_rate}
        check_preprocessor(pre, {**SOUNDS, **rates, "feature_size": audio.input_size})
    else:
        for key in (*SOUNDS, "audio_compression_rate", "audio_downsample_rate", "feature_size"):
            pre.raw(key)
    for key in IMAGES if vision is None else ():
        pre.raw(key)
    if unread := unread_settings(pre):
        notes.append(f"{pre.where}: {', '.join(unread)}: not read, expected keys of this model's processor")
    image = audio_spec = None
    if vision is not None:
        image = DynamicHdSpec(
            token_id=token_ids[0] or IMAGE_TOKEN_ID,
            crop_size=vision.image_size,
            patch_size=vision.patch_size,
            max_tiles=max_tiles,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )
    if audio is not None:
        audio_spec = AudioSpec(
            token_id=token_ids[1] or AUDIO_TOKEN_ID,
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
        )
    text = _with_own_tokens(checkpoint, text, image, audio_spec)
    return ProcessorSpec(text=text, image=image, audio=audio_spec), tuple(notes)


def _with_own_tokens(
    checkpoint: Checkpoint, text: TextSpec, image: ImageSpec | None, audio: AudioSpec | None
) -> TextSpec:
    """Placeholders in the chat template's spelling: some write the media tokens themselves."""
    template, tokens = chat_template(checkpoint), {i: token for token, i in special_tokens(checkpoint).items()}
    image_token, audio_token = (None if spec is None else tokens.get(spec.token_id) for spec in (image, audio))
    if image_token is not None and image_token in template:
        text = replace(text, image_placeholder=image_token)
    if audio_token is not None and audio_token in template:
        text = replace(text, audio_placeholder=audio_token)
    return text
