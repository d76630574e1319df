"""Keywords of a call, also by the names of transformers, mlx-lm and OpenAI's client, as generation options."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypedDict

from palmtop.errors import InputError, OptionError
from palmtop.runtime.bundle.option_checks import wrong
from palmtop.runtime.decoding.generation_options import GenerationOptions, OverflowRule
from palmtop.runtime.decoding.grammar import Grammar


class ChatOptions(TypedDict, total=False):
    """Keywords of ``chat`` and ``answer``: the fields of ``GenerationOptions``, and other libraries' names for them.

    ``max_new_tokens`` and ``max_completion_tokens`` are ``max_tokens``, ``temp`` is ``temperature``, ``stop_strings``
    is ``stop``, ``timeout`` is ``timeout_s``, ``enable_thinking`` is ``thinking``. ``logprobs=True`` reports each
    token's log-probability, ``do_sample=False`` is ``temperature=0``, and ``response_format`` is OpenAI's, or a
    pydantic model.
    """

    max_tokens: int | None
    max_new_tokens: int | None
    max_completion_tokens: int | None
    temperature: float | None
    temp: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_strings: str | Sequence[str] | None
    grammar: Grammar | None
    response_format: Any
    timeout_s: float | None
    timeout: float | None
    on_overflow: OverflowRule
    speculate: bool | None
    thinking: bool | None
    enable_thinking: bool | None
    logprobs: bool | None
    top_logprobs: int | None
    do_sample: bool | None
    stream: bool | None


OTHER_NAMES = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "temp": "temperature",
    "stop_strings": "stop",
    "timeout": "timeout_s",
    "enable_thinking": "thinking",
}
_NAMES = {field.name for field in fields(GenerationOptions)}
_HARMLESS: dict[str, tuple[Any, ...]] = {  # values that ask for what happens anyway
    "n": (1,),
    "num_return_sequences": (1,),
    "num_beams": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tool_choice": ("auto",),
    "use_cache": (True,),
    "skip_special_tokens": (True,),
}
_INSTEAD = {
    "n": "one answer a call, expected 1; retry() or another seed gives another one",
    "num_return_sequences": "one answer a call, expected 1; retry() or another seed gives another one",
    "num_beams": "beam search is not offered, expected 1",
    "presence_penalty": "is not offered, expected 0, or repetition_penalty=1.1",
    "frequency_penalty": "is not offered, expected 0, or repetition_penalty=1.1",
    "logit_bias": "is not offered, expected grammar=Grammar.regex(...) for answers of a form",
    "tool_choice": "is not offered, expected 'auto', or grammar=Grammar.json_schema(...) for the form of a call",
    "use_cache": "the KV cache is always used, expected True",
    "skip_special_tokens": "is always done, expected True; token_ids of the reply have all tokens",
    "model": "a session has one model, expected another palmtop.load(...), or adapters={'NAME': 1.0}",
    "prompt": "expected the text as the first argument: chat('...')",
    "inputs": "expected the text as the first argument: chat('...')",
    "input_ids": "expected text or messages as the first argument: chat('...')",
    "images": "expected image=..., one picture or a list of them",
    "audios": "expected audio=..., one sound or a list of them",
    "videos": "is not offered, expected image=[frame, ...]",
    "adapter": "expected adapters={'NAME': 1.0}, or the name of a route",
    "lora": "expected adapters={'NAME': 1.0}, or the name of a route",
    "streamer": "expected a loop over the pieces: for piece in session.chat(...)",
    "stopping_criteria": "expected stop=('...',), max_tokens or timeout_s",
    "logits_processor": "expected grammar=Grammar.regex(...), temperature, top_p, top_k or min_p",
    "generation_config": "expected options=GenerationOptions(...), or its fields as keywords",
    "sampler": "expected temperature, top_p, top_k or min_p",
    "verbose": "expected print(reply.usage) for counts and times",
    "schema": "expected grammar=Grammar.json_schema(...) or response_format=...",
    "regex": "expected grammar=Grammar.regex(...)",
}


def call_options(options: GenerationOptions, keywords: Mapping[str, Any]) -> GenerationOptions:
    """Return generation options with those of a call's keywords put in their place.

    Args:
        options: options that the keywords change.
        keywords: keywords of the call (``ChatOptions``).

    Raises:
        InputError: ``options`` is something else.
        OptionError: a keyword is unknown, given twice under two names, or has a value out of its range.

    >>> call_options(GenerationOptions(), {"max_new_tokens": 5, "stop": "."}).stop
    ('.',)
    """
    if not isinstance(options, GenerationOptions):
        raise InputError(f"options: found {type(options).__name__}, expected GenerationOptions")
    found: dict[str, Any] = {}
    for keyword, value in keywords.items():
        name = OTHER_NAMES.get(keyword, keyword)
        if name in _NAMES:
            if found.get(name) is not None and value is not None:
                raise OptionError(keyword, f"{name} is given under two names, expected one")
            if value is not None or name not in found:
                found[name] = value
        elif keyword not in ("logprobs", "do_sample", "stream", "response_format"):
            _check_other(keyword, value)
    _add_flags(found, keywords)
    if isinstance(found.get("stop"), str):
        found["stop"] = (found["stop"],)
    given = {name: value for name, value in found.items() if value is not None or name not in ("stop", "on_overflow")}
    return replace(options, **given) if given else options


def _add_flags(found: dict[str, Any], keywords: Mapping[str, Any]) -> None:
    """Put logprobs, do_sample and response_format into options."""
    for name in ("logprobs", "do_sample", "stream"):
        if not isinstance(keywords.get(name), (bool, type(None))):
            raise wrong(name, keywords[name], "True or False; top_logprobs is a number of tokens")
    if keywords.get("logprobs"):
        found["top_logprobs"] = found.get("top_logprobs") or 0
    elif keywords.get("logprobs") is False and found.get("top_logprobs") is not None:
        raise OptionError("top_logprobs", "stands beside logprobs=False, expected one of them")
    samples, temperature = keywords.get("do_sample"), found.get("temperature")
    if samples is False:
        if temperature:
            raise OptionError("do_sample", f"False stands beside temperature={temperature}, expected one of them")
        found["temperature"] = 0.0
    elif samples and not temperature:
        raise OptionError("do_sample", f"True stands beside temperature={temperature}, expected one above 0")
    if keywords.get("response_format") is not None:
        if found.get("grammar") is not None:
            raise OptionError("response_format", "stands beside grammar, expected one of them")
        found["grammar"] = grammar_of(keywords["response_format"])


def grammar_of(form: Any) -> Grammar | None:
    """Return the grammar of OpenAI's ``response_format``, or of a pydantic model; None for plain text.

    Raises:
        OptionError: the value has another shape.
    """
    schema = getattr(form, "model_json_schema", None)
    if callable(schema):
        return Grammar.json_schema(schema())
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return Grammar.json_schema({"type": "object"})
    inner = form.get("json_schema") if kind == "json_schema" else None
    if isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
        return Grammar.json_schema(inner["schema"])
    raise wrong(
        "response_format", form, "{'type': 'json_schema', 'json_schema': {'schema': {...}}} or a pydantic model"
    )


def _check_other(keyword: str, value: Any) -> None:
    """Pass over a keyword of another library whose value changes nothing; refuse others."""
    if keyword in _HARMLESS and (value is None or value in _HARMLESS[keyword]):
        return
    if keyword in _INSTEAD:
        raise OptionError(keyword, f"found {value!r:.60}; {_INSTEAD[keyword]}")
    known = sorted((_NAMES | set(ChatOptions.__annotations__)) - {"options"})
    near = difflib.get_close_matches(keyword, known, 1)
    guess = f"{near[0]}, or " if near else ""
    raise OptionError(keyword, f"is unknown, expected {guess}one of {', '.join(sorted(_NAMES))}")
