"""Phi-4-multimodal in transformers and PEFT, in float32: towers, projectors, decoder and adapters.

The decoder, both encoders, the projectors and the log-mel features are transformers' own code, the adapters PEFT's.
transformers cuts pictures with torchvision, which ``dev`` does not bring: tiles and their masks come from the bundle's
processor. Nothing here is taken from the exporter: its reading of names, sizes, scales and routes is what is checked.
Upstream's tensor names are put into transformers' by the table of its ``convert_phi4_multimodal_weights_to_hf.py``.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.processor.images.dynamic_hd import ImageTiles

from .independent import MismatchError, Prompt, Sound

ADAPTERS = ("vision", "speech")
_AUDIO = "model.embed_tokens_extend.audio_embed."
_IMAGE = "model.embed_tokens_extend.image_embed."
RENAMES: tuple[tuple[str, str], ...] = (  # upstream's part of a name, transformers' part; exact both ways
    (
        _AUDIO + "encoder.encoders.{N}.feed_forward_{S}.net.0.linear.",
        _AUDIO + "encoder.encoders.{N}.feed_forward_{S}.gate_up_proj.",
    ),
    (
        _AUDIO + "encoder.encoders.{N}.feed_forward_{S}.net.2.",
        _AUDIO + "encoder.encoders.{N}.feed_forward_{S}.down_proj.",
    ),
    (_AUDIO + "encoder.encoders.{N}.self_attn.linear_out.", _AUDIO + "encoder.encoders.{N}.self_attn.o_proj."),
    (_AUDIO + "encoder.encoders.{N}.self_attn.linear_{Q}.", _AUDIO + "encoder.encoders.{N}.self_attn.{Q}_proj."),
    (_AUDIO + "audio_projection.speech.0.", _AUDIO + "up_proj_for_speech."),
    (_AUDIO + "audio_projection.speech.2.", _AUDIO + "down_proj_for_speech."),
    (_AUDIO + "audio_projection.vision.0.", _AUDIO + "up_proj_for_vision_speech."),
    (_AUDIO + "audio_projection.vision.2.", _AUDIO + "down_proj_for_vision_speech."),
    (_IMAGE + "img_projection.0.", _IMAGE + "img_projection_up."),
    (_IMAGE + "img_projection.2.", _IMAGE + "img_projection_down."),
    (_IMAGE + "glb_GN", _IMAGE + "global_img_feature_extensor"),
    (_IMAGE + "sub_GN", _IMAGE + "sub_img_feature_extensor"),
)
_FIELDS = {"{N}": r"(?P<N>\d+)", "{S}": r"(?P<S>in|out)", "{Q}": r"(?P<Q>[qkv])"}
_LORA = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>[AB])(?:\.(?P<adapter>\w+))?\.weight")
TEXT_KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "original_max_position_embeddings"),
    *("rms_norm_eps", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "sliding_window"),
)
TOWER = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
SMALLEST = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}


class MultimodalReference:
    """A checkpoint of either layout in transformers; ``use`` switches adapters."""

    def __init__(self, path: Path, architecture: str) -> None:
        """Load the checkpoint; exceptions of transformers or PEFT are passed on.

        Args:
            path: folder of the checkpoint.
            architecture: phi4mm, upstream's layout, or phi4_multimodal, transformers' own.

        Raises:
            ImportError: torch, transformers or PEFT is not installed.
            ValueError: a tensor is missing, unexpected or of another shape.
        """
        import peft  # noqa: F401 - transformers asks for it late
        import torch
        from transformers import Phi4MultimodalFeatureExtractor

        self._torch = torch
        self._model, loras = _upstream(path) if architecture == "phi4mm" else _port(path)
        # Given no mask, transformers' SDPA takes ``is_causal`` of the tower for causal attention over patches.
        self._media.image_embed.img_processor.config._attn_implementation = "eager"
        for name, (settings, tensors) in loras.items():
            _attach(self._model, name, settings, tensors)
        self._model.eval()
        audio = self._model.config.audio_config
        self._extractor = Phi4MultimodalFeatureExtractor(
            feature_size=audio.input_size,
            audio_compression_rate=audio.time_reduction,
            audio_downsample_rate=audio.downsample_rate,
        )
        self.adapters = tuple(loras)
        self._scaling = {
            (module, name): value
            for module in self._model.modules()
            if hasattr(module, "lora_A")
            for name, value in module.scaling.items()
        }

    @property
    def _media(self) -> Any:
        return self._model.model.embed_tokens_extend

    def use(self, weights: Mapping[str, float]) -> None:
        """Switch adapters on by their weights, all others off."""
        active = [name for name, weight in weights.items() if weight and name in self.adapters]
        if not self.adapters:
            return
        if not active:
            self._model.disable_adapters()
            return
        self._model.enable_adapters()
        self._model.set_adapter(active)
        for (module, name), value in self._scaling.items():
            module.scaling[name] = value * weights.get(name, 0.0)

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """Return the logits, [T, V]: row t predicts token t behind the prompt.

        Raises:
            MismatchError: transformers makes another number of rows of an image or a sound.
        """
        torch = self._torch
        ids = torch.tensor(np.concatenate([prompt.ids, prompt.tokens[:-1]]))[None]
        with torch.no_grad():
            embedded = self._model.model.embed_tokens(ids)
            if prompt.media:
                tiles = [item for item in prompt.media if isinstance(item, ImageTiles)]
                rows = torch.cat([self._rows(item, tiles) for item in prompt.media])
                places = torch.tensor(prompt.places)
                at = torch.nonzero(places)[:, 0]
                embedded[0, at] = rows[places[at] - 1]
            found = self._model(inputs_embeds=embedded, use_cache=False).logits[0]
        return np.asarray(found[len(prompt.ids) - 1 :].numpy())

    def _rows(self, item: ImageTiles | Sound, tiles: list[ImageTiles]) -> Any:
        """Feature rows of one image or sound, [rows, H]; images beside it choose the projector of a sound."""
        torch, config = self._torch, self._model.config
        pictures = self._picture(item if isinstance(item, ImageTiles) else tiles[0]) if tiles else {}
        sounds: dict[str, Any] = {}
        if isinstance(item, Sound):
            if item.samples is not None:
                found = self._extractor(item.samples, sampling_rate=item.rate_hz, return_tensors="pt")
                mel, count = found["audio_input_features"].float(), int(found["audio_embed_sizes"][0])
            else:
                mel, count = torch.tensor(item.log_mel)[None], item.rows
            if count != item.rows:
                raise MismatchError(f"transformers makes {count} rows of a sound, the exporter {item.rows}")
            sounds = {"audio_input_features": mel, "audio_embed_sizes": torch.tensor([count])}
        token = config.audio_config.audio_token_id if sounds else config.vision_config.image_token_id
        ids = torch.full((1, item.rows), token)
        empty = torch.full((1, item.rows, config.hidden_size), float("nan"))
        try:
            return self._media(ids, empty, **pictures, **sounds)[0]
        except RuntimeError as error:
            if "shape mismatch" not in str(error):
                raise
            raise MismatchError(
                f"transformers does not make {item.rows} rows of a picture, the exporter does"
            ) from error

    def _picture(self, tiles: ImageTiles) -> dict[str, Any]:
        torch, side = self._torch, tiles.pixels.shape[-1]
        return {
            "image_pixel_values": torch.tensor(np.ascontiguousarray(tiles.pixels))[None],
            "image_sizes": torch.tensor([[tiles.grid[0] * side, tiles.grid[1] * side]]),
            "image_attention_mask": torch.tensor(np.ascontiguousarray(tiles.patch_mask))[None],
        }


def port_config(upstream: Mapping[str, Any], *, has_vision: bool = True, has_audio: bool = True) -> Any:
    """Return the transformers config with the meaning of upstream's ``config.json``.

    Args:
        upstream: content of the file.
        has_vision: whether the checkpoint has the vision encoder; a tiny one stands for one that was dropped.
        has_audio: whether it has the audio encoder.
    """
    from transformers import Phi4MultimodalConfig

    rope = dict(upstream.get("rope_parameters") or upstream.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    numbers = {
        "rope_theta": rope.get("rope_theta", upstream.get("rope_theta", 10000.0)),
        "partial_rotary_factor": rope.get("partial_rotary_factor", upstream.get("partial_rotary_factor", 1.0)),
    }
    layers = upstream.get("embd_layer") or {}
    config = Phi4MultimodalConfig(
        **{key: upstream[key] for key in TEXT_KEYS if key in upstream},
        rope_parameters={"rope_type": "default"} | numbers,
        vision_config=_vision(upstream, layers.get("image_embd_layer") or {}) if has_vision else SMALLEST,
        audio_config=_audio(upstream, layers.get("audio_embd_layer") or {}) if has_audio else _no_audio(),
    )
    # Set afterwards: the class's validator takes hidden/heads for the head size and refuses others.
    if "head_dim" in upstream:
        config.head_dim = upstream["head_dim"]
    if kind in ("longrope", "su", "yarn"):
        original = upstream["original_max_position_embeddings"]
        config.rope_parameters = {
            "rope_type": "longrope",
            "short_factor": rope["short_factor"],
            "long_factor": rope["long_factor"],
            "original_max_position_embeddings": original,
            "factor": upstream["max_position_embeddings"] / original,
        } | numbers
    return config


def to_port_key(key: str) -> str:
    """Return transformers' name of an upstream tensor, with adapters injected."""
    return renamed(key, RENAMES)


