"""genai_config.json and the tokenizer files: what onnxruntime-genai reads beside the graphs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.runtime.manifest import DecoderSpec
from palmtop.runtime.processor.spec import TextSpec

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
GENAI_CONFIG_FILE = "genai_config.json"


def genai_config(decoder: DecoderSpec, text: TextSpec) -> dict[str, Any]:
    """The config of a plain decoder-only model.

    The type is ``llama`` because that one carries no rule of its own: ``phi3`` would rewind at 4,097 tokens,
    and wrongly so for appended prompts; palmtop's runtime decides by ``rope_long`` instead.
    """
    return {
        "model": {
            "type": "llama",
            "bos_token_id": text.bos_id if text.bos_id is not None else text.pad_id,
            "eos_token_id": list(text.eos_ids),
            "pad_token_id": text.pad_id,
            "vocab_size": decoder.vocab_size,
            "context_length": decoder.context_length,
            "decoder": {
                "filename": decoder.file,
                "hidden_size": decoder.hidden_size,
                "head_size": decoder.head_size,
                "num_attention_heads": decoder.num_heads,
                "num_key_value_heads": decoder.num_kv_heads,
                "num_hidden_layers": decoder.num_layers,
                "session_options": {"log_id": "palmtop", "provider_options": []},
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": decoder.context_length,
            "past_present_share_buffer": True,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
    }


def write_tokenizer(checkpoint: Path, bundle: Path, chat_template: str) -> None:
    """Copy the tokenizer under names and a class that genai 0.13 (the phone's) and newer both read.

    Raises:
        CheckpointError: the checkpoint has no tokenizer.json.
    """
    source = checkpoint / TOKENIZER_FILE
    if not source.is_file():
        raise CheckpointError(f"{checkpoint}: '{TOKENIZER_FILE}' is missing")
    shutil.copyfile(source, bundle / TOKENIZER_FILE)
    config = json.loads((checkpoint / TOKENIZER_CONFIG_FILE).read_text("utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # genai 0.13.1 refuses transformers 5's own name
    config["chat_template"] = chat_template
    (bundle / TOKENIZER_CONFIG_FILE).write_text(json.dumps(config, indent=1, ensure_ascii=False), "utf-8")
    (bundle / CHAT_TEMPLATE_FILE).write_text(chat_template, "utf-8")
