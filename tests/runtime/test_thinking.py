"""Thinking and answer come apart: in text cut anywhere, from a model that writes both, and on the command line.

The model is a real Phi3ForCausalLM whose layers add nothing and whose head maps each token to one successor: it
says what it is told to say, through exporter, bundle and native runtime.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

import palmtop
from palmtop.__main__ import cli
from palmtop.errors import BundleError
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.chat.reasoning import Thinking, separate_thinking
from palmtop.runtime.chat.reply import Piece, Reply, Usage
from palmtop.runtime.commands.showing import PieceWriter
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.processor import Processor
from tests.reference.vocabulary import CHAT_TEMPLATE, build_tokenizer, token_ids, write_tokenizer
from tests.runtime.toy import write_toy_bundle

MARKS = ("<think>", "</think>")
QUESTION = [{"role": "user", "content": "what is 2 plus 2?"}]
USAGE = Usage(
    prompt_tokens=1,
    cached_tokens=0,
    media_rows=0,
    completion_tokens=1,
    reprefilled=None,
    ttft_s=0.0,
    tokens_per_s=0.0,
    peak_rss_bytes=None,
)


def sorted_text(texts: list[str], *, is_open: bool = False) -> tuple[str, str]:
    """What is thought and what is answered, of text that comes in these parts."""
    thinking = Thinking(MARKS, is_open=is_open)
    found = [pair for text in texts for pair in thinking.feed(text)] + thinking.rest()
    thought, answer = ("".join(t for k, t in found if k == kind) for kind in ("thinking", "answer"))
    return thought, answer


CASES = {
    "<think>a b</think>c d": ("a b", "c d"),
    "\n<think>\na\n\nb \n</think>\n\nc\n d \n": ("a\n\nb", "c\n d \n"),
    "<think></think>c": ("", "c"),
    "<think>never closed </thi": ("never closed </thi", ""),
    "<think>a </b> </thin </think>c": ("a </b> </thin", "c"),
    "<think>a</think>b</think>c": ("a", "b</think>c"),
    "  no mark": ("", "  no mark"),
    "a <think>b</think>": ("", "a <think>b</think>"),
    "<thi": ("", "<thi"),
    "<thin air": ("", "<thin air"),
    "": ("", ""),
}


@pytest.mark.parametrize("text", CASES)
def test_however_the_text_is_cut_its_parts_are_the_same(text: str) -> None:
    assert sorted_text([text]) == CASES[text]
    assert sorted_text(list(text)) == CASES[text]
    for first, second in itertools.combinations(range(len(text) + 1), 2):
        assert sorted_text([text[:first], text[first:second], text[second:]]) == CASES[text]


RESPONSES = {
    "<think>a</think><response>b c</response>": ("a", "b c"),
    "<think>a</think>\n\n<response>\nb\n</response>\n": ("a", "b"),
    "<response>b</response>": ("", "b"),
    "<think>a</think>b <response> c": ("a", "b <response> c"),
    "<think>a</think><response>cut </res": ("a", "cut </res"),
    "<think>a</think><resp": ("a", "<resp"),
    "<think>a</think><response>b</response> c": ("a", "b c"),
    "no mark": ("", "no mark"),
}


@pytest.mark.parametrize("text", RESPONSES)
def test_marks_around_the_answer_are_left_out_however_the_text_is_cut(text: str) -> None:
    """As Granite 3.3 writes them."""
    for first, second in itertools.combinations(range(len(text) + 1), 2):
        thinking = Thinking(MARKS, answer_marks=("<response>", "</response>"))
        parts = [text[:first], text[first:second], text[second:]]
        found = [pair for part in parts for pair in thinking.feed(part)] + thinking.rest()
        thought, answer = ("".join(t for k, t in found if k == kind) for kind in ("thinking", "answer"))
        assert (thought, answer) == RESPONSES[text]


def test_an_answer_may_begin_inside_the_thinking() -> None:
    assert sorted_text(list("a </think> b"), is_open=True) == ("a", "b")


def test_thinking_is_let_out_as_it_comes() -> None:
    thinking = Thinking(MARKS)
    assert thinking.feed("<think>one") == [("thinking", "one")]
    assert thinking.feed(" two <") == [("thinking", " two")]
    assert thinking.feed(" three") == [("thinking", " < three")]
    assert thinking.feed("</think>4 <") == [("answer", "4 <")]


def test_closing_the_separated_answer_closes_the_answer() -> None:
    closed = []

    def pieces() -> Iterator[Piece]:
        try:
            yield Piece(text="<think>a")
            yield Piece(text="b")
        finally:
            closed.append(True)

    separated: Any = separate_thinking(pieces(), MARKS, is_open=False)
    assert next(separated) == Piece(text="a", kind="thinking")
    separated.close()
    assert closed == [True]


# From here on, the model that says what it is told.


def write_chain(
    folder: Path,
    said: list[str],
    *,
    special: bool,
    start: str = "<|assistant|>",
    template: str = CHAT_TEMPLATE,
    context: int = 256,
) -> None:
    """A checkpoint that answers a prompt ending in ``start`` with these tokens, none of them twice, and ends."""
    tokenizer = build_tokenizer()
    wanted = said if tokenizer.token_to_id(start) is not None else [start, *said]
    new = [AddedToken(t, special=special and t in MARKS, normalized=False) for t in wanted]
    tokenizer.add_tokens(new)
    tokenizer.add_special_tokens([t for t in new if t.special])
    size = tokenizer.get_vocab_size()
    ids = token_ids(tokenizer)
    end = {"bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|end|>"]}
    config = Phi3Config(
        vocab_size=size,
        hidden_size=-(-size // 16) * 16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=context,
        **end,
    )
    model = Phi3ForCausalLM(config)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(size, config.hidden_size))
        chain = [start, *said, "<|end|>"]
        for token, following in itertools.pairwise(tokenizer.token_to_id(t) for t in chain):
            model.lm_head.weight[following, token] = 1.0
    model.save_pretrained(folder)
    write_tokenizer(tokenizer, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))


WRITTEN = {  # how the model writes its marks: as special tokens, as tokens, in parts
    "special": ([*MARKS[:1], "Two", " more", MARKS[1], " \u00e9", " is 4"], True),
    "tokens": ([*MARKS[:1], "Two", " more", MARKS[1], " \u00e9", " is 4"], False),
    "parts": (["<th", "ink>Two", " more<", "/thi", "nk> \u00e9", " is 4"], False),
}


@pytest.fixture(scope="module", params=WRITTEN)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thinking")
    said, special = WRITTEN[request.param]
    write_chain(folder / "checkpoint", said, special=special)
    return export_model(folder / "checkpoint", folder / "bundle", Recipe(bits=32, context=128))


def test_a_model_that_thinks_answers_without_its_thinking(bundle: Path) -> None:
    with palmtop.load(bundle) as session:
        pieces = list(session.chat(QUESTION))
    reply = pieces[-1].reply
    assert reply is not None
    assert (reply.thinking, reply.text, reply.ended_by) == ("Two more", "\u00e9 is 4", "eos")
    assert "".join(p.text for p in pieces if p.kind == "thinking") == reply.thinking
    assert "".join(p.text for p in pieces if p.kind == "answer") == reply.text
    assert len([p for p in pieces if p.text]) >= 4  # streamed, not kept back
    assert len(reply.token_ids) == 6  # all that was sampled


def test_later_turns_read_the_answer_without_the_thinking(bundle: Path) -> None:
    with palmtop.load(bundle) as session:
        conversation = session.conversation()
        list(conversation.chat("what is 2 plus 2?"))
        assert conversation.messages[-1] == {"role": "assistant", "content": "\u00e9 is 4"}
        *_, last = conversation.chat("and 3?")
        expected = session._processor.prompt(conversation.messages[:-1]).ids
    assert last.reply is not None
    assert last.reply.usage.prompt_tokens == len(expected)
    assert (last.reply.thinking, last.reply.text) == ("Two more", "\u00e9 is 4")


def test_an_answer_that_ends_while_thinking_has_no_text(bundle: Path) -> None:
    with palmtop.load(bundle) as session:
        reply = session.answer(QUESTION, options=GenerationOptions(max_tokens=2))
    assert reply.text == ""
    assert reply.thinking == "Two"


def test_a_template_that_opens_the_thinking_is_noticed(tmp_path: Path) -> None:
    template = CHAT_TEMPLATE.replace("'<|assistant|>' }}", "'<|assistant|><think>' }}")
    said = ["Two", "</think>", "4"]
    write_chain(tmp_path / "checkpoint", said, special=True, start="<think>", template=template)
    bundle = export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(bits=32, context=128))
    with palmtop.load(bundle) as session:
        reply = session.answer(QUESTION)
    assert (reply.thinking, reply.text) == ("Two", "4")


def test_the_command_gives_the_answer_alone_through_a_pipe(bundle: Path) -> None:
    shown = CliRunner().invoke(cli, ["run", str(bundle), "what is 2 plus 2?"])
    assert (shown.exit_code, shown.output) == (0, "\u00e9 is 4\n")
    chat = CliRunner().invoke(cli, ["chat", str(bundle)], input="what is 2 plus 2?\n")
    assert (chat.exit_code, chat.output) == (0, "\u00e9 is 4\n")
    as_json = CliRunner().invoke(cli, ["run", str(bundle), "what is 2 plus 2?", "--json"])
    found = json.loads(as_json.output)
    assert (found["thinking"], found["text"]) == ("Two more", "\u00e9 is 4")


@pytest.mark.parametrize(("hide", "expected"), [(False, "\x1b[2mhm\x1b[0m\n\nyes"), (True, "yes")])
def test_on_a_terminal_thinking_is_dim_or_hidden(
    hide: bool, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    writer = PieceWriter(hide_thinking=hide)
    writer.write(Piece(text="hm", kind="thinking"))
    writer.write(Piece(text="yes"))
    writer.write(
        Piece(text="", reply=Reply(text="yes", token_ids=(), ended_by="eos", mode="text", adapters={}, usage=USAGE))
    )
    assert capsys.readouterr().out == expected


def test_the_marks_are_data_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert manifest.processor.text.thinking == MARKS
    data = manifest.to_dict()
    assert Manifest.from_dict(json.loads(json.dumps(data))) == manifest
    for wrong in (["<think>"], ["", "</think>"], "<think>", [1, 2]):
        data["processor"]["text"]["thinking"] = wrong
        with pytest.raises(BundleError, match=r"processor\.text\.thinking"):
            Manifest.from_dict(json.loads(json.dumps(data)))


def test_a_bundle_without_marks_is_as_before(tmp_path: Path) -> None:
    manifest = open_bundle(write_toy_bundle(tmp_path)).manifest
    assert manifest.processor.text.thinking is None
    assert manifest.to_dict()["processor"]["text"]["thinking"] is None


PHI3_TEMPLATE = (  # of Phi-3-mini and Phi-3.5-mini
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
REASONING_TEMPLATE = (  # with a fixed system text, and thinking taken out of earlier answers
    "{{ bos_token }}<|system|>Think first.{% for message in messages %}{% if message['role'] == 'system' %}"
    " {{ message['content'] }}{% endif %}{% endfor %}<|end|>{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ '<|' + message['role'] + '|>' +"
    " message['content'].split('</think>')[-1] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": "  two  spaces,\nnew lines\n\n and \u00e9\u4e2d"},
    {"role": "assistant", "content": "<think>hm</think>\n yes "},
    {"role": "user", "content": " and?"},
]


def sentencepiece_like() -> Tokenizer:
    """As Phi-3's: bytes for what is unknown, a mark for spaces, special tokens that take the space behind them."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "a", "n", "d", "an"]
    merges = [("a", "n")]
    tokenizer = Tokenizer(
        models.BPE({n: i for i, n in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    tokenizer.add_special_tokens([AddedToken(t, rstrip=t.startswith("<|"), normalized=False) for t in special])
    return tokenizer


@pytest.mark.parametrize("template", [PHI3_TEMPLATE, REASONING_TEMPLATE, CHAT_TEMPLATE], ids=["phi3", "reasoning", "4"])
@pytest.mark.parametrize("make", [build_tokenizer, sentencepiece_like])
def test_prompts_are_those_of_apply_chat_template(make: Any, template: str, tmp_path: Path) -> None:
    tokenizer = make()
    folder = tmp_path / "checkpoint"
    config = Phi3Config(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=tokenizer.token_to_id("<|end|>"),
        bos_token_id=tokenizer.token_to_id("<|endoftext|>"),
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )
    Phi3ForCausalLM(config).save_pretrained(folder)
    write_tokenizer(tokenizer, folder)
    bos = "<s>" if make is sentencepiece_like else "<|endoftext|>"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"chat_template": template, "bos_token": bos}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").unlink()  # says the same again in a real checkpoint, and wins
    reference = PreTrainedTokenizerFast.from_pretrained(folder)
    manifest = open_bundle(export_model(folder, tmp_path / "bundle", Recipe(context=64))).manifest
    processor = Processor(manifest.processor, tmp_path / "bundle")
    for count in (2, 4):
        expected = reference.apply_chat_template(TALK[:count], add_generation_prompt=True, tokenize=True)
        assert processor.prompt(TALK[:count]).ids.tolist() == list(expected["input_ids"])