def renamed(key: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """Return a name with the first matching part replaced."""
    for old, new in pairs:
        pattern, replacement = re.escape(old).replace(r"\{", "{").replace(r"\}", "}"), new
        for field, group in _FIELDS.items():
            pattern = pattern.replace(field, group)
            replacement = replacement.replace(field, f"\\g<{field[1]}>")
        found, count = re.subn("^" + pattern, replacement, key)
        if count:
            return found
    return key


def _vision(upstream: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    own = image.get("vision_config") or TOWER
    crop = image.get("crop_size", own.get("image_size", 448))
    token = {"image_token_id": upstream["image_token_id"]} if "image_token_id" in upstream else {}
    return {**own, "image_size": own.get("image_size", crop), "crop_size": crop, **token}


def _audio(upstream: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    audio = upstream["audio_processor"]["config"]
    width = audio["attention_dim"]
    found = {
        "hidden_size": width,
        "intermediate_size": audio["linear_units"],
        "num_blocks": audio["num_blocks"],
        "num_attention_heads": audio["attention_heads"],
        "ext_pw_out_channel": audio.get("ext_pw_out_channel", width),
        "depthwise_separable_out_channel": audio.get("depthwise_seperable_out_channel", width),
        "bias_max_distance": audio["relative_attention_bias_args"]["t5_bias_max_distance"],
        "bias_symmetric": audio["relative_attention_bias_args"].get("t5_bias_symmetric", False),
        "nemo_conv_channels": audio["nemo_conv_settings"]["conv_channels"],
        "downsample_rate": layer.get("downsample_rate", 1),
    }
    same = ("kernel_size", "input_size", "time_reduction", "depthwise_multiplier", "chunk_size")
    found |= {key: audio[key] for key in (*same, "activation", "conv_activation", "conv_glu_type") if key in audio}
    return found | ({"audio_token_id": upstream["audio_token_id"]} if "audio_token_id" in upstream else {})


def _no_audio() -> dict[str, Any]:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_blocks": 1, "num_attention_heads": 1}
    return sizes | {"ext_pw_out_channel": 8, "depthwise_separable_out_channel": 8, "nemo_conv_channels": 4}


Loras = dict[str, tuple[dict[str, Any], dict[str, Any]]]
"""By adapter: settings of PEFT, and its tensors by module and part, such as "model.layers.0.mlp.down_proj.lora_A"."""


def _upstream(path: Path) -> tuple[Any, Loras]:
    import torch
    from transformers import Phi4MultimodalForCausalLM

    upstream = json.loads((path / "config.json").read_text("utf-8-sig"))
    state: dict[str, Any] = {}
    loras: Loras = {}
    for file in _files(path):
        for key, tensor in _tensors(file).items():
            lora = _LORA.fullmatch(key)
            if lora is None:
                state[to_port_key(key).replace(".base_layer.", ".")] = tensor.float()
                continue
            settings = upstream[f"{lora['adapter']}_lora"]
            own = loras.setdefault(lora["adapter"], ({"r": settings["r"], "lora_alpha": settings["lora_alpha"]}, {}))
            own[1][f"{lora['module']}.lora_{lora['part']}"] = tensor.float()
    has = {part: any(key.startswith(prefix) for key in state) for part, prefix in (("v", _IMAGE), ("a", _AUDIO))}
    config = port_config(upstream, has_vision=has["v"], has_audio=has["a"])
    model: Any = Phi4MultimodalForCausalLM._from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    found = model.load_state_dict(state, strict=False)
    _check(found.missing_keys, found.unexpected_keys, model)
    model.tie_weights()
    return model, loras


def _port(path: Path) -> tuple[Any, Loras]:
    import torch
    from transformers import Phi4MultimodalForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    port: Any = Phi4MultimodalForCausalLM
    model, found = port.from_pretrained(
        path, dtype=torch.float32, local_files_only=True, trust_remote_code=False, output_loading_info=True
    )
    _check(found["missing_keys"], found["unexpected_keys"], model)
    loras: Loras = {}
    for name in ADAPTERS:
        folder = path / f"{name}-lora"
        if not folder.is_dir():
            continue
        settings = json.loads((folder / "adapter_config.json").read_text("utf-8-sig"))
        tensors = {}
        for file in _files(folder):
            for key, tensor in _tensors(file).items():
                lora = _LORA.fullmatch(key.replace("_orig_mod.", ""))
                if lora is None:
                    raise ValueError(f"{file}: tensor '{key}' is no LoRA's")
                module = lora["module"] if lora["module"].startswith("model.") else f"model.{lora['module']}"
                tensors[f"{module}.lora_{lora['part']}"] = tensor.float()
        loras[name] = settings, tensors
    return model, loras


def _check(missing: Any, unexpected: Any, model: Any) -> None:
    """Check that all tensors were used, and that only an encoder that the checkpoint lacks has none."""
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    dropped = [prefix for prefix in (_IMAGE, _AUDIO) if any(key.startswith(prefix) for key in missing)]
    own = {key for key, _ in model.named_parameters()}
    for prefix in list(dropped):  # whole parts only
        if {key for key in own if key.startswith(prefix)} - set(missing):
            dropped.remove(prefix)
    left = sorted(key for key in set(missing) - tied if not key.startswith(tuple(dropped)))
    if left or unexpected:
        raise ValueError(f"missing tensors {left[:3]}, unexpected tensors {sorted(unexpected)[:3]}")


def _attach(model: Any, name: str, settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Add an adapter to the linears of its tensors, with PEFT's scale."""
    from peft import LoraConfig

    known = {key for key in LoraConfig.__dataclass_fields__ if not key.startswith("_")}
    targets = sorted({key.rpartition(".")[0] for key in tensors})
    own = {key: value for key, value in settings.items() if key in known} | {"target_modules": targets}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # two adapters are meant
        model.add_adapter(LoraConfig(**own), name)
    # Not ``load_adapter``: transformers 5.23 initialises anew what merely ends in the adapter's name.
    found = model.load_state_dict({f"{key}.{name}.weight": tensor for key, tensor in tensors.items()}, strict=False)
    left = [key for key in found.missing_keys if ".lora_" in key and f".{name}." in key]
    if left or found.unexpected_keys:
        raise ValueError(f"the {name} adapter: missing {left[:3]}, unexpected {sorted(found.unexpected_keys)[:3]}")


def _files(path: Path) -> list[Path]:
    names = ("model", "adapter_model", "pytorch_model")
    for name, end in ((name, end) for name in names for end in ("safetensors", "bin")):
        index = path / f"{name}.{end}.index.json"
        if index.is_file():
            shards = json.loads(index.read_text("utf-8"))["weight_map"].values()
            return [path / shard for shard in sorted(set(shards))]
        if (path / f"{name}.{end}").is_file():
            return [path / f"{name}.{end}"]
    raise ValueError(f"{path} has no file of tensors")


def _tensors(file: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    if file.suffix == ".safetensors":
        return load_file(file)
    found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return found
