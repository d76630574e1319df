"""Crossing LongRoPE's boundary in the prompt, while decoding and in a later turn, with text, images and sounds.

The reference is a full forward without cache and with the media at every step: transformers' own ``generate``
mixes keys of short and long factors there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import palmtop
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference.heldout import TASKS, held_out_items
from palmtop.runtime.session import Session
from tests.reference.score import ROUTE, Reference

STEPS = 8
OPTIONS = GenerationOptions(max_tokens=STEPS)
FOLLOW_UP = "add 3 4 What is it?"


def with_boundary(checkpoint: Path, boundary: int, folder: Path) -> Path:
    """A copy of the checkpoint whose factors change after ``boundary`` tokens."""
    copy = Path(shutil.copytree(checkpoint, folder / f"checkpoint-{boundary}"))
    config = json.loads((copy / "config.json").read_text())
    config["original_max_position_embeddings"] = boundary
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def greedy_without_cache(reference: Reference, feeds: dict[str, Any], ids: list[int]) -> list[int]:
    """What a full forward at every step would say."""
    said: list[int] = []
    while len(said) < STEPS:
        inputs = feeds | {"input_ids": torch.tensor([ids + said])}
        with torch.no_grad():
            token = int(reference.model(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1].argmax())
        if token in reference.config["eos_token_id"]:
            break
        said.append(token)
    return said


def without_end(reply: Reply, reference: Reference) -> list[int]:
    return [t for t in reply.token_ids if t not in reference.config["eos_token_id"]]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("where", ["prompt", "decode", "later turn"])
def test_answers_across_the_boundary_are_the_references(
    task: Any, where: str, reference_checkpoint: Path, tmp_path: Path
) -> None:
    item = next(held_out_items(task, 1, 5))
    length = int(Reference.load(reference_checkpoint).inputs(item)["input_ids"].shape[1])
    boundary = {"prompt": length - 3, "decode": length + 1, "later turn": length + STEPS + 2}[where]
    checkpoint = with_boundary(reference_checkpoint, boundary, tmp_path)
    reference = Reference.load(checkpoint)
    reference.use(ROUTE[item.task])
    feeds = reference.inputs(item)
    bundle = export_model(checkpoint, tmp_path / "bundle", Recipe(bits=32, context=512))
    with palmtop.load(bundle, threads=1) as session:
        check_turns(session, reference, item.messages[0]["content"], feeds, later=where == "later turn")


def check_turns(
    session: Session, reference: Reference, content: list[Any], feeds: dict[str, Any], *, later: bool
) -> None:
    conversation = session.conversation()
    *_, last = conversation.chat(content, options=OPTIONS)
    assert last.reply is not None
    ids = feeds["input_ids"][0].tolist()
    assert without_end(last.reply, reference) == greedy_without_cache(reference, feeds, ids)
    if not later:
        return
    *_, last = conversation.chat(FOLLOW_UP, options=OPTIONS)
    assert last.reply is not None
    assert last.reply.usage.reprefilled == "rope"
    ids = conversation._reader.read(
        conversation.messages[:-1], None, OPTIONS
    ).passage.ids.tolist()  # as the decoder got them
    assert without_end(last.reply, reference) == greedy_without_cache(reference, feeds, ids)
