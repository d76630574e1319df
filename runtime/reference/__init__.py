"""The packaged reference model: a small trained Phi-4-multimodal checkpoint, held-out items and sample files.

Returns the paths of the packaged files. Needs numpy and the standard library; soundfile only to decode the spoken
clips.
"""

from __future__ import annotations

import json
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def checkpoint_path() -> Path:
    """Directory of the checkpoint, in microsoft/Phi-4-multimodal-instruct's layout (model_type `phi4mm`)."""
    return _HERE / "checkpoint"


def adapters_path() -> Path:
    """Directory of PEFT folders, one for each of the text tasks that the base model cannot do: sort, next, vowels."""
    return _HERE / "adapters"


def held_out_path() -> Path:
    """Directory of the held-out glyphs, clips and text tasks that `held_out_items` composes items from."""
    return _HERE / "heldout"


def samples_path() -> Path:
    """Directory of the sample media and of `samples.json`, one question for each mode."""
    return _HERE / "samples"


def has_packaged_vocabulary(tokenizer: Path) -> bool:
    """Return whether a tokenizer.json has the packaged model's tokens: only such a model was trained on its tasks."""
    packaged = checkpoint_path() / "tokenizer.json"
    try:
        if tokenizer.stat().st_size > 2 * packaged.stat().st_size:  # a general vocabulary has megabytes
            return False
        found, own = (json.loads(path.read_text("utf-8")) for path in (tokenizer, packaged))
        return bool(found["model"]["vocab"] == own["model"]["vocab"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
