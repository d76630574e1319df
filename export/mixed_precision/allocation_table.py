"""A plan as lines for a terminal: the schemes of each class of tensor, and the totals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from palmtop.quantize.scheme import Scheme

from .allocation import BitAllocation


def plan_lines(plan: BitAllocation) -> Iterator[str]:
    """Return one line for each class of tensors, most frequent scheme first, then the totals."""
    classes: dict[str, Counter[str]] = {}
    for key, scheme in plan.tensors.items():
        classes.setdefault(tensor_class(key), Counter())[scheme_words(scheme)] += 1
    width = max(map(len, classes), default=0)
    for name, counts in classes.items():
        yield f"{name:{width}}  " + ", ".join(f"{count} x {words}" for words, count in counts.most_common())
    if plan.size_bytes is not None and plan.loss is not None:
        yield f"predicted: {plan.size_bytes / 1e6:.3f} MB, mean KL {plan.loss:.4f} nats, method {plan.method}"
    if plan.decode_s is not None:
        yield (
            f"decode: {plan.decode_s * 1e3:.2f} ms a token in matrix kernels here, attention and the rest left out"
            f" ({1 / plan.decode_s:.0f} tokens/s)"
        )


def tensor_class(key: str) -> str:
    """Return the key without its layer, such as "decoder mlp.down_proj lora_A vision"."""
    part, _, name = key.partition(": ")
    name = re.sub(r"^model\.embed_tokens_extend\.(image_embed|audio_embed)\.", "", name)
    name = re.sub(r"(?:^|.*\.)(?:layers|encoders)\.\d+\.", "", name)
    spaced = re.sub(r"\.(lora_[AB])\.", r" \1 ", name)
    return f"{part} {spaced}"


def scheme_words(scheme: Scheme | None) -> str:
    """Return a scheme as words, such as "4 bits in 32s"."""
    return "float32" if scheme is None else f"{scheme.bits} bits in {scheme.group}s"
