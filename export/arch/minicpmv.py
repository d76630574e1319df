"""MiniCPM-V 2.6, 4.0 and 4.5: a SigLIP tower for views of any shape, a resampler, and a text model by version.

Reads config and tensors as OpenBMB publishes them (``model_type: minicpmv``, remote code): the keys of the text model
lie at the top level of config.json beside those of the tower. Preprocessing is the kind ``slices``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from palmtop.errors import CheckpointError, UnsupportedModelError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict, stacked
from palmtop.export.graph.decoder import Decoder
from palmtop.export.graph.encoders.resampler import Resampler
from palmtop.export.graph.encoders.sliced_siglip import RESAMPLER, TOWER, SlicedSiglip
from palmtop.export.graph.encoders.vision_config import VisionConfig
from palmtop.export.reading.decoder import read_decoder
from palmtop.export.reading.preprocessor import check_preprocessor, read_preprocessor, unread_settings
from palmtop.export.reading.rope import EVERY_KIND
from palmtop.export.reading.settings import check_values, refuse_unread
from palmtop.export.reading.tensors import HEAD, TABLE, parts_of, refuse_other_tensors
from palmtop.export.reading.text import THINKING, chat_template, special_tokens, text_spec
from palmtop.export.reading.windows import settled_window
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.processor_config import ProcessorSpec, SlicesSpec, TextSpec

from . import About, Model, llama, qwen2, qwen3

ABOUT = About(
    models="MiniCPM-V 2.6, 4.0 and 4.5",
    refused=(
        "versions 2.0 and 2.5 (other towers and text models), 4.6 and 4.7 (other families)",
        "video, and pictures narrower than a patch of the encoder",
    ),
)
OTHERS = {
    "minicpmv4_6": "a merger instead of a resampler, and a text model with linear attention",
    "minicpmv4_7": "rotary positions on a canvas, and a text model with linear attention",
    "minicpmo": "an audio tower and a speech decoder beside the vision tower",
}
LLM = "llm."
SWITCH = "enable_thinking"  # variable of the chat template of 4.5
SEPARATOR = "\n"  # the reference's chat() joins the parts of a message with it
# Values that other files of the family could have and that neither graph nor processor follows.
EXPECTED_VALUES: dict[tuple[str, ...], tuple[object, ...]] = {
    ("slice_mode",): (True,),
    ("vision_config", "num_channels"): (3,),
    ("vision_config", "model_type"): ("siglip", "siglip_vision_model"),
}
WITHOUT_EFFECT = ("batch_vision_input", "batch_3d_resampler", "vision_batch_size", "image_size", "version")
# Keys of the preprocessor's file that state texts of the markup, and the texts of its class.
MARKUP = {
    "unk": "<unk>",
    "im_id_start": "<image_id>",
    "im_id_end": "</image_id>",
    "im_start": "<image>",
    "im_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """Text model of a version.

    Attributes:
        defaults: values that its config class implies.
        settle: prepares the config.
        has_qkv_bias: whether queries, keys and values have biases.
        has_head_norms: whether each head's query and key are normalised.
        adds_bos: whether the tokenizer's class puts BOS first.
    """

    defaults: dict[str, Any]
    settle: Callable[[dict[str, Any]], dict[str, Any]] = settled_window
    has_qkv_bias: bool = False
    has_head_norms: bool = False
    adds_bos: bool = False


VERSIONS = {
    2.6: TextModel(defaults=qwen2.DEFAULTS, has_qkv_bias=True),
    4.0: TextModel(defaults=llama.DEFAULTS, settle=dict, adds_bos=True),
    4.5: TextModel(defaults=qwen3.DEFAULTS, has_head_norms=True),
}


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of MiniCPM-V."""
    form = VERSIONS[_version(checkpoint.config)]
    config = ConfigSection({**form.defaults, **form.settle(checkpoint.config)}, "config.json")
    check_values(config, EXPECTED_VALUES)
    for key in WITHOUT_EFFECT:
        config.raw(key)
    head = f"{LLM}{HEAD}"
    is_tied = config.flag("tie_word_embeddings", default=False) and checkpoint.shape(head) is None
    decoder = read_decoder(
        config,
        EVERY_KIND,
        is_tied=is_tied,
        has_media=True,
        has_qkv_bias=form.has_qkv_bias,
        has_head_norms=form.has_head_norms,
    )
    vision = SlicedSiglip(_tower(config, decoder.hidden_size), _resampler(config, decoder.hidden_size))
    image, notes = _image(checkpoint, config, vision)
    text = _text(checkpoint, config, form)
    refuse_unread(config)
    model = f"a MiniCPM-V model of {decoder.num_layers} layers"
    refuse_other_tensors(checkpoint, _names(decoder, vision, head=None if is_tied else head), model)
    return Model(
        architecture="minicpmv",
        graphs={"decoder": decoder, "vision": vision},
        weights=StateDict(lambda name: _find(checkpoint, name)),
        adapters=(),
        processor=ProcessorSpec(text=text, image=image, audio=None),
        routes={mode: Route(adapters={}, audio_projector="vision") for mode in ("text", "image")},
        chat_template=_template(checkpoint),
        notes=notes,
    )


