"""List of the architectures that are exported: for ``palmtop export --list`` and docs/architectures.md."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from palmtop.export.arch import about, aliases, names
from palmtop.export.checkpoint.gguf.families import FAMILIES

WIDTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Facts about one architecture file for the list.

    Attributes:
        name: name of the file.
        model_types: values of ``model_type`` in config.json.
        models: models that have this form.
        sources: files of weights that are read.
        tested: weights that tests use.
        refused: what is refused.
    """

    name: str
    model_types: tuple[str, ...]
    models: str
    sources: str
    tested: str
    refused: tuple[str, ...]


def entries() -> list[Entry]:
    """Return all architecture files, by name."""
    return [_entry(name) for name in names()]


def _entry(name: str) -> Entry:
    facts = about(name)
    ggufs = [family.name for family in FAMILIES.values() if family.model_type == name]
    sources = facts.sources + (f"; GGUF ({', '.join(ggufs)})" if ggufs else "")
    return Entry(
        name=name,
        model_types=(name, *aliases(name)),
        models=facts.models,
        sources=sources,
        tested=facts.tested,
        refused=facts.refused,
    )


def as_text() -> str:
    """Return the list in lines of at most 80 columns."""
    lines: list[str] = []
    for each in entries():
        lines.append(", ".join(each.model_types))
        facts = {"models": each.models, "weights": each.sources, "tested": each.tested}
        facts["refused"] = "; ".join(each.refused) or "nothing of its own"
        for word, value in facts.items():
            head = f"  {word:8} "
            lines += textwrap.wrap(value, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return "\n".join(lines)


def as_json() -> list[dict[str, Any]]:
    """Return the list in JSON types."""
    return [
        {**asdict(each), "model_types": list(each.model_types), "refused": list(each.refused)} for each in entries()
    ]


def as_markdown() -> str:
    """Return the text of the page on architectures."""
    rows = [
        "| model_type | models | weights | tested with | refused |",
        "|---|---|---|---|---|",
        *(
            f"| `{'`, `'.join(e.model_types)}` | {e.models} | {e.sources} | {e.tested} | {'; '.join(e.refused)} |"
            for e in entries()
        ),
    ]
    return "\n".join([INTRODUCTION, *rows, "", GENERAL])


INTRODUCTION = """# Architectures

Written by `python -m docs.list_architectures --write` from the files in `export/arch/`; `palmtop export --list` prints
the same. A checkpoint is read by the `model_type` of its `config.json`, or of its class where an old file has none.
"""
GENERAL = """## For all of them

- A folder has `config.json`, `tokenizer.json`, `tokenizer_config.json`, a chat template, and weights in safetensors; an
  adapter may also be in PyTorch's zip format. A GGUF file has all of it inside: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1,
  Q8_0 and the K types; byte-level BPE or SentencePiece.
- "Random weights": logits and a greedy answer of tiny checkpoints of odd shapes equal transformers' in float32
  (`tests/export/test_journey.py`). Of these families the package registries hold real weights of SmolLM2 alone.
- Refused, with one sentence that names it: a key of `config.json` or of the GGUF metadata that could change the
  computation and is not read, a tensor without a place, weights that are quantised already in another format than
  GGUF, and a context longer than the model's.
- An unknown `model_type` is refused with the nearest one that is known.

## MiniCPM-V

Pictures, positions and markup are those of the code beside the checkpoints, with these differences:

- A message's pictures come before its text, as for every model here; the reference keeps the order of the parts.
- Transparent pixels lie over white (the reference: over black). A picture so narrow that a view of it would have less
  than a patch on one side is refused; the reference makes a strip of any length of it.
- The reference of 2.6 and 4.5 hides tokens with id 0 from attention ("!" in their vocabulary); palmtop does not.
- Thinking of 4.5 is off unless it is switched on (`--thinking`): as in the reference's `chat()`.
- The vision encoder takes views of many shapes: it runs on the CPU, and graphs of fixed shapes (QNN) refuse it.

## Decided against

- TinyGPT-V (Phi-2, EVA ViT-g, Q-Former). Its release is a `.pth` that is laid, with `strict=False`, over weights from
  three other places: Phi-2, the vision tower, and BLIP-2 FlanT5-XXL's Q-Former. It needs its own `modeling_phi.py` in
  transformers' place (norms of queries and keys and one behind attention, which Phi-2 has not), has no `config.json`,
  and no kept implementation reads it, so nothing could be compared (its README and `minigpt_v2.py`, 2026-11-28).
"""
