"""Prompts on the phone are those of the Python runtime, id for id: tokenizer, chat template, guard, pieces of text."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from palmtop.errors import InputError
from palmtop.runtime.chat.stop_strings import StopStrings
from palmtop.runtime.processor.chat_template import ChatTemplate
from palmtop.runtime.processor.text import TextProcessor
from palmtop.runtime.processor.tokenizer import Tokens
from palmtop.runtime.reference import checkpoint_path
from tests.android.jvm import Core, CoreError
from tests.runtime.processor.test_text import CHATML, PARTS, PHI, SPACES, TYPED, build_tokenizer, spec_of
from tests.runtime.toy import write_toy_bundle

GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern of Phi-4-multimodal's own tokenizer."""
KINDS = ("reference", "built", "user token strips", "phi-4 pattern", "gpt-2 pattern", "older merges")
OTHER_TEMPLATES = {
    "phi": PHI,
    "parts": PARTS,
    "chatml": CHATML,
    "loop": "{%- for m in messages -%}\n  {{ loop.index0 ~ ':' ~ m.role }}{% if loop.last %}!{% elif loop.first %}?"
    "{% else %}.{% endif %}\n{{- m['content'].strip() | upper }} {# gone #}\n{% endfor %}",
    "set": "{% set ns = messages[0]['content'] if messages[0].role == 'system' else none %}\n{% if ns is not none %}\n"
    "S={{ ns }}\n{% endif %}\n{% for m in messages[1:] %}{% set x = m.content %}{{ x[:3] + '|' + x[-2:] }}"
    "{% if not loop.last and loop.index % 2 == 0 %},{% endif %}{% endfor %}{{ x is defined }}",
    "refusal": "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 1) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}",
    "raw text": "  {% if true %}\n  a\n  {%+ if true %}b{% endif +%}\n{{ 'c' \"d\\n\" }}\n  {#- x -#}  \n e"
    " {% endif %}\n",
    "concatenates nothing": "{{ messages[0].content + messages[0].nothing }}",
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer_json(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "reference":
        return checkpoint_path() / "tokenizer.json"
    tokenizer = build_tokenizer()
    if request.param == "phi-4 pattern":
        split = pre_tokenizers.Split(Regex(GPT4O), behavior="removed", invert=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    elif request.param == "gpt-2 pattern":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    data = json.loads(tokenizer.to_str())
    for token in data["added_tokens"]:
        token["rstrip"] = request.param == "user token strips" and token["content"] in ("<|user|>", "<|end|>")
    data["model"]["ignore_merges"] = request.param == "phi-4 pattern"
    if request.param == "older merges":
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def wild_texts(count: int, seed: int) -> list[str]:
    """Control tokens, their halves, spaces of all kinds, words and letters of many scripts, joined at random."""
    rng = np.random.default_rng(seed)
    words = [
        *TYPED,
        *SPACES,
        "hello",
        "World's",
        "it'S",
        "DON'T",
        "naïve",
        "Straße",
        "ﬀ",
        "aͤ",
        "Ⅷ٣½",
        "ǅ",
        "\U0001d518",
        "🇩🇪",
    ]
    words += [
        "\u00a0",
        "\u2003",
        "\u3000",
        "\u0085",
        "\u200b",
        "aaaaaaaaaaaaaaaa",
        "1234567",
        "привет",
        "한국어",
        "\x1c",
    ]
    letters = [chr(int(c)) for c in rng.integers(32, 0x2FFF, 200) if not 0xD800 <= c < 0xE000]
    pool = words + letters
    return ["".join(rng.choice(pool, rng.integers(0, 12)).tolist()) for _ in range(count)]


def test_every_text_gets_the_same_ids_and_comes_back(core: Core, tokenizer_json: Path) -> None:
    tokens = Tokens(tokenizer_json)
    for text in [*wild_texts(250, 0), "", "a" * 3000, " " * 300, "\n" * 50 + "x"]:
        asked = {"tokenizer": str(tokenizer_json), "text": text}
        ids = tokens.encode(text)
        assert core.ask("encode", **asked) == ids, text
        assert core.ask("spell", **asked) == tokens._spell(text), text
        decoded = tokens.tokenizer.decode(ids, skip_special_tokens=True)
        assert core.ask("decode", tokenizer=str(tokenizer_json), ids=ids) == decoded


def test_pieces_are_whole_characters_and_join_to_the_text(core: Core, tokenizer_json: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    rng = np.random.default_rng(1)
    sequences = [tokenizer.encode(text, add_special_tokens=False).ids for text in wild_texts(60, 2)]
    sequences += [rng.integers(0, tokenizer.get_vocab_size(), 30).tolist() for _ in range(60)]  # broken sequences too
    for ids in sequences:
        pieces = core.ask("pieces", tokenizer=str(tokenizer_json), ids=ids)
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    family = tokenizer.encode("👩‍🚀", add_special_tokens=False).ids
    pieces = core.ask("pieces", tokenizer=str(tokenizer_json), ids=family)
    assert "".join(pieces) == "👩‍🚀"
    assert not any("\ufffd" in piece for piece in pieces)


def manifest_of(processor: TextProcessor, image_id: int | None, audio_id: int | None, toy: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((toy / "bundle.json").read_text())
    data["processor"]["text"] = asdict(processor.spec)
    data["decoder"].update(vocab_size=1 << 20)
    for kind, number in (("image", image_id), ("audio", audio_id)):
        data["processor"][kind]["token_id"] = number
    return data


def dialogues(seed: int) -> list[list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    roles = ("system", "user", "assistant", "user")
    found = []
    for _ in range(60):
        texts = wild_texts(int(rng.integers(1, 5)), int(rng.integers(1 << 30)))
        media = [rng.choice(["image", "audio"], rng.integers(0, 3)).tolist() if r == "user" else [] for r in roles]
        turns = [{"role": r, "text": t, "media": m} for r, t, m in zip(roles, texts, media, strict=False)]
        found.append(turns[:-1] if turns[-1]["role"] == "assistant" else turns)  # the phone continues no answer
    return found


def to_python(message: dict[str, Any]) -> dict[str, Any]:
    media = [{"type": kind, kind: f"{kind}.file"} for kind in message["media"]]
    return {"role": message["role"], "content": [*media, {"type": "text", "text": message["text"]}]}


@pytest.mark.parametrize("template", ["phi", "parts"])
def test_prompts_have_the_ids_and_places_of_the_python_runtime(
    core: Core, tokenizer_json: Path, template: str, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    image, audio = (tokenizer.token_to_id(f"<|endoftext{n}|>") for n in (10, 11))
    changes = {"image_placeholder": "<|endoftext10|>", "audio_placeholder": "<|endoftext11|>"}
    spec = spec_of(tokenizer, adds_bos=template == "parts", **(changes if template == "parts" else {}))
    source = OTHER_TEMPLATES[template]
    processor = TextProcessor(tokenizer_json, source, spec, image_token_id=image, audio_token_id=audio)
    asked = {"tokenizer": str(tokenizer_json), "template": source}
    asked["manifest"] = manifest_of(processor, image, audio, write_toy_bundle(tmp_path / "toy"))
    cases = dialogues(3)
    answers = core.ask("prompt", dialogues=cases, **asked)
    for case, (ids, positions, expanded, places) in zip(cases, answers, strict=True):
        prompt = processor.prompt([to_python(message) for message in case])
        assert ids == prompt.ids.tolist(), case
        assert positions == [place.position for place in prompt.media]
        expected_ids, expected_places = processor.expand(
            prompt, [(2, f"<{i}>", 1 + i) for i in range(len(prompt.media))]
        )
        assert (expanded, places) == (expected_ids.tolist(), expected_places.tolist())


@pytest.mark.parametrize("name", OTHER_TEMPLATES)
def test_templates_render_as_jinja_does(core: Core, name: str) -> None:
    source = OTHER_TEMPLATES[name]
    template = ChatTemplate(source)
    roles = ("system", "user", "assistant", "user")
    for number, texts in enumerate(([" a ", "b\n", "ccccc", "dd"], ["x"], ["", "1", "\n"])):
        messages: list[dict[str, Any]] = [
            {"role": role, "content": text} for role, text in zip(roles, texts, strict=False)
        ]
        if name == "parts":
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        asked = {"messages": messages, "add_generation_prompt": number != 1, "names": {"eos_token": "<|e|>"}}
        try:
            expected = template.render(
                messages, add_generation_prompt=number != 1, special_tokens={"eos_token": "<|e|>"}
            )
        except InputError as error:
            with pytest.raises(CoreError) as caught:
                core.ask("render", source=source, **asked)
            assert caught.value.kind == "INPUT"
            assert caught.value.message.split(":")[:2] == str(error).split(":")[:2]
            continue
        answer = core.ask("render", source=source, **asked)
        assert answer["text"] == expected
        assert answer["takes_text"] == template.takes_text
        assert sorted(answer["literal"].split("\0")) == sorted(template.literal_text.split("\0"))


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f() %}{% endmacro %}",
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
        "{% for a, b in messages %}{% endfor %}",
        "{{ messages | map(attribute='content') | join }}",
        "{{ strftime_now('%Y') }}",
        "{% set ns = namespace(x=1) %}",
        "{% set ns.x = 1 %}",
        "{{ messages[0].content.split('x') }}",
        "{{ {'a': 1} }}",
        "{{ 1.5 }}",
        "{{ 1 < 2 < 3 }}",
        "{{ messages[::-1] }}",
        "{{ 'a\\x41' }}",
        "{% raw %}{{ x }}{% endraw %}",
        "{% filter upper %}x{% endfilter %}",
        "{% for m in messages %}x{% else %}y{% endfor %}",
        "{% include 'x' %}",
        "{{ messages[0].content | trim('x') }}",
    ],
)
def test_a_template_that_the_phone_cannot_reproduce_is_refused_at_once(core: Core, source: str) -> None:
    with pytest.raises(CoreError, match=r"cannot reproduce; run this bundle on a computer") as caught:
        core.ask("render", source=source, messages=[], add_generation_prompt=True, names={})
    assert caught.value.kind == "BUNDLE"


@pytest.mark.parametrize("source", ["{% if x %}", "{{ 'a }}", "{{ x", "{% endif %}", "{# x"])
def test_a_broken_template_is_refused(core: Core, source: str) -> None:
    with pytest.raises(CoreError) as caught:
        core.ask("render", source=source, messages=[], add_generation_prompt=True, names={})
    assert caught.value.kind == "BUNDLE"


@pytest.mark.parametrize("what", ["sentencepiece", "normalizer", "prefix space", "wordpiece", "no json"])
def test_a_tokenizer_that_the_phone_cannot_reproduce_is_refused(core: Core, what: str, tmp_path: Path) -> None:
    data = json.loads(build_tokenizer().to_str())
    if what == "sentencepiece":
        data["decoder"] = {"type": "Metaspace"}
    elif what == "normalizer":
        data["normalizer"] = {"type": "NFC"}
    elif what == "prefix space":
        data["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    elif what == "wordpiece":
        data["model"] = json.loads(Tokenizer(models.WordPiece({"a": 0}, unk_token="a")).to_str())["model"]
    path = tmp_path / "tokenizer.json"
    path.write_text("{" if what == "no json" else json.dumps(data))
    with pytest.raises(CoreError) as caught:
        core.ask("encode", tokenizer=str(path), text="x")
    assert caught.value.kind == "BUNDLE"


@pytest.mark.parametrize(("strings", "texts"), [
    (["END"], ["one E", "ND two", "more"]),
    (["END", "E"], ["xE", "ND"]),
    (["aab"], ["a", "a", "a", "b", "c"]),
    (["👍"], ["x👍y"]),
    ([], ["a", "b"]),
    (["zz"], ["z", "az"]),
])  # fmt: skip
def test_stop_strings_hold_back_what_python_holds_back(core: Core, strings: list[str], texts: list[str]) -> None:
    stops = StopStrings(strings)
    expected = [stops.feed(text) for text in texts]
    assert core.ask("stop", strings=strings, texts=texts) == [*expected, "" if stops.found else stops.rest()]
