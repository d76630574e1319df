"""Options that several rooms know of, in one bundle: each was tested alone."""

from __future__ import annotations

import json
from pathlib import Path

import palmtop
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference.heldout import held_out_items


def test_a_cache_of_8_bits_guesses_and_a_target_in_one_bundle(reference_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(context=512, kv=8, draft_rows=8, target="openvino", target_context=256, chunk=32)
    bundle = export_model(reference_checkpoint, tmp_path / "bundle", recipe, verify=True)
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert {state["dtype"] for state in manifest["decoder"]["states"]} == {"int8"}
    assert [target["provider"] for target in manifest["targets"]] == ["openvino"]
    assert json.loads((bundle / "quality.json").read_text())["kv_cache"]["bits"] == 8
    with palmtop.load(bundle, threads=1) as session:
        for task in ("text", "image", "audio", "image+audio"):
            items = list(held_out_items(task, 4, seed=5))
            options = GenerationOptions(max_tokens=16, speculate=True)
            answers = [session.answer(item.messages, options=options).text.strip() for item in items]
            assert sum(answer == item.expected for answer, item in zip(answers, items, strict=True)) >= 3
