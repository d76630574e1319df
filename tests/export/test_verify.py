"""``verify`` must notice what nobody else does: an adapter that is off, foreign, or half as strong."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from palmtop.export.bundle.manifest_builder import list_files, write_manifest
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.measure.decoder_prompts import SampleReader, packaged_messages
from palmtop.export.measure.onnx_decoder import OnnxDecoder
from palmtop.export.verify import verify
from palmtop.export.verify.cli import verify_command
from palmtop.export.verify.quality import Quality
from palmtop.runtime.bundle.opening import open_bundle


@pytest.fixture
def copy(int4_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int4_bundle, tmp_path / "bundle"))


def rehash(bundle: Path) -> None:
    """Make the manifest agree with the files, as somebody who means harm, or a careless tool, would."""
    manifest = open_bundle_unchecked(bundle)
    write_manifest(bundle, replace(manifest, files=list_files(bundle)))


def open_bundle_unchecked(bundle: Path):  # type: ignore[no-untyped-def]
    from palmtop.runtime.bundle.manifest import Manifest

    return Manifest.from_dict(json.loads((bundle / "bundle.json").read_text("utf-8")))


def failed(bundle: Path, checkpoint: Path) -> list[str]:
    quality: Quality = verify(open_bundle(bundle), Checkpoint(checkpoint), items=1)
    return [c.name for c in quality.checks if not c.passed]


def zero_adapter(bundle: Path, adapter: str) -> None:
    """Set every scale of the adapter's B to zero, in the weight file and where it is small inside the graph."""
    model = ir.load(bundle / "decoder.onnx")
    with (bundle / "weights" / "decoder.bin").open("r+b") as file:
        for graph in model.graph.subgraphs():
            for name, value in graph.initializers.items():
                tensor = value.const_value
                if f".lora_B.{adapter}.scales" not in name or tensor is None:
                    continue
                if isinstance(tensor, ir.ExternalTensor):
                    file.seek(tensor.offset or 0)
                    file.write(bytes(tensor.length or 0))
                else:
                    value.const_value = ir.tensor(np.zeros_like(tensor.numpy()), name=name)
    ir.save(model, bundle / "decoder.onnx")


def test_a_good_bundle_passes_and_says_what_it_measured(int4_bundle: Path, reference_checkpoint: Path) -> None:
    quality = verify(open_bundle(int4_bundle), Checkpoint(reference_checkpoint), items=1)
    assert [c.name for c in quality.checks if not c.passed] == []
    assert set(quality.modes) == {"text", "image", "audio", "image+audio"}
    assert set(quality.adapters) == {"vision", "speech"}
    assert json.loads(json.dumps(quality.to_dict()))["passed"] is True


def test_zeroed_adapter_bytes_are_noticed(copy: Path, reference_checkpoint: Path) -> None:
    zero_adapter(copy, "vision")
    rehash(copy)
    names = failed(copy, reference_checkpoint)
    assert "adapter vision: stored tensors" in names
    assert "adapter vision: changes the logits as in the checkpoint" in names
    assert not any("speech" in name for name in names)


def test_swapped_adapters_are_noticed(copy: Path, reference_checkpoint: Path) -> None:
    """The names change places: every byte of the weights stays as it was."""
    manifest = open_bundle_unchecked(copy)
    vision, speech = manifest.adapters
    swapped = (replace(vision, name="speech"), replace(speech, name="vision"))
    write_manifest(copy, replace(manifest, adapters=swapped))
    names = failed(copy, reference_checkpoint)
    assert "adapter vision: changes the logits as in the checkpoint" in names
    assert "adapter speech: changes the logits as in the checkpoint" in names


def test_swapped_gates_are_noticed_though_rank_and_alpha_are_right(copy: Path, reference_checkpoint: Path) -> None:
    manifest = open_bundle_unchecked(copy)
    vision, speech = manifest.adapters
    write_manifest(copy, replace(manifest, adapters=(replace(vision, gate=1), replace(speech, gate=0))))
    names = failed(copy, reference_checkpoint)
    assert "adapter vision: changes the logits as in the checkpoint" in names
    assert "adapter speech: changes the logits as in the checkpoint" in names


def test_half_an_alpha_is_noticed(reference_checkpoint: Path, tmp_path: Path) -> None:
    from palmtop.export.convert import export_model

    halved = Path(shutil.copytree(reference_checkpoint, tmp_path / "checkpoint"))
    config = json.loads((halved / "config.json").read_text())
    config["speech_lora"]["lora_alpha"] /= 2
    (halved / "config.json").write_text(json.dumps(config))
    export_model(halved, tmp_path / "bundle")
    names = failed(tmp_path / "bundle", reference_checkpoint)
    assert "adapter speech: rank and alpha" in names
    assert "adapter speech: stored tensors" in names
    assert "adapter speech: as strong as in the checkpoint" in names
    assert not any("vision" in name for name in names)


