"""``verify --reference transformers``: all modes of both layouts agree, and faults of the exporter itself are found."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from palmtop.errors import InputError, RuntimeMissingError
from palmtop.export.arch import phi4mm
from palmtop.export.bundle.manifest_builder import list_files, write_manifest
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lora import Adapter, LoraPair
from palmtop.export.convert import export_model
from palmtop.export.graph.decoder import Decoder
from palmtop.export.recipe import Recipe
from palmtop.export.verify import verify
from palmtop.export.verify.cli import verify_command
from palmtop.export.verify.judging import transformers_reference as loading
from palmtop.export.verify.quality import Quality
from palmtop.runtime.bundle.manifest import Manifest, Route
from palmtop.runtime.bundle.opening import open_bundle
from tests.export.test_decoder import SMALL_TOWERS
from tests.export.test_mutations import adapter_scale, edit_graph, nodes, set_attribute, set_constant
from tests.export.test_port_layout import write_port_layout
from tests.reference.port import random_checkpoint

MODES = ("text", "image", "audio", "image+audio")
NAMES = {f"{mode}: float graphs against transformers" for mode in MODES}


def judged(bundle: Path, checkpoint: Path) -> Quality:
    return verify(open_bundle(bundle), Checkpoint(checkpoint), items=1, independent=True)


def failing(quality: Quality) -> set[str]:
    return {check.name for check in quality.checks if not check.passed and not check.is_loss}


def agrees(quality: Quality) -> None:
    own = {check.name: check for check in quality.checks if check.name in NAMES}
    assert own.keys() == NAMES
    assert all(check.passed and 0 < check.value < 1e-5 for check in own.values()), own
    assert failing(quality) == set()


def test_every_mode_of_the_packaged_model_agrees(int4_bundle: Path, reference_checkpoint: Path) -> None:
    quality = judged(int4_bundle, reference_checkpoint)
    agrees(quality)
    details = {c.name: c.detail for c in quality.checks}
    assert "tiles by the bundle's processor" in details["image: float graphs against transformers"]
    assert "sounds by transformers' feature extractor" in details["audio: float graphs against transformers"]


def test_the_layout_of_transformers_agrees(reference_checkpoint: Path, tmp_path: Path) -> None:
    write_port_layout(reference_checkpoint, tmp_path / "port")
    agrees(judged(export_model(tmp_path / "port", tmp_path / "bundle"), tmp_path / "port"))


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 72, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "crop_size": 42},
        {"hidden_size": 96, "num_attention_heads": 3, "head_dim": 32, "tie_word_embeddings": False, "vision_rank": 3},
    ],
)
def test_odd_shapes_agree(sizes: dict[str, Any], tmp_path: Path) -> None:
    random_checkpoint(tmp_path / "c", 3, num_hidden_layers=2, **{**SMALL_TOWERS, **sizes})
    agrees(judged(export_model(tmp_path / "c", tmp_path / "b", Recipe(context=1024)), tmp_path / "c"))


def test_merged_adapters_agree(reference_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(bits=32, context=1024, adapters="merge=vision=0.5,speech=0.25")
    quality = judged(export_model(reference_checkpoint, tmp_path / "b", recipe), reference_checkpoint)
    agrees(quality)


def test_a_sound_of_another_rate_takes_the_bundles_features(
    int4_bundle: Path, reference_checkpoint: Path, tmp_path: Path
) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(9000) / 9).astype(np.float32) * 0.3, 11025)
    content = [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "What is it?"}]
    (tmp_path / "s.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": content}]}))
    bundle = open_bundle(int4_bundle)
    found = verify(bundle, Checkpoint(reference_checkpoint), samples=tmp_path / "s.jsonl", independent=True)
    (check,) = (c for c in found.checks if c.name in NAMES)
    assert check.passed and "sounds by the bundle's log-mel features" in check.detail


def weaker(read: Callable[..., Adapter]) -> Callable[..., Adapter]:
    """An exporter that forgets half of alpha / rank."""

    def adapter(*arguments: Any) -> Adapter:
        own = read(*arguments)

        def pair(target: str) -> LoraPair | None:
            found = own.pair(target)
            return None if found is None else replace(found, b=found.b.scaled(0.5))

        return replace(own, pair=pair)

    return adapter


def other_theta(read: Callable[..., Decoder]) -> Callable[..., Decoder]:
    """An exporter that misreads the base of the rotary wavelengths."""

    def decoder(*arguments: Any, **options: Any) -> Decoder:
        own = read(*arguments, **options)
        return replace(own, rope=replace(own.rope, theta=own.rope.theta * 1.5))

    return decoder


def with_other_projector(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that sends speech through the projector of speech beside pictures."""
    route = replace(phi4mm.ROUTES["audio"], audio_projector="vision")
    monkeypatch.setitem(phi4mm.ROUTES, "audio", route)


