"""genai_config.json: onnxruntime-genai's configuration of a bundle's decoder.

The file follows from the manifest alone. The exporter writes it, because genai (and the phone) read it from the folder,
and its content is checked at opening: genai would load any library named in it.
"""

from __future__ import annotations

import json
from typing import Any

from palmtop.errors import BundleError

from .json_fields import refuse
from .manifest import DecoderSpec
from .opening import Bundle
from .processor_config import TextSpec
from .states import TOKENS, StateSpec

GENAI_CONFIG_FILE = "genai_config.json"


def genai_config(decoder: DecoderSpec, text: TextSpec) -> dict[str, Any]:
    """Return the config of a plain decoder-only model.

    The type is ``llama`` because that one has no rules of its own: ``phi3`` would rewind at 4,097 tokens, incorrectly
    for appended prompts; palmtop's runtime decides by ``rope_long`` instead.

    Raises:
        BundleError: the decoder has other states than keys and values of every layer.
    """
    key, value = _keys_and_values(decoder)
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
                "head_size": key.stored_shape(0)[3],  # genai uses it for allocation only
                "num_attention_heads": decoder.num_heads,
                "num_key_value_heads": key.stored_shape(0)[1],
                "num_hidden_layers": decoder.num_layers,
                "session_options": {"log_id": "palmtop", "provider_options": []},
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": key.input,
                    "past_value_names": value.input,
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": key.output,
                    "present_value_names": value.output,
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


def _keys_and_values(decoder: DecoderSpec) -> tuple[StateSpec, StateSpec]:
    """The two states that genai allocates: [batch, heads, tokens, size] in every layer, of one shape and type."""
    names = [state.name for state in decoder.states]
    if names != ["key", "value"]:
        raise refuse("decoder.states", ", ".join(names), "key and value, which are what genai runs")
    key, value = decoder.states
    kinds = [(state.shape, state.dtype, state.rewind, state.layers) for state in decoder.states]
    if len(key.shape) != 4 or key.shape[2] != TOKENS or key.layers != tuple(range(decoder.num_layers)):
        raise refuse("decoder.states[0]", list(key.shape), "[batch, heads, tokens, size] in every layer")
    if kinds[0] != kinds[1]:
        raise refuse("decoder.states[1]", list(value.shape), "the shape, type and layers of the keys")
    if decoder.num_heads % key.stored_shape(0)[1]:
        raise refuse("decoder.states[0].shape", list(key.shape), f"heads that divide num_heads, {decoder.num_heads}")
    return key, value


def check_genai_config(bundle: Bundle) -> None:
    """Compare the bundle's file with the config of its manifest.

    Raises:
        BundleError: the file cannot be read, or differs.
    """
    path = bundle.file(GENAI_CONFIG_FILE)
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read as JSON ({error})") from error
    expected = genai_config(bundle.manifest.decoder, bundle.manifest.processor.text)
    if found != expected:
        where = _first_difference(found, expected, "")
        raise BundleError(f"{path}: {where or 'its content'} is not what the manifest gives; export the bundle again")


def _first_difference(found: Any, expected: Any, where: str) -> str:
    """The dotted name of the first key that differs."""
    if not isinstance(found, dict) or not isinstance(expected, dict):
        return where
    for key in sorted({*found, *expected}):
        if found.get(key) != expected.get(key) or (key in found) != (key in expected):
            return _first_difference(found.get(key), expected.get(key), f"{where}.{key}" if where else str(key))
    return where
