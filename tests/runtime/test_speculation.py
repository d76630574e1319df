"""Guessing ahead changes no token: random weights and the trained model, every option that meets the token loop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import palmtop
from palmtop.__main__ import cli
from palmtop.errors import BundleError
from palmtop.runtime.bundle.manifest import DRAFT_LOGITS
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.grammar import Grammar
from palmtop.runtime.reference.heldout import held_out_items
from palmtop.runtime.session import Session, SessionOptions
from tests.runtime.test_conversation import finish, sound, user, with_audio, with_image
from tests.runtime.test_structured import SCHEMA
from tests.runtime.toy import CONTEXT, ORIGINAL_CONTEXT, FakeEncoders, write_toy_bundle

BOTH = [{"type": "audio", "audio": sound(1)}, *with_image("and?", 1)]
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "short": {"max_tokens": 3},
    "one token": {"max_tokens": 1},
    "sampled": {"temperature": 0.2, "seed": 4},
    "hot": {"temperature": 3.0, "seed": 5, "top_k": 40, "top_p": 0.9},
    "penalty": {"repetition_penalty": 1.3},
    "stop": {"stop": ("a", "e", "\u0102")},
    "regex": {"grammar": Grammar.regex("(ab|ac|b){30,40}")},
    "schema": {"grammar": Grammar.json_schema({"type": "array", "items": SCHEMA, "minItems": 4})},
}


@pytest.fixture(scope="module")
def speculating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    bundle = write_toy_bundle(tmp_path_factory.mktemp("speculating") / "toy", draft_rows=8)
    options = SessionOptions(threads=1, prefill_chunk=16)
    with Session(open_bundle(bundle), options, encoders=FakeEncoders()) as session:
        yield session


def options(speculate: bool | None, **others: Any) -> GenerationOptions:
    return GenerationOptions(**{"max_tokens": 60, "speculate": speculate, **others})


def same(one: Reply, other: Reply) -> None:
    assert other.token_ids == one.token_ids
    assert (other.text, other.ended_by) == (one.text, one.ended_by)
    assert other.usage.reprefilled == one.usage.reprefilled


@pytest.mark.parametrize("name", OPTIONS)
def test_the_answer_is_the_same_with_and_without(speculating: Session, name: str) -> None:
    """In every mode, with every guess tried and with as many as seem to pay; the next turn too."""
    drafted = 0
    for content in ("tell me", "one two one two one two", with_image("see", 2), with_audio("hear", 2), BOTH):
        replies = []
        for speculate in (False, True, None):
            conversation = speculating.conversation()
            first = finish(conversation.chat(content, options=options(speculate, **OPTIONS[name])))
            second = finish(conversation.chat("more", options=options(speculate, **OPTIONS[name])))
            replies.append((first, second))
            conversation.close()
        plain, every, paced = replies
        for turn in range(2):
            same(plain[turn], every[turn])
            same(plain[turn], paced[turn])
            assert plain[turn].usage.drafted_tokens == 0
            assert 0 <= every[turn].usage.accepted_tokens <= every[turn].usage.drafted_tokens
        drafted += every[0].usage.accepted_tokens
    assert drafted > 0 or name in ("short", "one token", "hot", "penalty")


def test_a_bundle_without_the_rows_answers_the_same(speculating: Session, toy_session: Session) -> None:
    plain = finish(toy_session.chat(user("one two one two"), options=options(None)))
    every = finish(speculating.chat(user("one two one two"), options=options(True)))
    assert every.usage.accepted_tokens > 10
    assert every.usage.draft_s > 0
    same(plain, every)
    assert (plain.usage.drafted_tokens, plain.usage.draft_s) == (0, 0)


def test_retry_rewind_and_edit_find_a_clean_cache(speculating: Session) -> None:
    """Guesses that were read and not wanted leave nothing behind."""
    dialogues = []
    for speculate in (False, True):
        conversation = speculating.conversation()
        said = [finish(conversation.chat("ab ab ab", options=options(speculate, max_tokens=20)))]
        said.append(finish(conversation.retry(options=options(speculate, max_tokens=33, temperature=1.0, seed=1))))
        said.append(finish(conversation.chat(with_image("ab"), options=options(speculate, max_tokens=9))))
        conversation.rewind()
        said.append(finish(conversation.chat("cd cd", options=options(speculate, max_tokens=25))))
        conversation.messages[0] = {"role": "user", "content": "ab ab cd"}
        said.append(finish(conversation.chat("ef", options=options(speculate, max_tokens=25))))
        dialogues.append(said)
    for plain, every in zip(*dialogues, strict=True):
        same(plain, every)


def test_an_answer_stopped_at_any_token_leaves_a_conversation_that_goes_on(speculating: Session) -> None:
    whole = finish(speculating.conversation().chat("one two one two", options=options(False)))
    for place in range(0, 30, 3):
        conversation = speculating.conversation()
        answer = conversation.chat("one two one two", options=options(True))
        for number, piece in enumerate(answer):
            if number == place:
                answer.cancel()
            last = piece
        assert last.reply is not None and last.reply.ended_by == "cancelled"
        assert last.reply.token_ids == whole.token_ids[: len(last.reply.token_ids)]
        assert len(last.reply.token_ids) < len(whole.token_ids)
        same(whole, finish(conversation.retry(options=options(True))))
        conversation.close()


@pytest.mark.parametrize("context", [64, 80, ORIGINAL_CONTEXT + 1, CONTEXT])
def test_the_end_of_the_context_and_the_rope_boundary_are_met_alike(speculating: Session, context: int) -> None:
    """Guesses end before both; crossing the boundary reads everything again, with and without."""
    opened = SessionOptions(threads=1, prefill_chunk=16, context=context)
    with Session(speculating.bundle, opened, encoders=FakeEncoders()) as session:
        plain, every = (
            finish(session.conversation().chat("one two " * 4, options=options(speculate, max_tokens=300)))
            for speculate in (False, True)
        )
    same(plain, every)
    assert every.usage.accepted_tokens > 0
    assert plain.ended_by == "context_full"
    assert (plain.usage.reprefilled == "rope") == (context > ORIGINAL_CONTEXT)


@pytest.mark.parametrize("chunk", [1, 3])
def test_no_step_is_longer_than_a_chunk(speculating: Session, chunk: int) -> None:
    """Other threads wait for a step; who asks for short ones gets them."""
    opened = SessionOptions(threads=1, prefill_chunk=chunk)
    with Session(speculating.bundle, opened, encoders=FakeEncoders()) as session:
        conversation = session.conversation()
        decoder = conversation._track._ready()
        widths: list[int] = []
        append = decoder.append
        decoder.append = lambda ids: (widths.append(len(ids)), append(ids))  # type: ignore[method-assign,func-returns-value,assignment,misc]
        every = finish(conversation.chat("one two one two", options=options(True)))
    assert max(widths) == chunk
    assert (every.usage.drafted_tokens > 0) == (chunk > 1)


def test_a_graph_without_the_rows_that_the_manifest_names_is_refused(toy_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_bundle, tmp_path / "wrong")
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["decoder"]["draft_rows"] = 8
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with Session(open_bundle(folder), SessionOptions(threads=1, engine="genai"), encoders=FakeEncoders()) as session:
        with pytest.raises(BundleError, match=f"cannot give {DRAFT_LOGITS} .*, expected files that agree"):
            session.answer(user("one two one two"), options=options(True))
        assert session.answer(user("hello"), options=options(False)).usage.drafted_tokens == 0
    with (  # the loop binds every output that the manifest names
        Session(open_bundle(folder), SessionOptions(threads=1), encoders=FakeEncoders()) as session,
        pytest.raises(BundleError, match=f"{DRAFT_LOGITS}.*, expected files that agree"),
    ):
        session.answer(user("hello"), options=options(False))


@pytest.fixture(scope="module")
def speculating_bundle(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model as ``palmtop export --set speculation=true`` writes it."""
    target = tmp_path_factory.mktemp("bundles") / "speculating"
    arguments = ["export", str(reference_checkpoint), "-o", str(target), "--set", "speculation=true", "--no-verify"]
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 0, run.output
    return target


