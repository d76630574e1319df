"""Questions for models with a general vocabulary: requests in several languages and styles, without right answers.

They are used to compare a bundle with its checkpoint: both answer, and the answers are compared with each other. Media
come from the packaged held-out set, with general instructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .heldout import Task, held_out_items
from .text_tasks import INSTRUCTION

PROMPTS = (
    "Explain in three sentences why the sky is blue.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Was ist der Unterschied zwischen Wetter und Klima?",
    "What is 17 times 23? Show each step.",
    "Écris un court message pour remercier un voisin de son aide.",
    "Summarise in one sentence: The train to Lyon was cancelled, so we took the bus, which arrived two hours late.",
    "请用一句话介绍长城。",
    "List five things to pack for a weekend in the mountains, as bullet points.",
    "Traduce al inglés: «Mañana por la mañana no puedo venir, pero sí por la tarde».",
    "Fix the grammar: he dont know where them books is",
    "Give a JSON object with the keys name, age and city for an invented person.",
    "日本の四季について短く説明してください。",
    "You are a pirate. Greet the crew and tell them what is for dinner.",
    "Which is heavier, a kilogram of iron or a kilogram of feathers, and why?",
    "Расскажи, как заварить чай.",
    "Write a limerick about a cat that learns to code.",
)
"""Text questions, asked in this order, one user turn each."""

MEDIA_PROMPTS = {
    "image": "Which digits do you see in the picture?",
    "audio": "Write down what is said.",
    "image+audio": "Answer the spoken question about the picture.",
}
"""Instructions by mode; a general model was not trained on the packaged model's own instruction."""


def general_messages(mode: Task, count: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    """Return at most ``count`` requests of a mode.

    >>> next(general_messages("text", 1, seed=0))[0]["content"][0]["text"][:17]
    'Explain in three '
    """
    if mode == "text":
        for prompt in PROMPTS[:count]:
            yield [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
        return
    for item in held_out_items(mode, count, seed):
        yield [{**message, "content": [_part(part, mode) for part in message["content"]]} for message in item.messages]


def _part(part: Mapping[str, Any], mode: str) -> dict[str, Any]:
    asks = part.get("type") == "text" and part.get("text") == INSTRUCTION
    return {"type": "text", "text": MEDIA_PROMPTS[mode]} if asks else dict(part)
