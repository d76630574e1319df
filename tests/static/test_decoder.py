"""Float graphs of fixed shapes and their loop against the float bundle on genai, and so against transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import palmtop
from palmtop.errors import InputError
from palmtop.runtime.bundle.targets import StaticSpec
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference.heldout import TASKS, held_out_items
from palmtop.runtime.session import Session
from tests.reference.score import Reference
from tests.static.conftest import CHUNK, CONTEXT, static_session, write_graphs
from tests.test_longrope import STEPS, check_turns, with_boundary

OPTIONS = GenerationOptions(max_tokens=12)
SHARE = 1e-4  # of the logits' range; float32 sums in another order give 1e-6 to 1e-5


@pytest.fixture(scope="module")
def both(float_bundle: Path, float_graphs: tuple[Path, StaticSpec]) -> Iterator[tuple[Session, Session]]:
    """On genai, and on the static graphs."""
    with (
        palmtop.load(float_bundle, context=CONTEXT, threads=1, keep_encoders=True) as genai,
        static_session(float_bundle, *float_graphs) as static,
    ):
        yield genai, static


def logits_of(session: Session) -> np.ndarray[Any, np.dtype[np.float32]]:
    assert session._default is not None
    return session._default._track.logits().copy()


def assert_equal_logits(both: tuple[Session, Session]) -> None:
    expected, found = map(logits_of, both)
    assert np.abs(expected - found).max() <= SHARE * np.ptp(expected)


@pytest.mark.parametrize("task", TASKS)
def test_tokens_and_logits_are_the_float_bundles(task: Any, both: tuple[Session, Session]) -> None:
    for item in held_out_items(task, 8, 3):
        expected, found = (session.answer(item.messages, options=OPTIONS) for session in both)
        assert found.token_ids == expected.token_ids
        assert (found.mode, found.adapters) == (expected.mode, expected.adapters)
        assert_equal_logits(both)


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 1])
def test_a_prompt_of_any_length_reads_as_on_genai(length: int, both: tuple[Session, Session]) -> None:
    ids = np.random.default_rng(length).integers(0, 400, length).astype(np.int32)
    found = []
    for session in both:
        decoder = session._open_decoder()
        decoder.append(ids)
        decoder.append(ids[:1])  # and goes on behind the padding
        found.append(decoder.logits().copy())
        decoder.close()
    assert np.abs(found[0] - found[1]).max() <= SHARE * np.ptp(found[0])


def test_later_turns_and_rewinding_read_as_on_genai(both: tuple[Session, Session]) -> None:
    items = {task: next(held_out_items(task, 1, 8)) for task in TASKS}
    replies = []
    for session in both:
        talk = session.conversation()
        said = [talk.chat(items[task].messages[0]["content"], options=OPTIONS).result() for task in TASKS]
        talk.rewind(2)
        said.append(talk.chat("add 3 4 What is it?", options=OPTIONS).result())
        said.append(talk.retry(options=OPTIONS).result())
        replies.append([(r.token_ids, r.adapters, r.usage.cached_tokens, r.usage.reprefilled) for r in said])
        talk.close()
    assert replies[0] == replies[1]
    assert any(reply[2] for reply in replies[0])  # something was found in the cache


def test_a_conversation_there_is_saved_and_forked_as_on_the_cpu(both: tuple[Session, Session], tmp_path: Path) -> None:
    content = next(held_out_items("image+audio", 1, 4)).messages[0]["content"]
    for session, other in (both, both[::-1]):
        conversation = session.conversation()
        first = conversation.chat(content, options=OPTIONS).result()
        conversation.save(tmp_path / "saved")
        branches = [conversation, session.restore(tmp_path / "saved"), conversation.fork()]
        replies = [branch.chat("one two three", options=OPTIONS).result() for branch in branches]
        assert len({(reply.token_ids, reply.usage.cached_tokens) for reply in replies}) == 1
        assert replies[0].usage.prompt_tokens > replies[0].usage.cached_tokens > first.usage.media_rows
        logits = [branch._track.logits() for branch in branches]
        assert all((each == logits[0]).all() for each in logits)
        with pytest.raises(InputError, match="was computed by"):
            other.restore(tmp_path / "saved")


def test_the_context_fills_to_its_last_position(both: tuple[Session, Session]) -> None:
    question = [{"role": "user", "content": "one two three"}]
    options = GenerationOptions(max_tokens=2 * CONTEXT, temperature=4.0, seed=1)
    _, static = both
    replies = []
    for session in both:
        track = session.conversation()._track
        track._original_context = None
        ids = np.random.default_rng(0).integers(0, 400, CONTEXT).astype(np.int32)
        decoder = session._open_decoder()
        decoder.append(ids[:-1])
        decoder.append(ids[-1:])
        replies.append(decoder.logits().copy())
        assert decoder.token_count == CONTEXT
    assert np.abs(replies[0] - replies[1]).max() <= SHARE * np.ptp(replies[0])
    with pytest.raises(InputError, match=f"would have {CONTEXT + 1} tokens, the graphs hold {CONTEXT}"):
        decoder.append(ids[:1])
    assert static.answer(question, options=options).ended_by in ("context_full", "eos")


@pytest.mark.parametrize("where", ["prompt", "decode", "later turn"])
@pytest.mark.parametrize("task", ["image+audio"])
def test_long_factors_answer_as_the_reference(
    task: Any, where: str, reference_checkpoint: Path, float_bundle: Path, tmp_path: Path
) -> None:
    """Across LongRoPE's boundary, against a full forward without cache in transformers."""
    from palmtop.export.convert import export_model
    from palmtop.export.recipe import Recipe
    from tests.reference.score import ROUTE

    item = next(held_out_items(task, 1, 5))
    length = int(Reference.load(reference_checkpoint).inputs(item)["input_ids"].shape[1])
    boundary = {"prompt": length - 3, "decode": length + 1, "later turn": length + STEPS + 2}[where]
    checkpoint = with_boundary(reference_checkpoint, boundary, tmp_path)
    reference = Reference.load(checkpoint)
    reference.use(ROUTE[item.task])
    bundle = export_model(checkpoint, tmp_path / "bundle", Recipe(bits=32, context=CONTEXT))
    spec = write_graphs(checkpoint, tmp_path / "graphs")
    with static_session(bundle, tmp_path / "graphs", spec) as session:
        content = item.messages[0]["content"]
        check_turns(session, reference, content, reference.inputs(item), later=where == "later turn")


def test_a_mix_without_graphs_is_refused(both: tuple[Session, Session]) -> None:
    with pytest.raises(
        InputError, match=r"adapters vision=0\.5 are switched on, .* none, vision, speech; provider 'cpu'"
    ):
        both[1].answer([{"role": "user", "content": "hello"}], adapters={"vision": 0.5})


def test_closed_sessions_say_so(float_bundle: Path, float_graphs: tuple[Path, StaticSpec]) -> None:
    session = static_session(float_bundle, *float_graphs)
    talk = session.conversation()
    talk.chat("hello", max_tokens=1).result()
    session.close()
    with pytest.raises(InputError, match="session of this conversation is closed"):
        talk.chat("hello again", max_tokens=1).result()


def test_graphs_have_fixed_shapes_and_plain_operators(float_graphs: tuple[Path, StaticSpec]) -> None:
    folder, spec = float_graphs
    for route in spec.routes:
        for file in (route.prefill, route.decode):
            graph = onnx.load(folder / file, load_external_data=False).graph
            assert {node.domain for node in graph.node} == {""}
            assert not {node.op_type for node in graph.node} & {"If", "Loop", "Scan", "Shape"}
            for value in (*graph.input, *graph.output):
                assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim), value.name
