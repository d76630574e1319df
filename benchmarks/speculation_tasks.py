"""SmolLM2-135M-Instruct as a bundle, and questions whose answers repeat what was said before, or do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.smollm2 import as_model, read_gguf, tokenizer
from palmtop.export.bundle.bundle_writer import write_bundle
from palmtop.export.recipe import Recipe
from palmtop.runtime.decoding.grammar import Grammar

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PASSAGE_LETTERS = 400
ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "colour": {"enum": ["red", "green", "blue", "yellow"]},
        "weight_kg": {"type": "number"},
    },
    "required": ["name", "colour", "weight_kg"],
    "additionalProperties": False,
}
LIST = {"type": "array", "items": ITEM, "minItems": 5, "maxItems": 5}
OPEN = (
    "Why is the sky blue?",
    "How do birds fly?",
    "What is a prime number?",
    "Tell me a story about a fox.",
    "How is bread made?",
    "What does a heart do?",
    "Why do we sleep?",
    "What is a volcano?",
)
KINDS = ("fruits", "animals", "tools", "toys", "vegetables", "birds", "stones", "cakes")


class _Source:
    """What an export asks of a checkpoint: a folder with a tokenizer, and a hash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: dict[str, Any] = {"_name_or_path": "SmolLM2-135M-Instruct"}

    def sha256(self, workers: object = None) -> str:
        """None of a checkpoint's."""
        return "0" * 64


def write_smollm2(gguf: Path, folder: Path, recipe: Recipe) -> Path:
    """Export the model to a bundle in ``folder``."""
    from dataclasses import replace

    arrays, fields = read_gguf(gguf)
    words = folder / "tokenizer"
    words.mkdir(parents=True)
    found = tokenizer(fields)
    found.add_special_tokens(fields["tokens"][:17])
    found.save(str(words / "tokenizer.json"))
    (words / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}), "utf-8")
    bundle = folder / "bundle"
    bundle.mkdir()
    model = replace(as_model(arrays), chat_template=TEMPLATE)
    write_bundle(bundle, _Source(words), model, recipe)  # type: ignore[arg-type]
    return bundle


def _passages(count: int) -> Iterator[str]:
    """Paragraphs of Python's reference documentation."""
    from pydoc_data.topics import topics

    found = 0
    for text in topics.values():
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            if PASSAGE_LETTERS <= len(words) <= 2 * PASSAGE_LETTERS and words[0].isupper() and words.endswith("."):
                yield words
                found += 1
                break
        if found == count:
            return


def _ask(text: str, **options: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **options}


def _copies(count: int) -> Iterator[dict[str, Any]]:
    for passage in _passages(count):
        yield _ask(f"Repeat the following text word for word.\n\n{passage}")


def _edits(count: int) -> Iterator[dict[str, Any]]:
    for passage in _passages(count):
        broken = passage.replace("the", "teh").replace("is", "si")
        yield _ask(f"Correct the spelling mistakes in this text, and change nothing else.\n\n{broken}")


def _summaries(count: int) -> Iterator[dict[str, Any]]:
    for passage in _passages(count):
        yield _ask(f"Summarize this text in a few sentences.\n\n{passage}")


def _lists(count: int) -> Iterator[dict[str, Any]]:
    for kind in KINDS[:count]:
        yield _ask(f"List five {kind} as JSON: name, colour and weight in kg.", grammar=Grammar.json_schema(LIST))


def _questions(count: int) -> Iterator[dict[str, Any]]:
    for question in OPEN[:count]:
        yield _ask(question)


TASKS: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {
    "copy a paragraph": _copies,
    "correct its spelling": _edits,
    "summarise it": _summaries,
    "a list in JSON, by schema": _lists,
    "open questions": _questions,
}
