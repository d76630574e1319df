"""SmolLM2-135M-Instruct, a real chat model, against transformers on the same dequantised weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import palmtop
from palmtop.errors import RuntimeMissingError
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.models import smollm2_file
from palmtop.runtime.session import Session
from tests.export.families import logits_of

TOKENS = 24
END = 2  # <|im_end|>
SUBJECTS = ("rain", "a cat", "the sea", "bread", "Paris", "a bicycle", "the moon", "chess", "coffee", "a library")
FORMS = (
    "What is {}?",
    "Write one sentence about {}.",
    "Name 3 words that go with {}.",
    "Tell a child what is good about {}. Answer in 20 words!",
    "Translate into French: I like {}.",
)
PROMPTS = [form.format(subject) for form in FORMS for subject in SUBJECTS]


@pytest.fixture(scope="module")
def file() -> Path:
    try:
        return smollm2_file()
    except RuntimeMissingError as missing:
        pytest.skip(str(missing))


def reference(file: Path) -> tuple[PreTrainedModel, Any]:
    """Transformers' own reading of the file: weights and tokenizer."""
    torch.set_num_threads(1)  # on a busy machine threads that wait for each other take minutes
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def chosen(model: PreTrainedModel, ids: list[int], answer: list[int]) -> np.ndarray:
    """Logits of the positions that decide each token of an answer and the token behind it, [len(answer) + 1, V].

    One pass says as much as greedy decoding: two greedy answers are equal where each token of one is the most probable
    token of the other model behind the tokens before it.
    """
    with torch.no_grad():
        logits = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 :]
    found: np.ndarray = logits.numpy()
    return found


def differing(session: Session, model: PreTrainedModel, tokenizer: Any, prompts: list[str]) -> list[str]:
    """Prompts whose greedy answer or whose ids are not transformers'."""
    wrong = []
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert session._processor.prompt(messages).ids.tolist() == ids
        answer = list(session.answer(messages, max_tokens=TOKENS).token_ids)
        best = chosen(model, ids, answer).argmax(-1).tolist()
        if answer != best[: len(answer)] or (len(answer) < TOKENS and best[len(answer)] != END):
            wrong.append(prompt)
    return wrong


def check(file: Path, recipe: Recipe, folder: Path, prompts: list[str], tolerance: float) -> list[str]:
    """Compare a bundle with transformers' reading of the same file; the notes of its export."""
    model, tokenizer = reference(file)
    notes: list[str] = []
    bundle = export_model(file, folder, recipe, on_note=notes.append)
    with palmtop.load(bundle) as session:
        assert differing(session, model, tokenizer, prompts) == []
        messages = [{"role": "user", "content": prompts[0]}]
        ids = session._processor.prompt(messages).ids.tolist()
        answer = list(session.answer(messages, max_tokens=TOKENS).token_ids)
    expected = chosen(model, ids, answer)[:-1]
    found = logits_of(bundle, np.array(ids + answer, np.int64), len(ids))[: len(answer)]
    assert np.abs(found - expected).max() <= tolerance * np.ptp(expected)
    return notes


def test_three_greedy_answers_are_transformers(file: Path, tmp_path: Path) -> None:
    check(file, Recipe(bits=32, context=256), tmp_path / "bundle", PROMPTS[:30:10], 1e-3)


@pytest.mark.slow
def test_fifty_greedy_answers_are_transformers(file: Path, tmp_path: Path) -> None:
    check(file, Recipe(bits=32, context=256), tmp_path / "bundle", PROMPTS, 1e-3)


@pytest.mark.slow
def test_fifty_greedy_answers_of_a_kept_grid_are_transformers(file: Path, tmp_path: Path) -> None:
    """The same model in Q4_0, which an INT4 bundle holds bit for bit, with its table in 8 bits."""
    source = as_q4_0(file, tmp_path / "q4_0.gguf")
    recipe = Recipe(head_bits=8, accuracy_level=0, context=256)
    assert check(source, recipe, tmp_path / "bundle", PROMPTS, 1e-3) == []  # no note: nothing is rounded


def as_q4_0(file: Path, path: Path) -> Path:
    """The file with its Q4_1 tensors in Q4_0."""
    reader, writer = gguf.GGUFReader(file), gguf.GGUFWriter(path, "llama")
    q4_0, q4_1 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q4_1
    for key, value in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = value.types[-1] if len(value.types) > 1 else None
            writer.add_key_value(key, value.contents(), value.types[0], sub_type=inner)
    for tensor in reader.tensors:
        data = tensor.data
        kind = tensor.tensor_type
        if kind == q4_1:
            data, kind = gguf.quants.quantize(gguf.quants.dequantize(data, q4_1), q4_0), q4_0
        writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
