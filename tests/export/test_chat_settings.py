"""How each family begins and ends an answer: BOS once, every end that any file names, thinking, the card's sampling."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from palmtop.errors import InputError
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.recipe import Recipe
from palmtop.runtime.processor.text import TextProcessor
from tests.export.test_journey import family_of
from tests.export.test_phi3 import edit_config
from tests.reference.vocabulary import build_tokenizer
from tests.runtime.phi_specs import PLAIN_TEXT


@dataclass(frozen=True, kw_only=True)
class Chat:
    """What the files of a family say, in short.

    Attributes:
        arch: file of ``export/arch``.
        tokens: special tokens.
        template: chat template.
        config_ends: tokens of ``eos_token_id`` in config.json.
        generation: content of generation_config.json; texts stand for ids.
        prompt: rendering of "hi".
        ends: tokens that end an answer.
        turn: token that ends a turn.
        thinks: whether an answer begins inside thinking.
        sampling: expected ``TextSpec.generation``.
        doubles: whether the tokenizer's post-processor adds BOS too.
    """

    arch: str
    tokens: tuple[str, ...]
    template: str
    config_ends: tuple[str, ...]
    generation: dict[str, Any]
    prompt: str
    ends: set[str]
    turn: str
    thinks: bool = False
    sampling: dict[str, float] = field(default_factory=dict)
    doubles: bool = False


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HI = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<think>", "</think>")  # noqa: RUF001
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"  # noqa: RUF001
    "{% else %}{{ '<｜Assistant｜>' + m['content'] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"  # noqa: RUF001
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"  # noqa: RUF001
)
R1_HI = "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜><think>\n"  # noqa: RUF001
CHATS = {
    "Llama 3.2": Chat(
        arch="llama",
        tokens=(
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|eom_id|>",
            "<|eot_id|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
        ),
        template=(
            "{{- bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' +"
            " m['content'] + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
            "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
        ),
        config_ends=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        generation={
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
            "eos_token_id": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        },
        prompt="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ends={"<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"},
        turn="<|eot_id|>",
        sampling={"temperature": 0.6, "top_p": 0.9},
        doubles=True,
    ),
    "R1-Distill-Llama": Chat(
        arch="llama",
        tokens=DEEPSEEK,
        template=R1,
        config_ends=(DEEPSEEK[3],),
        generation={"do_sample": True, "temperature": 0.6, "top_p": 0.95, "eos_token_id": DEEPSEEK[3]},
        prompt=R1_HI,
        ends={DEEPSEEK[3]},
        turn=DEEPSEEK[3],
        thinks=True,
        sampling={"temperature": 0.6, "top_p": 0.95},
        doubles=True,
    ),
    "R1-Distill-Qwen": Chat(
        arch="qwen2",
        tokens=DEEPSEEK,
        template=R1,
        config_ends=(DEEPSEEK[3],),
        generation={"eos_token_id": DEEPSEEK[3]},
        prompt=R1_HI,
        ends={DEEPSEEK[3]},
        turn=DEEPSEEK[3],
        thinks=True,
        doubles=True,
    ),
    "Qwen2.5": Chat(
        arch="qwen2",
        tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        template=CHATML,
        config_ends=("<|im_end|>",),
        generation={
            "do_sample": True,
            "temperature": 0.7,
            "top_p": 0.8,
            "top_k": 20,
            "repetition_penalty": 1.05,
            "eos_token_id": ["<|im_end|>", "<|endoftext|>"],
        },
        prompt=HI,
        ends={"<|im_end|>", "<|endoftext|>"},
        turn="<|im_end|>",
        sampling={"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
    ),
    "Qwen3": Chat(
        arch="qwen3",
        tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        template=CHATML,
        config_ends=("<|im_end|>",),
        generation={
            "do_sample": True,
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
            "eos_token_id": ["<|im_end|>", "<|endoftext|>"],
        },
        prompt=HI,
        ends={"<|im_end|>", "<|endoftext|>"},
        turn="<|im_end|>",
        sampling={"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    ),
    "Granite 3.3": Chat(
        arch="granite",
        tokens=("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        template=(
            "{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] +"
            " '<|end_of_text|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
        ),
        config_ends=("<|end_of_text|>",),
        generation={"eos_token_id": "<|end_of_text|>"},
        prompt="<|start_of_role|>user<|end_of_role|>hi<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        ends={"<|end_of_text|>"},
        turn="<|end_of_text|>",
    ),
    "MiniCPM4": Chat(
        arch="minicpm",
        tokens=("<s>", "</s>", "<|im_start|>", "<|im_end|>"),
        template=CHATML,
        config_ends=("</s>", "<|im_end|>"),
        generation={"do_sample": True, "temperature": 0.8, "top_p": 0.8, "eos_token_id": ["</s>", "<|im_end|>"]},
        prompt=HI,
        ends={"</s>", "<|im_end|>"},
        turn="<|im_end|>",
        sampling={"temperature": 0.8, "top_p": 0.8},
    ),
}


@pytest.mark.parametrize("name", CHATS)
def test_an_answer_begins_and_ends_as_the_files_say(name: str, tmp_path: Path) -> None:
    chat = CHATS[name]
    folder = tmp_path / "checkpoint"
    family_of(chat.arch).write(folder, 1, **next(iter(family_of(chat.arch).shapes.values())), vocab_size=544)
    words = build_tokenizer()
    words.add_special_tokens(list(chat.tokens))
    ids = {token: words.token_to_id(token) for token in chat.tokens}
    if chat.doubles:
        words.post_processor = processors.TemplateProcessing(
            single=f"{chat.tokens[0]} $A", special_tokens=[(chat.tokens[0], ids[chat.tokens[0]])]
        )
    words.save(str(folder / "tokenizer.json"))
    named = {"chat_template": chat.template, "bos_token": chat.tokens[0], "eos_token": chat.config_ends[-1]}
    edit_config(folder, lambda c: [c.pop("pad_token"), c.update(named)], "tokenizer_config.json")
    said = {
        key: [ids[v] for v in value] if isinstance(value, list) else ids.get(value, value)
        for key, value in chat.generation.items()
    }
    (folder / "generation_config.json").write_text(json.dumps(said))
    ends = [ids[token] for token in chat.config_ends]
    edit_config(
        folder, lambda c: c.update(eos_token_id=ends if len(ends) > 1 else ends[0], bos_token_id=ids[chat.tokens[0]])
    )
    model = read_model(open_checkpoint(folder), Recipe(context=64))
    spec = model.processor.text
    assert {words.id_to_token(i) for i in spec.eos_ids} == chat.ends
    assert spec.end_of_turn_id == ids[chat.turn]
    assert (spec.generation or {}) == chat.sampling
    text = TextProcessor(folder / "tokenizer.json", model.chat_template, spec)
    prompt = text.prompt([{"role": "user", "content": "hi"}])
    assert words.decode(prompt.ids.tolist(), skip_special_tokens=False) == chat.prompt
    assert prompt.opens_thinking == chat.thinks


SWITCHED = {  # the end of a template: the variable it reads, and what it writes for True, False and without a value
    "Qwen3": (
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
        {True: "", False: "<think>\n\n</think>\n\n", None: ""},
        False,
    ),
    "MiniCPM4.1": (
        "{% if enable_thinking is defined and enable_thinking %}{{ '<think>\n' }}{% endif %}",
        {True: "<think>\n", False: "", None: ""},
        True,
    ),
    "Granite 3.3": (
        "{% if thinking %}{{ 'Write between <think></think>, then between <response></response>.' }}{% endif %}",
        {True: "Write between <think></think>, then between <response></response>.", False: "", None: ""},
        False,
    ),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_thinking_is_switched_by_the_templates_variable(name: str, tmp_path: Path) -> None:
    end, written, opens = SWITCHED[name]
    words = build_tokenizer()
    words.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    words.save(str(tmp_path / "tokenizer.json"))
    spec = replace(PLAIN_TEXT, thinking=("<think>", "</think>"))
    text = TextProcessor(tmp_path / "tokenizer.json", CHATML + end, spec)
    assert text.answer_marks == (("<response>", "</response>") if name == "Granite 3.3" else None)
    for value, expected in written.items():
        prompt = text.prompt([{"role": "user", "content": "hi"}], thinking=value)
        assert words.decode(prompt.ids.tolist(), skip_special_tokens=False) == HI + expected
        assert prompt.opens_thinking == (opens and value is True)
    plain = TextProcessor(tmp_path / "tokenizer.json", CHATML, spec)
    with pytest.raises(InputError, match="chat template does not read enable_thinking or thinking"):
        plain.prompt([{"role": "user", "content": "hi"}], thinking=False)
