"""The float bundle answers as transformers + PEFT in float32 do: same logits, same greedy texts, every modality.

The reference side renders, tiles, extracts and embeds with transformers' own code; only ids and pictures meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import palmtop
from palmtop.export.verify.probe import DecoderProbe
from palmtop.export.verify.samples import SampleReader
from palmtop.runtime.bundle import open_bundle
from palmtop.runtime.options import GenerationOptions
from palmtop.runtime.reference.heldout import TASKS, Item, held_out_items
from tests.reference.score import MAX_ANSWER_TOKENS, ROUTE, Reference

PROMPTS = 100
SEED = 11


@pytest.fixture(scope="module")
def reference(reference_checkpoint: Path) -> Iterator[Reference]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Reference.load(reference_checkpoint)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=TASKS)
def items(request: pytest.FixtureRequest) -> list[Item]:
    return list(held_out_items(request.param, PROMPTS, SEED))


def test_logits_match_the_reference(items: list[Item], reference: Reference, float_bundle: Path) -> None:
    bundle = open_bundle(float_bundle)
    reader = SampleReader(bundle.path, bundle.manifest)
    probe = DecoderProbe(bundle.file("decoder.onnx"), bundle.manifest.decoder)
    worst, spread = 0.0, 0.0
    for item in items:
        adapter = ROUTE[item.task]
        reference.use(adapter)
        feeds = reference.inputs(item)
        with torch.no_grad():
            expected = reference.model(**feeds, use_cache=False, logits_to_keep=1).logits[0].numpy()
        prompt = reader.read(item.task, item.messages)
        assert prompt.input_ids.tolist() == feeds["input_ids"][0].tolist()
        gates = np.zeros(probe.num_gates, np.float32)
        for spec in bundle.manifest.adapters:
            gates[spec.gate] = float(spec.name == adapter)
        found = probe.logits(prompt, gates, np.zeros(1, np.int64))
        worst = max(worst, float(np.abs(found - expected).max()))
        spread = max(spread, float(np.ptp(expected)))
    assert worst <= max(2e-3, 1e-3 * spread), f"{items[0].task}: {worst:g} of {spread:g}"


def test_greedy_texts_are_identical(items: list[Item], reference: Reference, float_bundle: Path) -> None:
    reference.use(ROUTE[items[0].task])
    options = GenerationOptions(max_tokens=MAX_ANSWER_TOKENS)
    with palmtop.load(float_bundle, context=1024, keep_encoders=True) as session:
        for item in items:
            reply = session.answer(item.messages, options=options)
            assert reply.text == reference.answer(reference.inputs(item))
