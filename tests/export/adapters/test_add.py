"""Adapters brought into a bundle answer as the float model with them does; taken out, nothing of them stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from palmtop.errors import InputError
from palmtop.export.adapters.install import add_adapter, remove_adapter, set_route
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.opening import check_hashes, open_bundle, sha256_of
from tests.export.adapters.conftest import bundle_logits, float_logits, share
from tests.export.test_decoder import SMALL_TOWERS
from tests.reference.plain import language_targets, plain_port, random_lora
from tests.reference.port import random_checkpoint

Copied = Callable[[Path], Path]
Lora = tuple[Path, NDArray[np.float32]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random checkpoint whose heads must be padded, and its float32 bundle without adapters."""
    folder = tmp_path_factory.mktemp("small")
    random_checkpoint(
        folder / "checkpoint", 5, num_hidden_layers=2, head_dim=20, partial_rotary_factor=0.5, **SMALL_TOWERS
    )
    recipe = Recipe(bits=32, context=64, adapters="none")
    return folder / "checkpoint", export_model(folder / "checkpoint", folder / "bundle", recipe)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("plain", {}),
        ("rslora", {"use_rslora": True}),
        ("patterns", {"rank_pattern": {"layers.0.mlp.down_proj": 3, "o_proj": 5}, "alpha_pattern": {"o_proj": 40}}),
        ("subset", {"target_modules": language_targets("qkv_proj"), "layers_to_transform": None}),
    ],
)
def test_a_lora_of_any_shape_matches_peft(
    kind: str, config: dict[str, Any], small: tuple[Path, Path], copied: Copied, tmp_path: Path
) -> None:
    checkpoint, bundle = small[0], copied(small[1])
    expected = float_logits(random_lora(checkpoint, tmp_path / kind, 3, **config))
    before = bundle_logits(bundle)
    add_adapter(bundle, tmp_path / kind)
    assert share(bundle_logits(bundle, **{kind: 1.0}), expected) < 1e-4
    assert share(before, expected) > 1e-2, "the adapter must matter, or nothing was compared"
    np.testing.assert_array_equal(bundle_logits(bundle), before)


def test_torch_files_are_read_without_torch(small: tuple[Path, Path], copied: Copied, tmp_path: Path) -> None:
    bundle = copied(small[1])
    expected = float_logits(random_lora(small[0], tmp_path / "old", 3, safe=False))
    assert not (tmp_path / "old" / "adapter_model.safetensors").exists()
    add_adapter(bundle, tmp_path / "old")
    assert share(bundle_logits(bundle, old=1.0), expected) < 1e-4


def test_separate_projections_are_fused(small: tuple[Path, Path], copied: Copied, tmp_path: Path) -> None:
    """q, v and up have adapters, k and gate have none: as if each delta had been added to its rows of the base."""
    bundle, model = copied(small[1]), plain_port(small[0])
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    config = model.config
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    rows = {"q_proj": (0, queries), "v_proj": (queries + keys, keys)}
    rows["up_proj"] = (config.intermediate_size, config.intermediate_size)
    for number, layer in enumerate(model.model.layers):
        for module, (start, size) in rows.items():
            fused = layer.mlp.gate_up_proj if module == "up_proj" else layer.self_attn.qkv_proj
            a, b = (torch.randn(shape, generator=generator) * 0.1 for shape in ((4, config.hidden_size), (size, 4)))
            with torch.no_grad():
                fused.weight[start : start + size] += 2.0 * (b @ a)
            room = "mlp" if module == "up_proj" else "self_attn"
            name = f"base_model.model.model.layers.{number}.{room}.{module}"
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    folder = tmp_path / "split"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    spec = add_adapter(bundle, folder)
    assert spec.rank == 8
    assert share(bundle_logits(bundle, split=1.0), float_logits(model)) < 1e-4


