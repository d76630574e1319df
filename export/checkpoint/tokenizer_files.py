"""Tokenizer files of a bundle, with names and a format that every reader of bundles accepts."""

from __future__ import annotations

import json
from pathlib import Path

from palmtop.errors import CheckpointError

from .folder import Checkpoint

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"


def write_tokenizer(checkpoint: Checkpoint, bundle: Path, chat_template: str) -> None:
    """Copy the tokenizer with names and a class that genai 0.13 (the phone's) and newer both accept.

    Raises:
        CheckpointError: the checkpoint has no tokenizer.json.
    """
    tokenizer = checkpoint.text(TOKENIZER_FILE)
    if tokenizer is None:
        raise CheckpointError(f"{checkpoint.path}: '{TOKENIZER_FILE}' is missing")
    (bundle / TOKENIZER_FILE).write_text(tokenizer, "utf-8", newline="")
    config = checkpoint.json(TOKENIZER_CONFIG_FILE)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # genai 0.13.1 refuses transformers 5's own name
    config["chat_template"] = chat_template
    (bundle / TOKENIZER_CONFIG_FILE).write_text(json.dumps(config, indent=1, ensure_ascii=False), "utf-8")
    (bundle / CHAT_TEMPLATE_FILE).write_text(chat_template, "utf-8")
