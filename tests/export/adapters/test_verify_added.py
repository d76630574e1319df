"""``verify`` compares adapters that were added with their float originals, and says when it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from palmtop.export.adapters.install import add_adapter, set_route
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.verify import verify
from palmtop.export.verify.quality import Quality
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.opening import open_bundle
from tests.export.adapters.test_add import Copied
from tests.export.test_verify import rehash
from tests.reference.plain import random_lora

Lora = tuple[Path, NDArray[np.float32]]


@pytest.fixture
def bundle(int4_bundle: Path, lora: Lora, copied: Copied) -> Path:
    bundle = copied(int4_bundle)
    add_adapter(bundle, lora[0], "mine")
    return bundle


def failed(quality: Quality) -> list[str]:
    return [check.name for check in quality.checks if not check.passed]


def test_an_added_adapter_passes_every_proof(bundle: Path, lora: Lora, reference_checkpoint: Path) -> None:
    set_route(bundle, "sorting", Route(adapters={"mine": 1.0}, audio_projector="speech"))
    quality = verify(open_bundle(bundle), Checkpoint(reference_checkpoint), items=1, loras={"mine": lora[0]})
    assert failed(quality) == []
    names = {check.name for check in quality.checks if "mine" in check.name}
    assert names == {
        "adapter mine: rank and alpha",
        "adapter mine: gate",
        "adapter mine: stored tensors",
        "adapter mine: changes the logits as in the checkpoint",
        "adapter mine: as strong as in the checkpoint",
        "adapter mine: logits of the float base with the float LoRA",
        "adapter mine: 0.5 + 0.5 is 1, float32",
        "adapter mine: 0.5 + 0.5 is 1, bundle",
    }
    assert quality.skipped == ()


def test_without_its_folder_it_is_said_what_was_not_compared(bundle: Path, reference_checkpoint: Path) -> None:
    quality = verify(open_bundle(bundle), Checkpoint(reference_checkpoint), items=1)
    assert failed(quality) == []
    assert quality.skipped == (
        "adapter mine: was added; to compare it with its original name the folder: --lora mine=PEFT_FOLDER",
    )
    assert "adapter mine: changes the logits" in {check.name for check in quality.checks}


def test_another_lora_under_its_name_is_noticed(bundle: Path, reference_checkpoint: Path, tmp_path: Path) -> None:
    random_lora(reference_checkpoint, tmp_path / "other", 9)
    names = failed(
        verify(open_bundle(bundle), Checkpoint(reference_checkpoint), items=1, loras={"mine": tmp_path / "other"})
    )
    assert "adapter mine: stored tensors" in names
    assert "adapter mine: changes the logits as in the checkpoint" in names
    assert not any("vision" in name or "speech" in name for name in names)


def test_a_branch_that_ignores_its_weight_is_no_blend(bundle: Path, reference_checkpoint: Path) -> None:
    """The gate opens the branch, but nothing is multiplied by it: half and half would be two."""
    path = bundle / "decoder.onnx"
    model = ir.load(path)
    for node in model.graph:
        if (node.name or "").endswith("/mine") and node.op_type == "If":
            for inner in list(node.attributes["then_branch"].as_graph()):
                if inner.op_type == "Mul":
                    x = inner.inputs[1]
                    for user, place in list(inner.outputs[0].uses()):
                        user.replace_input_with(place, x)
                    node.attributes["then_branch"].as_graph().remove(inner, safe=True)
    ir.save(model, path)
    rehash(bundle)
    names = failed(verify(open_bundle(bundle), Checkpoint(reference_checkpoint), items=1))
    assert [name for name in names if "0.5" in name] == ["adapter mine: 0.5 + 0.5 is 1, bundle"]
