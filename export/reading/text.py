"""Text settings of a checkpoint: special token ids, end of an answer, sampling defaults, and chat template."""

from __future__ import annotations

import json
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.runtime.bundle.processor_config import TextSpec, wrong_generation

# Tokens that chat templates write after every message; a tokenizer may have several, its template tells which it uses.
ENDS_OF_TURN = ("<|end|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>")  # noqa: RUF001
# Only an answer that begins with the first of them is split, so models without thinking lose nothing.
THINKING = ("<think>", "</think>")


def text_spec(checkpoint: Checkpoint, config: ConfigSection, *, thinking: tuple[str, str] | None = None) -> TextSpec:
    """Return the text settings of the processor: tokenization of messages and end of an answer.

    Raises:
        CheckpointError: no file names the ids that end an answer.
    """
    tokens = special_tokens(checkpoint)
    end_of_turn = _end_of_turn(checkpoint, tokens)
    configured = config.raw("eos_token_id") if "eos_token_id" in config.data else config.raw("bos_token_id")
    eos_ids = _eos_ids(checkpoint, configured, tokens, end_of_turn)
    if not eos_ids:
        raise CheckpointError("config.json: eos_token_id is missing, expected the ids that end an answer")
    bos, pad = _named_id(checkpoint, "bos_token", tokens), config.optional_size("pad_token_id")
    return TextSpec(
        bos_id=config.optional_size("bos_token_id") if bos is None else bos,
        eos_ids=eos_ids,
        end_of_turn_id=end_of_turn,
        pad_id=eos_ids[0] if pad is None else pad,
        adds_bos=checkpoint.adds_bos,
        image_placeholder="<|image_{n}|>",
        audio_placeholder="<|audio_{n}|>",
        thinking=thinking,
        generation=generation_defaults(checkpoint),
    )


def generation_defaults(checkpoint: Checkpoint) -> dict[str, float] | None:
    """Return length and sampling options of ``generation_config.json``; None for missing ones.

    Without ``do_sample`` transformers takes the most probable token, whatever the other keys.

    Raises:
        CheckpointError: a value is not possible for sampling.
    """
    if checkpoint.text("generation_config.json") is None:
        return None
    given = checkpoint.json("generation_config.json")
    names = {"max_tokens": "max_new_tokens", "repetition_penalty": "repetition_penalty"}
    if given.get("do_sample") is True:
        names |= {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
        given = {"temperature": 1.0, **{key: value for key, value in given.items() if value is not None}}
    found = {ours: given[theirs] for ours, theirs in names.items() if given.get(theirs) is not None}
    for name, value in found.items():
        if (wrong := wrong_generation(name, value)) is not None:
            raise CheckpointError(f"generation_config.json: {names[name]} is {value!r:.60}, expected {wrong}")
    return found or None


def chat_template(checkpoint: Checkpoint) -> str:
    """Return the jinja source, from its own file or from tokenizer_config.json.

    Raises:
        CheckpointError: there is no template.
    """
    apart = checkpoint.text("chat_template.jinja")
    if apart is not None:
        return apart
    template = checkpoint.json("tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several named templates: the default one
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if not isinstance(template, str):
        raise CheckpointError(f"tokenizer_config.json: chat_template is {json.dumps(template)}, expected a template")
    return template


def _end_of_turn(checkpoint: Checkpoint, tokens: dict[str, int]) -> int | None:
    """Id of the token that ends every message; None where the tokenizer has none."""
    known = [mark for mark in ENDS_OF_TURN if mark in tokens]
    template = chat_template(checkpoint)
    used = [mark for mark in known if mark in template]
    return tokens[(used or known)[0]] if known else None


def _eos_ids(
    checkpoint: Checkpoint, configured: Any, tokens: dict[str, int], end_of_turn: int | None
) -> tuple[int, ...]:
    """Ids that end an answer; the tokenizer's own comes first, templates call that one ``eos_token``."""
    own = _named_id(checkpoint, "eos_token", tokens)
    ids = [*_ids(own), *_ids(_generation_eos(checkpoint)), *_ids(configured), *_ids(end_of_turn)]
    return tuple(dict.fromkeys(ids))


def _named_id(checkpoint: Checkpoint, name: str, tokens: dict[str, int]) -> int | None:
    """Id of the token with this role in tokenizer_config.json; None without one."""
    named = checkpoint.json("tokenizer_config.json").get(name)
    return tokens.get(str(named.get("content")) if isinstance(named, dict) else str(named))


def _generation_eos(checkpoint: Checkpoint) -> Any:
    if checkpoint.text("generation_config.json") is None:
        return None
    return checkpoint.json("generation_config.json").get("eos_token_id")


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) for i in ids):
        raise CheckpointError(f"config.json: eos_token_id is {value!r}, expected numbers")
    return ids


def special_tokens(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the ids of the tokenizer's added tokens by their text."""
    added = checkpoint.json("tokenizer.json").get("added_tokens", [])
    return {t["content"]: int(t["id"]) for t in added}
