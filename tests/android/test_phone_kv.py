"""Bundles with a KV cache of 8 and of 4 bits on the phone's own libraries, which are older than the desktop's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import palmtop
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference.heldout import held_out_items
from tests.android.jvm import Core

pytestmark = pytest.mark.android
CONTEXT, ITEMS, MAX_TOKENS = 1024, 5, 24


@pytest.mark.parametrize("bits", [8, 4])
def test_the_phone_answers_from_a_quantised_cache_as_python_does(
    reference_checkpoint: Path, tmp_path: Path, phone: Core, bits: int
) -> None:
    """Accuracy level 0: weights are computed with alike everywhere, what is left is the cache."""
    recipe = Recipe(kv=bits, accuracy_level=0, context=CONTEXT)
    bundle = export_model(reference_checkpoint, tmp_path / "bundle", recipe)
    phone.ask("load", folder=str(bundle), context=CONTEXT)
    with palmtop.load(bundle, threads=1, context=CONTEXT, keep_encoders=True) as session:
        tasks: tuple[Any, ...] = ("text", "image", "audio")
        for task in tasks:
            for item in held_out_items(task, ITEMS, 0):
                ours = phone.respond(item.messages, max_tokens=MAX_TOKENS)
                theirs = session.answer(item.messages, options=GenerationOptions(max_tokens=MAX_TOKENS))
                assert (task, ours["text"]) == (task, theirs.text)