def _version(config: dict[str, Any]) -> float:
    """Version of a checkpoint, which tells its text model.

    Raises:
        UnsupportedModelError: it is none of those that are read.
    """
    stated = config.get("version")
    try:
        found = float(stated) if isinstance(stated, (str, int, float)) and not isinstance(stated, bool) else None
    except ValueError:
        found = None
    if found not in VERSIONS:
        known = ", ".join(map(str, VERSIONS))
        raise UnsupportedModelError(f"config.json: version is {stated!r:.60}, expected one of {known} for minicpmv")
    return found


def _tower(config: ConfigSection, output_size: int) -> VisionConfig:
    tower = config.within("vision_config")
    patch = tower.size("patch_size")
    if config.size("patch_size", default=patch) != patch:
        raise CheckpointError(f"config.json: patch_size is {config.size('patch_size')}, vision_config says {patch}")
    return VisionConfig(
        hidden_size=tower.size("hidden_size"),
        intermediate_size=tower.size("intermediate_size"),
        num_hidden_layers=tower.size("num_hidden_layers"),
        num_attention_heads=tower.size("num_attention_heads"),
        image_size=tower.size("image_size"),
        patch_size=patch,
        feature_layer=-2 if config.flag("drop_vision_last_layer", default=True) else -1,
        layer_norm_eps=tower.number("layer_norm_eps", default=1e-6),
        hidden_act=tower.text("hidden_act", default="gelu_pytorch_tanh"),
        output_size=output_size,
    )


def _resampler(config: ConfigSection, output_size: int) -> Resampler:
    width = config.within("vision_config").size("hidden_size")
    return Resampler(queries=config.size("query_num", default=64), input_size=width, output_size=output_size)