def test_a_base_that_an_adapter_leaked_into_is_noticed(reference_checkpoint: Path, tmp_path: Path) -> None:
    """A bundle whose base carries an adapter: what other exporters do without saying so."""
    from palmtop.export.convert import export_model
    from palmtop.export.recipe import Recipe

    export_model(reference_checkpoint, tmp_path / "bundle", Recipe(adapters="merge=vision"))
    manifest = open_bundle_unchecked(tmp_path / "bundle")
    claimed = replace(manifest, recipe={**manifest.recipe, "adapters": "none"}, adapter_mode="none")
    write_manifest(tmp_path / "bundle", claimed)
    assert "decoder: stored tensors" in failed(tmp_path / "bundle", reference_checkpoint)


def test_the_command_names_what_failed_and_exits_with_1(copy: Path, reference_checkpoint: Path) -> None:
    manifest = open_bundle_unchecked(copy)
    vision, speech = manifest.adapters
    write_manifest(copy, replace(manifest, adapters=(replace(vision, gate=1), replace(speech, gate=0))))
    found = CliRunner().invoke(verify_command, [str(copy), "--against", str(reference_checkpoint), "--items", "1"])
    assert found.exit_code == 1
    assert "FAIL  adapter vision: changes the logits" in found.output


def test_the_report_has_its_origin_and_the_media_that_were_asked_about(
    copy: Path, reference_checkpoint: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    options = ["--against", str(reference_checkpoint), "--items", "1", "--report", str(page)]
    found = CliRunner().invoke(verify_command, [str(copy), *options])
    assert found.exit_code == 0, found.output
    assert found.output.startswith(f"{copy}: passed: all ") and "\nok " not in found.output
    shown, numbers = page.read_text("utf-8"), json.loads(page.with_suffix(".json").read_text("utf-8"))
    hashes = hashlib.sha256((copy / "bundle.json").read_bytes()).hexdigest()
    assert numbers["made"]["sha256 of bundle.json"] == hashes and hashes in shown
    assert "--items 1 --report" in numbers["made"]["command"] and "media" not in numbers
    assert "messages" not in numbers["worst"][0]
    asked = [question["mode"] for question in numbers["worst"]]
    assert sorted(asked) == ["audio", "image", "image+audio", "text"]
    assert shown.count('src="data:image/png;') == shown.count('src="data:audio/flac;') == 2


def test_without_a_checkpoint_hashes_are_checked(copy: Path) -> None:
    assert CliRunner().invoke(verify_command, [str(copy)]).exit_code == 0
    weights = copy / "weights" / "decoder.bin"
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)
    found = CliRunner().invoke(verify_command, [str(copy)])
    assert "file 'weights/decoder.bin' has sha256" in str(found.exception)


def test_other_routes_are_noticed(copy: Path, reference_checkpoint: Path) -> None:
    manifest = open_bundle_unchecked(copy)
    routes = {**manifest.routes, "image": manifest.routes["audio"]}
    write_manifest(copy, replace(manifest, routes=routes))
    assert failed(copy, reference_checkpoint) == ["manifest: routes"]


def test_a_changed_norm_is_noticed(copy: Path, reference_checkpoint: Path) -> None:
    """Small tensors live inside the graph file, not among the weights."""
    model = ir.load(copy / "decoder.onnx")
    norm = model.graph.initializers["layers.1.input_layernorm.weight"]
    assert norm.const_value is not None
    norm.const_value = ir.tensor(norm.const_value.numpy() * np.float32(1.5), name=norm.name)
    ir.save(model, copy / "decoder.onnx")
    rehash(copy)
    assert "decoder: stored tensors" in failed(copy, reference_checkpoint)


def test_scales_that_are_not_numbers_are_noticed(copy: Path, reference_checkpoint: Path) -> None:
    model = ir.load(copy / "decoder.onnx")
    tensor = model.graph.initializers["layers.0.mlp.down_proj.scales"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    with (copy / "weights" / "decoder.bin").open("r+b") as file:
        file.seek(tensor.offset or 0)
        file.write(np.full(4, np.nan, np.float32).tobytes())
    rehash(copy)
    names = failed(copy, reference_checkpoint)
    assert "decoder: stored tensors" in names
    assert "adapters off: equal to the bundle without adapters" in names


def test_an_untied_head_is_verified_too(tmp_path: Path) -> None:
    from palmtop.export.convert import export_model
    from palmtop.export.recipe import Recipe
    from tests.export.test_decoder import SMALL_TOWERS
    from tests.reference.port import random_checkpoint

    random_checkpoint(tmp_path / "checkpoint", 3, num_hidden_layers=1, tie_word_embeddings=False, **SMALL_TOWERS)
    export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(bits=8, context=1024))
    assert failed(tmp_path / "bundle", tmp_path / "checkpoint") == []


def test_an_answer_is_judged_up_to_its_end(int4_bundle: Path) -> None:
    bundle = open_bundle(int4_bundle)
    probe = OnnxDecoder(bundle.file(bundle.manifest.decoder.file), bundle.manifest.decoder)
    reader = SampleReader(bundle.path, bundle.manifest)
    _, messages, _ = next(packaged_messages(["text"], 1))
    prompt, gates = reader.read("text", messages), np.zeros(len(bundle.manifest.adapters), np.float32)
    passed_over = probe.greedy(prompt, gates, 12).tolist()
    end = next(at for at, token in enumerate(passed_over) if token in reader.eos_ids)
    assert end < 11
    assert probe.greedy(prompt, gates, 12, reader.eos_ids).tolist() == passed_over[: end + 1]
