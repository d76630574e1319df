"""A PEFT folder means here what it means to PEFT: the installed PEFT's own matching is the reference."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.numpy import load_file, save_file

from palmtop.errors import CheckpointError
from palmtop.export.adapters.adapter_source import read_peft
from palmtop.export.adapters.install import add_adapter
from palmtop.export.adapters.merge_job import Source, merge_sources
from palmtop.export.checkpoint.peft_config import _HARMLESS, _READ, _REFUSED
from palmtop.runtime.bundle.opening import open_bundle

MODULES = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
Lora = tuple[Path, NDArray[np.float32]]


def write_folder(
    folder: Path,
    names: list[str],
    rank: Callable[[str], int] | int = 4,
    wrapped: str = "base_model.model.",
    **config: Any,
) -> Path:
    """A LoRA whose every A and B are ones, for modules of these names."""
    folder.mkdir()
    tensors = {}
    for name in names:
        r = rank if isinstance(rank, int) else rank(name)
        tensors |= {f"{wrapped}{name}.lora_A.weight": np.ones((r, 3), np.float32)}
        tensors |= {f"{wrapped}{name}.lora_B.weight": np.ones((2, r), np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def scales(folder: Path) -> dict[str, float]:
    """By linear, what its B of ones was multiplied by."""
    adapter = read_peft(folder, "x")
    pairs = {target: adapter.pair(target) for target in adapter.targets}
    return {target: float(pair.b.array()[0, 0]) for target, pair in pairs.items() if pair is not None}


def decoder(prefix: str, layers: int = 2) -> list[str]:
    return [f"{prefix}layers.{n}.{module}" for n in range(layers) for module in MODULES]


PATTERNS: list[dict[str, float]] = [
    {"model.language_model.layers.0.mlp.down_proj": 16},
    {"language_model.layers.0.mlp.down_proj": 16},
    {"model.layers.0.mlp.down_proj": 16, "down_proj": 32},
    {"layers.1.self_attn.o_proj": 16},
    {"^layers.1.self_attn.o_proj": 16},
    {"^model.layers.1.self_attn.o_proj$": 16},
    {r"^model\.language_model\.layers\.\d+\.mlp\..*": 16},
    {"base_model.model.model.layers.0.mlp.down_proj": 16},
    {"^down_proj": 16},
    {"o_proj|down_proj": 16},
    {r"layers\.1\..*": 2.5, "o_proj": 16},
    {"proj": 16},
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: next(iter(p)))
@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model.", "model.model.", "model.", ""])
@pytest.mark.parametrize("wrapped", ["base_model.model.", ""])
def test_patterns_match_the_names_of_the_adapters_own_modules(
    pattern: dict[str, float], prefix: str, wrapped: str, tmp_path: Path
) -> None:
    names = decoder(prefix)
    alpha = {name: pattern.get(get_pattern_key(pattern.keys(), name), 8) for name in names}
    folder = write_folder(tmp_path / "alpha", names, wrapped=wrapped, alpha_pattern=pattern)
    assert scales(folder) == {name.removeprefix(prefix): value / 4 for name, value in alpha.items()}
    if not all(isinstance(value, int) for value in pattern.values()):
        return
    ranks = {name: int(pattern.get(get_pattern_key(pattern.keys(), name), 4)) for name in names}
    folder = write_folder(tmp_path / "rank", names, ranks.__getitem__, wrapped=wrapped, rank_pattern=pattern)
    assert scales(folder) == {name.removeprefix(prefix): 8 / value for name, value in ranks.items()}
    stable = write_folder(tmp_path / "rs", names, ranks.__getitem__, rank_pattern=pattern, use_rslora=True)
    assert scales(stable) == pytest.approx({n.removeprefix(prefix): 8 / value**0.5 for n, value in ranks.items()})


def test_an_alpha_pattern_of_prefixed_names_gives_the_strength_of_peft(
    int4_bundle: Path, lora: Lora, tmp_path: Path
) -> None:
    """Half of lora_alpha, and each module's own alpha of the whole: the stored matrices are the same."""
    folder, bundle = Path(shutil.copytree(lora[0], tmp_path / "half")), shutil.copytree(int4_bundle, tmp_path / "b")
    tensors = {k.replace("model.layers", "model.language_model.layers"): v for k, v in load_file(
        folder / "adapter_model.safetensors").items()}  # fmt: skip
    save_file(tensors, folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    own = {k.removeprefix("base_model.model.").rpartition(".lora_")[0]: config["lora_alpha"] for k in tensors}
    config |= {"lora_alpha": config["lora_alpha"] / 2, "alpha_pattern": own}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    whole, half = add_adapter(bundle, lora[0], "whole"), add_adapter(bundle, folder, "half")
    assert whole.file is not None and half.file is not None
    assert (bundle / whole.file).read_bytes() == (bundle / half.file).read_bytes()


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("_orig_mod.base_model.model.model.layers.0.mlp.down_proj", "layers.0.mlp.down_proj"),
        ("base_model.model._orig_mod.model.layers.0.mlp.down_proj", "layers.0.mlp.down_proj"),
        ("base_model.model.model.layers.0._orig_mod.mlp.down_proj", "layers.0.mlp.down_proj"),
        ("base_model.model.model.layers.0.mlp.down_proj._orig_mod", "layers.0.mlp.down_proj"),
        ("_orig_mod.model.language_model.layers.0.mlp.down_proj", "layers.0.mlp.down_proj"),
        ("module.base_model.model.model.layers.0.mlp.down_proj", "layers.0.mlp.down_proj"),
        ("base_model.model.model.layers.0._fsdp_wrapped_module.mlp.down_proj", "layers.0.mlp.down_proj"),
        ("base_model.model.model.layers.0._checkpoint_wrapped_module.mlp.down_proj", "layers.0.mlp.down_proj"),
    ],
)
def test_wrappers_of_torch_are_no_part_of_a_name(written: str, kept: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", [written], wrapped="", alpha_pattern={f"model.*{kept}": 16})
    assert scales(folder) == {kept: 4.0}
    assert scales(write_folder(tmp_path / "plain", [written], wrapped="")) == {kept: 2.0}


def test_a_pattern_that_depends_on_the_wrapper_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", ["_orig_mod.model.layers.0.mlp.down_proj"], alpha_pattern={"^model.*": 16})
    with pytest.raises(CheckpointError, match=r"alpha_pattern gives 8 for '_orig_mod.*and 16 for 'model"):
        read_peft(folder, "x")


@pytest.mark.parametrize("key", ["alpha_pattern", "rank_pattern"])
def test_a_pattern_without_a_module_is_told(key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    patterns = {
        "^down_proj": 16,
        "base_model.model.model.layers.0.mlp.down_proj": 16,
        "qkv_proj": 8 if key[0] == "a" else 4,
    }
    folder = write_folder(tmp_path / "x", decoder("model."), **{key: patterns})
    with caplog.at_level(logging.WARNING):
        assert set(scales(folder).values()) == {2.0}
    assert caplog.messages == [
        f"palmtop: warning: x/adapter_config.json: {key} has '^down_proj' and 1 more, which matches no module of this"
        f" adapter, in PEFT neither; {'lora_alpha' if key[0] == 'a' else 'r'} is used"
    ]


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["down_proj", "o_proj"]},
        {"target_modules": ["model.layers.1.mlp.down_proj"]},
        {"target_modules": r"model\.layers\.1\..*"},
        {"target_modules": list(MODULES), "layers_to_transform": [1]},
        {"target_modules": list(MODULES), "layers_to_transform": 0},
        {"target_modules": list(MODULES), "layers_to_transform": [1], "layers_pattern": ["layers"]},
        {"target_modules": list(MODULES), "layers_to_transform": [1], "layers_pattern": "h"},
        {"target_modules": list(MODULES), "exclude_modules": ["down_proj"]},
        {"target_modules": list(MODULES), "exclude_modules": r".*layers\.0.*"},
    ],
    ids=str,
)
def test_tensors_that_peft_would_leave_out_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    for number, name in enumerate(decoder("model.")):
        folder = write_folder(tmp_path / f"x{number}", [name], **config)
        if _is_target_of_peft(config, name):
            assert len(scales(folder)) == 1
        else:
            with pytest.raises(CheckpointError, match="leave that module out"):
                read_peft(folder, "x")