def test_the_trained_model_answers_the_same_in_every_mode(speculating_bundle: Path) -> None:
    """INT4 as users get it; a form keeps it talking, for it has learnt to answer in a word or two."""
    forms = (None, Grammar.regex("([a-z]{2,7} ){9}[a-z]{3}"), Grammar.json_schema({"type": "array", "minItems": 5}))
    accepted = dict.fromkeys(("text", "image", "audio", "image+audio"), 0)
    with palmtop.load(speculating_bundle, threads=1, context=1024) as session:
        for task in accepted:
            for number, item in enumerate(held_out_items(task, 6, 0)):
                form = forms[number % len(forms)]
                plain, every, paced = (
                    session.answer(item.messages, options=options(speculate, max_tokens=80, grammar=form))
                    for speculate in (False, True, None)
                )
                assert (every.token_ids, every.text) == (plain.token_ids, plain.text)
                assert (paced.token_ids, paced.text) == (plain.token_ids, plain.text)
                accepted[task] += every.usage.accepted_tokens
    assert all(accepted.values()), accepted


def test_steps_of_any_length_from_two_on_agree_to_the_bit(speculating_bundle: Path) -> None:
    """What the promise of the same text rests on: a kernel that rounds by the length of a step breaks it."""
    ids = np.random.default_rng(0).integers(3, 400, 40).astype(np.int32)
    with palmtop.load(speculating_bundle, threads=1, context=64) as session:
        decoder = session._open_decoder()
        decoder.append(ids[:16])
        rows = []
        for width in (2, 3, 4, 5, 8):
            decoder.rewind_to(16)
            found = []
            for start in range(16, 16 + 24 - 24 % width, width):
                decoder.append(ids[start : start + width])
                found.append(decoder.draft_logits(width))
            rows.append(np.concatenate(found))
    for other in rows[1:]:
        length = min(len(other), len(rows[0]))
        assert (other[:length] == rows[0][:length]).all()


def test_the_command_line_guesses_and_says_so(speculating_bundle: Path, int4_bundle: Path) -> None:
    arguments = ["spell: banana.", "--json", "--max-tokens", "40", "--regex", "(na){20}", "--threads", "1"]
    usages = []
    for flags in (["--speculate"], ["--no-speculate"]):
        run = CliRunner().invoke(cli, ["run", str(speculating_bundle), *arguments, *flags])
        assert run.exit_code == 0, run.output
        usages.append(json.loads(run.stdout)["usage"])
    assert usages[0]["accepted_tokens"] > 5
    assert usages[1]["drafted_tokens"] == 0
    refused = CliRunner().invoke(cli, ["run", str(int4_bundle), *arguments, "--speculate"])
    assert "expected one that was exported with --set speculation=true" in str(refused.exception)