def with_other_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(phi4mm.ROUTES, "image+audio", Route(adapters={"speech": 1.0}, audio_projector="vision"))


def with_weaker_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phi4mm, "_adapter", weaker(phi4mm._adapter))


def with_other_rope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phi4mm, "read_decoder", other_theta(phi4mm.read_decoder))


@pytest.mark.parametrize(
    ("fault", "modes"),
    [
        (with_other_projector, {"audio"}),
        (with_other_route, {"image+audio"}),
        (with_weaker_adapters, {"image", "audio", "image+audio"}),
        (with_other_rope, set(MODES)),
    ],
)
def test_a_fault_that_bundle_and_float_reference_share_is_found(
    fault: Callable[[pytest.MonkeyPatch], None],
    modes: set[str],
    reference_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exporter's own proofs pass: its float graphs have the same fault."""
    fault(monkeypatch)
    bundle = export_model(reference_checkpoint, tmp_path / "b", Recipe(context=1024))
    assert failing(judged(bundle, reference_checkpoint)) == {f"{m}: float graphs against transformers" for m in modes}


def of_another_version(bundle: Path) -> None:
    """Its graphs are not compared node by node."""
    manifest = Manifest.from_dict(json.loads((bundle / "bundle.json").read_text("utf-8")))
    write_manifest(bundle, replace(manifest, palmtop="0.0.1", files=list_files(bundle)))


def every_rope_table(bundle: Path) -> None:
    """Angles as another theta would give them, of short sequences and of long ones."""

    def edit(model: ir.Model) -> None:
        for node in [n for n in nodes(model, "Mul") if {u.op_type for u, _ in n.outputs[0].uses()} & {"Cos", "Sin"}]:
            inverse = node.inputs[1]
            assert inverse is not None and inverse.const_value is not None
            set_constant(node, 1, inverse.const_value.numpy() ** np.float32(1.1))

    edit_graph(bundle, edit)


@pytest.mark.parametrize(
    "mutate",
    [
        every_rope_table,
        adapter_scale,
        set_attribute("SimplifiedLayerNormalization", "epsilon", lambda x: x * 1000),
        set_attribute("GroupQueryAttention", "scale", lambda x: x * 1.1),
    ],
    ids=["rope", "adapter scale", "norm epsilon", "attention scale"],
)
def test_a_changed_graph_of_another_version_is_found_by_its_own_weights(
    mutate: Callable[[Path], None], int4_bundle: Path, reference_checkpoint: Path, tmp_path: Path
) -> None:
    """Neither the graphs' comparison, which needs the same version, nor a limit on losses is asked."""
    copy = Path(shutil.copytree(int4_bundle, tmp_path / "b"))
    mutate(copy)
    of_another_version(copy)
    quality = verify(open_bundle(copy), Checkpoint(reference_checkpoint), items=1)
    assert quality.verdict == "failed"
    assert any(name.endswith("logits that the rounded weights give") for name in failing(quality))


def test_a_right_bundle_of_another_version_holds(int4_bundle: Path, reference_checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(int4_bundle, tmp_path / "b"))
    of_another_version(copy)
    quality = verify(open_bundle(copy), Checkpoint(reference_checkpoint), items=1)
    assert failing(quality) == set()
    assert any("graphs, node by node" in reason for reason in quality.skipped)


@pytest.mark.parametrize("name", ["torch", "transformers", "peft"])
def test_a_missing_package_is_one_sentence(
    name: str, int4_bundle: Path, reference_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeMissingError, match=f"{name} is not installed.*pip install"):
        judged(int4_bundle, reference_checkpoint)


def test_a_checkpoint_that_does_not_fit_is_refused_first(
    int4_bundle: Path, reference_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "available_memory", lambda: 10_000_000)
    with pytest.raises(InputError, match=r"takes 0\.0 GB in float32, there are 0\.0 GB left"):
        judged(int4_bundle, reference_checkpoint)


def test_an_architecture_that_transformers_has_not_is_one_sentence(reference_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="checkpoint is 'sambay', expected one of phi3, llama, phi4mm"):
        loading.transformers_reference(reference_checkpoint, "sambay", 1)


def test_the_command_says_all_four_modes(int4_bundle: Path, reference_checkpoint: Path) -> None:
    options = ["--against", str(reference_checkpoint), "--items", "1", "--reference", "transformers", "-v"]
    found = CliRunner().invoke(verify_command, [str(int4_bundle), *options])
    assert found.exit_code == 0
    assert all(f"ok    {name}" in found.output for name in NAMES)
    assert "passed: all" in found.output