def _image(checkpoint: Checkpoint, config: ConfigSection, vision: SlicedSiglip) -> tuple[SlicesSpec, tuple[str, ...]]:
    """Settings of images: the preprocessor's file has them, and config.json must agree."""
    pre, sizes = read_preprocessor(checkpoint), config.optional("slice_config") or ConfigSection({}, "slice_config")
    sizes.raw("model_type")
    patch = sizes.size("patch_size", default=vision.config.patch_size)
    scale = pre.size("scale_resolution", default=sizes.size("scale_resolution", default=448))
    slices = pre.size("max_slice_nums", default=sizes.size("max_slice_nums", default=9))
    has_numbers = pre.flag("use_image_id", default=config.flag("use_image_id", default=True))
    built = {
        "patch_size": vision.config.patch_size,
        "scale_resolution": sizes.size("scale_resolution", default=scale),
        "max_slice_nums": sizes.size("max_slice_nums", default=slices),
        "use_image_id": config.flag("use_image_id", default=has_numbers),
        "image_feature_size": vision.resampler.queries,
        "slice_mode": True,
    }
    check_preprocessor(pre, built)
    if patch != vision.config.patch_size:
        raise CheckpointError(f"{sizes.named('patch_size')} is {patch}, expected {vision.config.patch_size}")
    tokens = special_tokens(checkpoint)
    markup = {key: pre.text(key, default=usual) for key, usual in MARKUP.items()}
    for key, text in markup.items():
        if text not in tokens and (has_numbers or not key.startswith("im_id")):
            raise CheckpointError(f"tokenizer.json: '{text:.60}' is no added token, expected {key} of the markup")
    mean, std = (_of_channels(pre, key) for key in ("norm_mean", "norm_std"))
    pre.raw("version")
    unread = unread_settings(pre)
    notes = (f"{pre.where}: {', '.join(unread)}: not read, expected keys of this model's processor",) if unread else ()
    spec = SlicesSpec(
        token_id=tokens[markup["unk"]],
        scale_resolution=scale,
        patch_size=vision.config.patch_size,
        max_slices=slices,
        trained_side=vision.config.patches,
        queries=vision.resampler.queries,
        mean=mean,
        std=std,
        number_markup=(markup["im_id_start"], markup["im_id_end"]) if has_numbers else None,
        image_markup=(markup["im_start"], markup["im_end"]),
        slice_markup=(markup["slice_start"], markup["slice_end"]),
        separator=SEPARATOR,
    )
    spec.check()
    return spec, notes


def _of_channels(pre: ConfigSection, key: str) -> tuple[float, float, float]:
    if pre.raw(key) is None:
        return (0.5, 0.5, 0.5)
    red, green, blue = pre.numbers(key, 3)
    return (red, green, blue)


def _text(checkpoint: Checkpoint, config: ConfigSection, form: TextModel) -> TextSpec:
    """Text settings; the reference encodes the rendered text, so BOS comes first where the tokenizer adds it."""
    text = text_spec(checkpoint, config, thinking=THINKING)
    is_added = checkpoint.json("tokenizer_config.json").get("add_bos_token", form.adds_bos)
    return replace(text, adds_bos=form.adds_bos and is_added is True and text.bos_id is not None)


def _template(checkpoint: Checkpoint) -> str:
    """The chat template, without thinking unless it is switched on, as the reference's chat() has it.

    ``chat_template_kwargs`` of ``generation_config.json`` may have it on from the beginning.
    """
    template = chat_template(checkpoint)
    if SWITCH not in template:
        return template
    is_on = False
    if checkpoint.text("generation_config.json") is not None:
        section = ConfigSection(checkpoint.json("generation_config.json"), "generation_config.json")
        options = section.optional("chat_template_kwargs")
        is_on = options is not None and options.flag(SWITCH, default=False)
    default = f"{{%- if {SWITCH} is not defined -%}}{{%- set {SWITCH} = {str(is_on).lower()} -%}}{{%- endif -%}}"
    return default + template


def _names(decoder: Decoder, vision: SlicedSiglip, *, head: str | None) -> set[str]:
    names = {f"{LLM}model.{part}" for name in decoder.tensors | {TABLE} for part in parts_of(name)}
    return names | vision.names | ({head} if head is not None else set())


def _find(checkpoint: Checkpoint, name: str) -> LazyTensor:
    """The tensor of a canonical name: encoders have the checkpoint's own names, fused linears are stacked."""
    if name.startswith((TOWER, RESAMPLER)):
        return checkpoint.weight(name)
    if name == HEAD:
        return checkpoint.weight(f"{LLM}{HEAD}")
    found = [checkpoint.weight(f"{LLM}model.{part}") for part in parts_of(name)]
    return found[0] if len(found) == 1 else stacked(name, found)
