"""Dialogues over a KV cache of 8 and 4 bits: turns, rewinding, cancelling and LongRoPE, and the memory it takes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import palmtop
from palmtop.__main__ import cli
from palmtop.errors import BundleError
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.memory.plan import kv_bytes_per_token, largest_context, plan_memory
from palmtop.runtime.reference.heldout import held_out_items
from palmtop.runtime.session import Session, SessionOptions
from tests.runtime.test_conversation import Witness, assert_as_fresh, finish, with_image
from tests.runtime.toy import CONTEXT, HEAD_SIZE, KV_HEADS, LAYERS, FakeEncoders, write_toy_bundle

SHORT = GenerationOptions(max_tokens=5)


@pytest.fixture(scope="module", params=[8, 4])
def toy(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / f"toy{request.param}", kv_bits=request.param)


@pytest.fixture
def session(toy: Path) -> Iterator[Session]:
    options = SessionOptions(threads=1, prefill_chunk=16)
    with Session(open_bundle(toy), options, encoders=FakeEncoders()) as opened:
        yield opened


def test_turns_with_media_a_retry_and_a_cancelled_one_equal_a_fresh_cache(session: Session) -> None:
    conversation = session.conversation()
    witness = Witness(conversation)
    finish(conversation.chat("one", options=SHORT))
    image = finish(conversation.chat(with_image("what"), options=SHORT))
    pieces = conversation.chat("and", options=GenerationOptions(max_tokens=20, temperature=1.0, seed=0))
    next(pieces)
    conversation.cancel()
    assert finish(pieces).ended_by == "cancelled"
    after = finish(conversation.chat("more", options=SHORT))
    assert after.usage.cached_tokens > image.usage.prompt_tokens
    finish(conversation.retry(options=SHORT))
    assert len(witness.seen) == 5
    assert_as_fresh(session, conversation, witness)


def test_crossing_the_longrope_boundary_reads_all_again(session: Session) -> None:
    conversation = session.conversation()
    witness = Witness(conversation)
    long = finish(conversation.chat("a b c d e f g h " * 6, options=GenerationOptions(max_tokens=60)))
    assert long.usage.reprefilled == "rope"
    finish(conversation.chat("more", options=SHORT))
    assert_as_fresh(session, conversation, witness)


def test_a_prompt_read_at_once_and_in_chunks_gives_the_same_logits(toy: Path) -> None:
    found = []
    for chunk in (7, 64):
        with Session(
            open_bundle(toy), SessionOptions(threads=1, prefill_chunk=chunk), encoders=FakeEncoders()
        ) as opened:
            conversation = opened.conversation()
            witness = Witness(conversation)
            finish(conversation.chat("a prompt of several chunks, to be read", options=SHORT))
            found.append(witness.seen[0][2])
    assert np.abs(found[0] - found[1]).max() < 1e-4


@pytest.mark.parametrize("engine", ["genai", "onnxruntime"])
def test_the_plan_counts_the_bytes_that_are_allocated(toy: Path, engine: str) -> None:
    options = SessionOptions(threads=1, prefill_chunk=16, engine=engine)
    with Session(open_bundle(toy), options, encoders=FakeEncoders()) as session:
        conversation = session.conversation()
        finish(conversation.chat("hi", options=SHORT))
        decoder: Any = conversation._track._ready()
        names = [f"present.{n}.{kind}" for n in range(LAYERS) for kind in ("key", "value")]
        held = (
            [decoder._generator.get_output(name) for name in names] if engine == "genai" else decoder._states.values()
        )
        bits = session.manifest.decoder.kv_bits
        assert len(held) == len(names)
        assert {array.shape for array in held} == {(1, KV_HEADS, CONTEXT, HEAD_SIZE * (1 if bits == 8 else 0.5))}
        assert sum(array.nbytes for array in held) == session.plan.kv_cache


def test_the_largest_context_grows_as_the_cache_shrinks(toy: Path) -> None:
    manifest = open_bundle(toy).manifest
    states = tuple(dataclasses.replace(state, layers=tuple(range(2048))) for state in manifest.decoder.states)
    decoder = dataclasses.replace(manifest.decoder, num_layers=2048, context_length=1 << 20, states=states)
    narrow = dataclasses.replace(manifest, decoder=decoder, vision=None, audio=None)
    floats = tuple(dataclasses.replace(state, dtype="float32") for state in states)
    wide = dataclasses.replace(narrow, decoder=dataclasses.replace(decoder, states=floats))
    assert kv_bytes_per_token(wide) * manifest.decoder.kv_bits == kv_bytes_per_token(narrow) * 32
    room = plan_memory(wide, context=4096).text
    for each, least, most in ((wide, 4096, 4096), (narrow, 3.95 * 4096, 8 * 4096)):
        assert least <= largest_context(each, plan_memory(each, context=4096), room) <= most
    with Session(open_bundle(toy), SessionOptions(threads=1), encoders=FakeEncoders()) as opened:
        assert opened.plan.kv_cache == 256 * kv_bytes_per_token(manifest)


@pytest.mark.parametrize("value", [8, "int2", "float16", "INT8", True, None])
def test_impossible_widths_are_refused(toy: Path, value: Any) -> None:
    data = json.loads((toy / "bundle.json").read_text())
    data["decoder"]["states"][1]["dtype"] = value
    with pytest.raises(BundleError, match=r"decoder\.states\[1\]\.dtype is"):
        Manifest.from_dict(data)


def test_odd_heads_have_no_place_in_four_bits(toy: Path) -> None:
    data = json.loads((toy / "bundle.json").read_text())
    data["decoder"]["states"][0].update(dtype="int4", shape=["batch", 1, "tokens", 17])
    with pytest.raises(BundleError, match=r"decoder\.states\[0\]\.shape is .*, expected an even last size"):
        Manifest.from_dict(data)


def test_a_manifest_that_lies_about_the_cache_is_refused(toy: Path, tmp_path: Path) -> None:
    """genai would allocate by the config, or the plan count the wrong bytes."""
    import shutil

    copy = Path(shutil.copytree(toy, tmp_path / "toy"))
    data = json.loads((copy / "bundle.json").read_text())
    for state in data["decoder"]["states"]:
        state["dtype"] = {"int8": "int4", "int4": "int8"}[state["dtype"]]
    (copy / "bundle.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="head_size is not what the manifest gives"):
        Session(open_bundle(copy), SessionOptions(threads=1), encoders=FakeEncoders())


def test_inspect_shows_the_cache(toy: Path) -> None:
    bits = open_bundle(toy).manifest.decoder.kv_bits
    shown = json.loads(CliRunner().invoke(cli, ["inspect", str(toy), "--json"]).stdout)
    size = 2 * LAYERS * KV_HEADS * HEAD_SIZE * bits // 8
    assert shown["kv_cache"] == {"bits": bits, "bytes_per_token": size}
    assert shown["memory"]["kv_cache"] == CONTEXT * size
    assert f"KV cache: {bits} bits, {size} bytes a token" in CliRunner().invoke(cli, ["inspect", str(toy)]).stdout


@pytest.mark.parametrize(("bits", "most_wrong"), [(8, 0), (4, 2)])
def test_right_answers_stay_right(
    reference_checkpoint: Path, tmp_path: Path, bits: int, most_wrong: int, float_bundle: Path
) -> None:
    """Of the packaged model, to questions that it answers rightly with a float cache."""
    from palmtop.export.convert import export_model
    from palmtop.export.recipe import Recipe

    bundle = export_model(reference_checkpoint, tmp_path / "bundle", Recipe(kv=bits, bits=32, context=1024))
    items = [item for task in ("text", "image") for item in held_out_items(task, 4, 0)]  # type: ignore[arg-type]
    right = []
    for each in (float_bundle, bundle):
        with palmtop.load(each, threads=1, context=1024) as opened:
            texts = [opened.answer(item.messages, options=GenerationOptions(max_tokens=24)).text for item in items]
        right.append([text.strip() == item.expected.strip() for text, item in zip(texts, items, strict=True)])
    exact, found = right
    assert sum(exact) >= 6
    assert sum(was and not still for was, still in zip(exact, found, strict=True)) <= most_wrong