def _is_target_of_peft(config: dict[str, Any], name: str) -> bool:
    found = check_target_module_exists(LoraConfig(**config), name)
    return bool(found) and type(found).__name__ != "_ExcludedModule"


def test_every_key_of_the_installed_peft_is_known(tmp_path: Path) -> None:
    assert {field.name for field in fields(LoraConfig)} <= _READ | _HARMLESS | _REFUSED.keys()
    defaults = json.loads(json.dumps(LoraConfig().to_dict(), default=lambda value: getattr(value, "value", str(value))))
    folder = write_folder(tmp_path / "x", decoder("model."), **{**defaults, "r": 4})
    assert len(scales(folder)) == 8


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices is"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters is"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication is"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"megatron_config": {"a": 1}}, "megatron_config is"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens is"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "PiSSA_niter_16"}, "init_lora_weights is 'PiSSA_niter_16'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga'"),
        ({"init_lora_weights": "tomorrow"}, "init_lora_weights is 'tomorrow'"),
        ({"use_tomorrow": True}, "use_tomorrow is True, expected only keys that this palmtop reads"),
        ({"rank_pattern": {"down_proj": 4.5}}, "down_proj is 4.5, expected a positive number"),
        ({"alpha_pattern": {"down_proj": "16"}}, "down_proj is '16', expected a number"),
        ({"alpha_pattern": ["down_proj"]}, "alpha_pattern is .*expected an object"),
        ({"target_modules": 3}, "target_modules is 3"),
        ({"target_modules": "("}, "target_modules is '\\(', not a pattern"),
        ({"exclude_modules": {"a": 1}}, "exclude_modules is"),
    ],
    ids=str,
)
def test_what_a_branch_cannot_stand_for_is_refused_by_name(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_peft(write_folder(tmp_path / "x", decoder("model."), **config), "x")


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_starts_that_leave_the_base_as_it_is_are_taken(init: bool | str, tmp_path: Path) -> None:
    assert len(scales(write_folder(tmp_path / "x", decoder("model."), init_lora_weights=init))) == 8


@pytest.mark.parametrize("names", [("one", "two"), ("default", "two")])
def test_two_adapters_in_one_file_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", ["model.layers.0.mlp.down_proj"])
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, wanted in ((names[:1], 1), (names, 2)):
        save_file({k.replace(".weight", f".{n}.weight"): v for k, v in tensors.items() for n in name},
                  folder / "adapter_model.safetensors")  # fmt: skip
        if wanted == 1:
            assert scales(folder) == {"layers.0.mlp.down_proj": 2.0}
        else:
            with pytest.raises(CheckpointError, match="expected one adapter"):
                read_peft(folder, "x")


def test_one_module_under_two_names_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", ["model.layers.0.mlp.down_proj", "language_model.layers.0.mlp.down_proj"])
    with pytest.raises(CheckpointError, match="are of one module"):
        read_peft(folder, "x")


@pytest.mark.parametrize("prefix", ["model.vision_tower.encoder.", "model.embed_tokens_extend.audio_embed.encoder."])
def test_an_encoders_module_is_not_taken_for_the_decoders(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there, expected base_model"):
        read_peft(write_folder(tmp_path / "x", [f"{prefix}layers.0.self_attn.q_proj"]), "x")


def _zeroed(source: Path, target: Path, chosen: Callable[[str], bool]) -> Path:
    folder = Path(shutil.copytree(source, target))
    tensors = load_file(folder / "adapter_model.safetensors")
    zeroed = {k: np.zeros_like(v) if chosen(k) else v for k, v in tensors.items()}
    save_file(zeroed, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("part", [".lora_B.", ".lora_A.", "alpha"])
def test_an_adapter_that_adds_nothing_is_refused(part: str, int4_bundle: Path, lora: Lora, tmp_path: Path) -> None:
    folder = _zeroed(lora[0], tmp_path / "zero", lambda name: part in name)
    if part == "alpha":
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 0}))
    bundle = Path(shutil.copytree(int4_bundle, tmp_path / "bundle"))
    with pytest.raises(CheckpointError, match=r"zero: adds nothing: .* is zero in all .* linears, such as .*lora_B"):
        add_adapter(bundle, folder)
    assert [a.name for a in open_bundle(bundle).manifest.adapters] == ["vision", "speech"]
    with pytest.raises(CheckpointError, match="adds nothing"):
        merge_sources([Source(str(folder), 0.5), Source(str(lora[0]), 0.5)], tmp_path / "merged")


def test_an_adapter_that_adds_nothing_to_a_part_is_told(
    int4_bundle: Path, lora: Lora, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _zeroed(lora[0], tmp_path / "part", lambda name: "layers.1." in name and ".lora_B." in name)
    with caplog.at_level(logging.WARNING):
        add_adapter(shutil.copytree(int4_bundle, tmp_path / "bundle"), folder)
    assert "lora_A or lora_B is zero in 4 of " in caplog.text
