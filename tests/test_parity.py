"""The float bundle answers as transformers + PEFT in float32 do: same logits, same greedy texts, every modality.

The reference side renders, tiles, extracts and embeds with transformers' own code; only ids and pictures meet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import palmtop
from palmtop.export.convert import export_model
from palmtop.export.measure.decoder_prompts import SampleReader
from palmtop.export.measure.onnx_decoder import OnnxDecoder
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference.heldout import TASKS, Item, held_out_items
from tests.reference.port import random_checkpoint
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


def largest_difference(items: list[Item], reference: Reference, folder: Path) -> tuple[float, float]:
    """Of the last logits over all items, and the largest range of logits."""
    bundle = open_bundle(folder)
    reader = SampleReader(bundle.path, bundle.manifest)
    probe = OnnxDecoder(bundle.file("decoder.onnx"), bundle.manifest.decoder)
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
    return worst, spread


def test_logits_match_the_reference(items: list[Item], reference: Reference, float_bundle: Path) -> None:
    worst, spread = largest_difference(items, reference, float_bundle)
    assert worst <= max(2e-3, 1e-3 * spread), f"{items[0].task}: {worst:g} of {spread:g}"


def test_greedy_texts_are_identical(items: list[Item], reference: Reference, float_bundle: Path) -> None:
    reference.use(ROUTE[items[0].task])
    options = GenerationOptions(max_tokens=MAX_ANSWER_TOKENS)
    with palmtop.load(float_bundle, context=1024, keep_encoders=True) as session:
        for item in items:
            reply = session.answer(item.messages, options=options)
            assert reply.text == reference.answer(reference.inputs(item))


@settings(deadline=None, max_examples=5, derandomize=True)
@given(
    tile=st.sampled_from([(56, 14), (42, 14), (48, 8), (30, 10)]),
    vision=st.sampled_from([(1, 2), (3, 2), (2, 4)]),
    audio=st.sampled_from([(1, 2, 3), (2, 4, 5)]),
    hidden_size=st.sampled_from([48, 72]),
    dynamic_hd=st.sampled_from([1, 4, 36]),
    seed=st.integers(0, 5),
)
def test_odd_towers_match_the_reference(
    tile: tuple[int, int],
    vision: tuple[int, int],
    audio: tuple[int, int, int],
    hidden_size: int,
    dynamic_hd: int,
    seed: int,
) -> None:
    """From a checkpoint on disk to logits: other crops, patches, layers, heads, kernels and numbers of tiles."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_checkpoint(
            folder / "checkpoint",
            seed,
            hidden_size=hidden_size,
            num_hidden_layers=1,
            num_attention_heads=1,
            crop_size=tile[0],
            patch_size=tile[1],
            vision_hidden_size=24,
            vision_intermediate_size=40,
            vision_layers=vision[0],
            vision_heads=vision[1],
            dynamic_hd=dynamic_hd,
            audio_hidden_size=24,
            audio_intermediate_size=20,
            audio_blocks=audio[0],
            audio_heads=audio[1],
            kernel_size=audio[2],
            nemo_conv_channels=6,
            bias_max_distance=7,
        )
        bundle = export_model(folder / "checkpoint", folder / "bundle", Recipe(bits=32, context=1024))
        reference = Reference.load(folder / "checkpoint")
        for task in ("image", "audio", "image+audio"):
            worst, spread = largest_difference(list(held_out_items(task, 2, seed)), reference, bundle)
            assert worst <= 1e-3 * spread, task
