"""Entry of ``phi4mm`` in the journey test; tests/test_parity.py has its images and sounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.export.families import Family
from tests.export.test_decoder import SMALL_TOWERS
from tests.reference.port import load_port, random_checkpoint

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 96},
    "tied": {"num_hidden_layers": 1, "tie_word_embeddings": True, "partial_rotary_factor": 0.5},
}


def write(folder: Path, seed: int, **changes: Any) -> Any:
    random_checkpoint(folder, seed, **{**SMALL_TOWERS, **changes})
    port = load_port(folder)
    port.disable_adapters()
    return port


FAMILY = Family(write=write, shapes=SHAPES)
