"""The tokenizer files of a bundle, under names and in a form that every reader of bundles takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from palmtop.errors import CheckpointError

from .config_keys import read_json_object

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"


def write_tokenizer(checkpoint: Path, bundle: Path, chat_template: str) -> None:
    """Copy the tokenizer under names and a class that genai 0.13 (the phone's) and newer both read.

    Raises:
        CheckpointError: the checkpoint has no tokenizer.json.
    """
    source = checkpoint / TOKENIZER_FILE
    if not source.is_file():
        raise CheckpointError(f"{checkpoint}: '{TOKENIZER_FILE}' is missing")
    shutil.copyfile(source, bundle / TOKENIZER_FILE)
    config = read_json_object(checkpoint / TOKENIZER_CONFIG_FILE)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # genai 0.13.1 refuses transformers 5's own name
    config["chat_template"] = chat_template
    (bundle / TOKENIZER_CONFIG_FILE).write_text(json.dumps(config, indent=1, ensure_ascii=False), "utf-8")
    (bundle / CHAT_TEMPLATE_FILE).write_text(chat_template, "utf-8")