def test_int4_bundles_take_adapters_and_keep_their_base(int4_bundle: Path, lora: Lora, copied: Copied) -> None:
    bundle = copied(int4_bundle)
    weights = bundle / "weights" / "decoder.bin"
    inode, content, before = weights.stat().st_ino, sha256_of(weights), bundle_logits(bundle, vision=1.0)
    add_adapter(bundle, lora[0], "mine")
    assert (weights.stat().st_ino, sha256_of(weights)) == (inode, content)
    np.testing.assert_array_equal(bundle_logits(bundle, vision=1.0), before)
    on, off = bundle_logits(bundle, mine=1.0), bundle_logits(bundle)
    assert share(on, lora[1]) < 0.15
    assert share(off, lora[1]) > 0.2
    check_hashes(open_bundle(bundle, hashes=False))


def test_removing_gives_the_bundle_back(int4_bundle: Path, lora: Lora, copied: Copied) -> None:
    bundle = copied(int4_bundle)
    expected = bundle_logits(bundle, vision=0.5, speech=0.25)
    for name in ("one", "two"):
        add_adapter(bundle, lora[0], name)
    only_two = bundle_logits(bundle, two=1.0)
    remove_adapter(bundle, "one")
    np.testing.assert_array_equal(bundle_logits(bundle, two=1.0), only_two)
    remove_adapter(bundle, "two")
    np.testing.assert_array_equal(bundle_logits(bundle, vision=0.5, speech=0.25), expected)
    left = open_bundle(bundle).manifest
    assert [a.name for a in left.adapters] == ["vision", "speech"]
    assert left.parts == open_bundle(int4_bundle).manifest.parts
    assert left.files.keys() == open_bundle(int4_bundle).manifest.files.keys()


def test_a_bundle_without_adapters_loses_its_last_one_again(
    small: tuple[Path, Path], copied: Copied, tmp_path: Path
) -> None:
    bundle = copied(small[1])
    random_lora(small[0], tmp_path / "mine", 3)
    add_adapter(bundle, tmp_path / "mine")
    assert open_bundle(bundle).manifest.adapter_mode == "gated"
    remove_adapter(bundle, "mine")
    assert open_bundle(bundle).manifest.adapter_mode == "none"
    np.testing.assert_array_equal(bundle_logits(bundle), bundle_logits(small[1]))


def test_eight_adapters_live_in_one_bundle_and_blend(float_bundle: Path, lora: Lora, copied: Copied) -> None:
    bundle = copied(float_bundle)
    for number in range(6):
        add_adapter(bundle, lora[0], f"a{number}")
    assert len(open_bundle(bundle).manifest.adapters) == 8
    whole = bundle_logits(bundle, a0=1.0)
    assert share(whole, lora[1]) < 1e-4
    assert share(bundle_logits(bundle, **{f"a{n}": 0.25 for n in range(4)}), whole) < 1e-4
    assert share(bundle_logits(bundle, a4=0.5, a5=0.5), whole) < 1e-4


def test_what_routes_use_or_the_checkpoint_brought_stays(int4_bundle: Path, lora: Lora, copied: Copied) -> None:
    bundle = copied(int4_bundle)
    with pytest.raises(InputError, match="'vision' came with the checkpoint"):
        remove_adapter(bundle, "vision")
    add_adapter(bundle, lora[0], "mine")
    set_route(bundle, "sorting", Route(adapters={"mine": 0.5}, audio_projector="speech"))
    with pytest.raises(InputError, match="'mine' is named by route 'sorting'"):
        remove_adapter(bundle, "mine")
    with pytest.raises(InputError, match="names adapter 'other', this bundle's adapters are: vision, speech, mine"):
        set_route(bundle, "sorting", Route(adapters={"other": 1.0}, audio_projector="speech"))
    set_route(bundle, "sorting", None)
    remove_adapter(bundle, "mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vision", "is there already"),
        ("a b", "expected a name"),
        ("../x", "expected a name"),
        ("none", "expected a name"),
    ],
)
def test_impossible_names_are_refused(name: str, message: str, int4_bundle: Path, lora: Lora, copied: Copied) -> None:
    bundle = copied(int4_bundle)
    with pytest.raises(InputError, match=message):
        add_adapter(bundle, lora[0], name)
    assert not list(bundle.glob(".chang*"))
    open_bundle(bundle)
