"""GGUF files of every architecture but phi3, written with the package ``gguf``'s own names, against transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from palmtop.errors import CheckpointError
from palmtop.export.arch import names
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.gguf.checkpoint import GgufCheckpoint
from palmtop.export.checkpoint.gguf.families import FAMILIES
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from tests.export.families import add_words, answers_alike, difference
from tests.export.test_journey import family_of

KINDS = gguf.GGMLQuantizationType
PERMUTED = ("llama", "granite", "minicpm")  # facts of llama.cpp's converters, not of the product's tables
SOURCES = {"granite": ("granite", "granitemoehybrid")}
Array = NDArray[np.float32]


def permuted(array: Array, heads: int) -> Array:
    """As llama.cpp's converters turn the two rotated halves of a head into pairs."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def write_gguf(
    folder: Path, path: Path, arch: str, encode: Callable[[str, Array], tuple[Any, Any]], **metadata: Any
) -> Path:
    """The GGUF of a checkpoint folder, as llama.cpp's converter would write it.

    ``encode`` gives a matrix's bytes and type; None for a key leaves it out.
    """
    checkpoint = Checkpoint(folder)
    config = checkpoint.config
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    kv_heads = config["num_key_value_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {"rope_theta": 10000.0, **(config.get("rope_scaling") or {})}
    writer = gguf.GGUFWriter(path, arch)
    says_head = "head_dim" in config and arch != "phimoe"
    keys: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config.get("shared_intermediate_size", config["intermediate_size"]),
        "block_count": layers,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": config["hidden_size"] // heads if arch == "phimoe" else head,  # whatever the head is
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config["vocab_size"],
        **({"attention.key_length": head, "attention.value_length": head} if says_head else {}),
        **multipliers(arch, config),
    }
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        keys |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if kind == "longrope":
        keys["rope.scaling.type"] = kind
        for which in ("short", "long"):
            writer.add_tensor(f"rope_factors_{which}.weight", np.array(rope[f"{which}_factor"], np.float32))
    if kind == "llama3":
        from tests.export.test_gguf_llama import llama3_factors

        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, head))
    for key, value in {**keys, **metadata}.items():
        if value is not None:
            add = {str: writer.add_string, float: writer.add_float32}.get(type(value), writer.add_uint32)
            add(f"{arch}.{key}", value)
    add_words(writer, config["vocab_size"])
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], layers)
    for name, array in tensors(checkpoint):
        module, _, which = name.rpartition(".")
        if arch in PERMUTED and module.endswith((".q_proj", ".k_proj")):
            array = permuted(array, heads if module.endswith("q_proj") else kv_heads)
        data, stored = (array, KINDS.F32) if array.ndim == 1 else encode(name, array)
        writer.add_tensor(f"{table.get_name(module)}.{which}", np.ascontiguousarray(data), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(checkpoint: Checkpoint) -> list[tuple[str, Array]]:
    """With Llama's names: of Granite 4.0's stacked gate and up the converter makes two, of experts' matrices one."""
    found = []
    experts: dict[str, dict[int, Array]] = {}
    for name in checkpoint.names:
        array = checkpoint.weight(name).array()
        if "shared_mlp.input_linear" in name:
            for part, half in zip(("gate", "up"), np.split(array, 2), strict=True):
                found.append((name.replace("shared_mlp.input_linear", f"mlp.{part}_proj"), half))
        elif ".experts." in name:
            before, _, after = name.partition(".experts.")
            number, _, part = after.partition(".")
            experts.setdefault(f"{before}.experts.{part}", {})[int(number)] = array
        else:
            found.append((name.replace("shared_mlp.output_linear", "mlp.down_proj"), array))
    return found + [(name, np.stack([each[number] for number in sorted(each)])) for name, each in experts.items()]


def multipliers(arch: str, config: dict[str, Any]) -> dict[str, Any]:
    if arch == "granite":
        names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
        values = [float(config[name]) for name in names]
        return dict(zip(("embedding_scale", "residual_scale", "attention.scale", "logit_scale"), values, strict=True))
    if arch == "minicpm":
        return {
            "embedding_scale": float(config["scale_emb"]),
            "residual_scale": config["scale_depth"] / math.sqrt(config["num_hidden_layers"]),
            "logit_scale": config["hidden_size"] / config["dim_model_base"],
        }
    if arch == "phimoe":
        rope, context = config["rope_parameters"], config["max_position_embeddings"]
        longer = {}
        if rope["rope_type"] == "longrope":  # the factor of Phi-3, whatever the model's mscale is
            original = rope["original_max_position_embeddings"]
            factor = math.sqrt(1 + math.log(context / original) / math.log(original))
            longer = {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": factor}
        return {
            **longer,
            "expert_count": config["num_local_experts"],
            "expert_used_count": 2,
            **({"attention.sliding_window": config["sliding_window"]} if config["sliding_window"] else {}),
        }
    return {}


def as_floats(name: str, array: Array) -> tuple[Array, Any]:
    return array, KINDS.F32


def compared(source: str, shape: str) -> bool:
    """Shapes that a file of this kind can say; the rest has no key in its metadata."""
    changes = family_of(source).shapes[shape]
    scaling = (changes.get("rope_parameters") or changes.get("rope") or {}).get("rope_type", "default")
    if scaling == "longrope":
        return "original" not in changes
    if source == "phimoe" and "router_jitter_noise" in changes:
        return False
    llama3 = scaling == "llama3" and source in ("llama", "granite")
    return (scaling in ("default", "linear") or (scaling == "yarn" and source != "minicpm") or llama3) and (
        not changes.get("use_sliding_window") and not (source == "llama" and "mlp_bias" in changes)
    )


CASES = [
    (arch, source, shape)
    for arch in FAMILIES
    if arch != "phi3"
    for source in SOURCES.get(arch, (arch,))
    for shape in family_of(source).shapes
    if compared(source, shape)
]


def test_every_architecture_of_text_has_a_table() -> None:
    assert {family.model_type for family in FAMILIES.values()} == set(names()) - {
        "phi4mm",
        "phi4_multimodal",
        "minicpmv",
        "granitemoehybrid",  # its files say granite
    }


@pytest.mark.parametrize(("arch", "source", "shape"), CASES)
def test_a_file_is_its_model(arch: str, source: str, shape: str, tmp_path: Path) -> None:
    family = family_of(source)
    model = family.write(tmp_path / "checkpoint", 5, **family.shapes[shape])
    file = write_gguf(tmp_path / "checkpoint", tmp_path / "model.gguf", arch, as_floats)
    bundle = export_model(file, tmp_path / "bundle", Recipe(bits=32, context=128))
    assert difference(bundle, model) < 1e-3


WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
STORED = ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def blocks(kind: Any, array: Array) -> NDArray[np.uint8]:
    """Random blocks of a K type: the package can read but not write them. Only their scales have to be small."""
    size, length = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(array.size)
    made = rng.integers(0, 256, (array.size // size, length), np.uint8)
    scale = np.array([0.004 if kind == KINDS.Q6_K else 0.02], np.float16).view(np.uint8)
    places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[kind.name]
    for place in places:
        made[:, place : place + 2] = scale
    return made.reshape(*array.shape[:-1], -1)


def place(model: Any, name: str, values: torch.Tensor) -> None:
    """Give a model a weight by the checkpoint's name; gate and up of all experts are one tensor in memory."""
    name, _, part = name.replace("block_sparse_moe.gate.", "mlp.router.").partition(".block_sparse_moe.experts.")
    if not part:
        model.state_dict()[name].copy_(values)
        return
    tensor = model.state_dict()[f"{name}.mlp.experts.{'down_proj' if part == 'w2.weight' else 'gate_up_proj'}"]
    rows = values.shape[1]
    (tensor if part == "w2.weight" else tensor[:, :rows] if part == "w1.weight" else tensor[:, rows:]).copy_(values)


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("arch", [arch for arch in FAMILIES if arch != "phi3"])
def test_every_stored_type_is_read(arch: str, kind: str, tmp_path: Path) -> None:
    """Against a model with the weights that the package ``gguf`` reads from the same bytes."""
    family, stored = family_of(arch), KINDS[kind]
    more = {"head_dim": 64} if arch == "qwen3" else {}
    model: Any = family.write(tmp_path / "checkpoint", 6, **WIDE, **more)
    read: dict[str, Array] = {}

    def encode(name: str, array: Array) -> tuple[Any, Any]:
        data = blocks(stored, array) if kind.endswith("_K") else gguf.quants.quantize(array, stored)
        floats = gguf.quants.dequantize(data, stored).reshape(array.shape)
        if arch in PERMUTED and name.endswith(("q_proj.weight", "k_proj.weight")):
            floats = floats.reshape(4, 32, 2, -1).swapaxes(1, 2).reshape(array.shape)
        read[name] = floats.astype(np.float32)
        return data, stored

    file = write_gguf(tmp_path / "checkpoint", tmp_path / "model.gguf", arch, encode)
    with torch.no_grad():
        for name, values in read.items():
            place(model, name, torch.from_numpy(values))
    bundle = export_model(file, tmp_path / "bundle", Recipe(bits=32, context=64))
    assert difference(bundle, model, 40) < 1e-3
    assert answers_alike(bundle, model, 4)


def test_an_old_minicpm_is_read_with_the_values_of_its_time_or_refused(tmp_path: Path) -> None:
    none = dict.fromkeys(("embedding_scale", "residual_scale", "logit_scale"))
    for heads in (4, 2):
        folder = tmp_path / str(heads)
        family_of("minicpm").write(folder, 5, num_key_value_heads=heads)
        file = write_gguf(folder, tmp_path / f"{heads}.gguf", "minicpm", as_floats, **none)
        if heads == 4:
            config = GgufCheckpoint(file).config
            assert [config[key] for key in ("scale_emb", "scale_depth", "dim_model_base")] == [12.0, 1.4, 256.0]
        else:
            with pytest.raises(CheckpointError, match=r"embedding_scale' is missing, as in files of 2024"):
                GgufCheckpoint(file)


@pytest.mark.parametrize(
    ("arch", "metadata", "message"),
    [
        ("minicpm", {"logit_scale": None}, r"minicpm\.logit_scale is None, expected a positive number"),
        ("minicpm", {"residual_scale": -1.0}, r"minicpm\.residual_scale is -1\.0, expected a positive number"),
        ("granite", {"logit_scale": None}, r"'granite\.logit_scale' is missing"),
        ("granite", {"residual_scale": "much"}, r"residual_multiplier is 'much', expected a positive number"),
        ("granite", {"expert_count": 4}, r"'granite\.expert_count' is 4, expected none"),
        ("qwen2", {"logit_scale": 2.0}, r"'qwen2\.logit_scale' is 2\.0, expected none"),
        ("qwen3", {"rope.scaling.type": "longrope"}, r"rope\.scaling is of type 'longrope'"),
        ("phimoe", {"expert_count": None}, r"'phimoe\.expert_count' is missing"),
        ("phimoe", {"expert_shared_count": 1}, r"'phimoe\.expert_shared_count' is 1, expected none"),
    ],
)
def test_what_would_change_the_model_is_refused(
    arch: str, metadata: dict[str, Any], message: str, tmp_path: Path
) -> None:
    family_of(arch).write(tmp_path / "checkpoint", 5)
    file = write_gguf(tmp_path / "checkpoint", tmp_path / "model.gguf", arch, as_floats, **metadata)
    with pytest.raises(CheckpointError, match=message):
        GgufCheckpoint(file)


def test_a_granite_without_a_factor_of_scores_has_the_usual_one(tmp_path: Path) -> None:
    """As llama.cpp reads it, unlike a config.json, where a missing one is 1."""
    family_of("granite").write(tmp_path / "checkpoint", 5)
    for number, value in enumerate((None, 0.0)):
        file = write_gguf(
            tmp_path / "checkpoint", tmp_path / f"{number}.gguf", "granite", as_floats, **{"attention.scale": value}
        )
        assert GgufCheckpoint(file).config["attention_multiplier"] == 0.25
