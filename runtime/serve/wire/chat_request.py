"""Body of ``POST /v1/chat/completions``, read as messages and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from palmtop.runtime.chat.routing import AdapterRequest
from palmtop.runtime.decoding.generation_options import MAX_TOP_LOGPROBS, GenerationOptions
from palmtop.runtime.decoding.grammar import Grammar
from palmtop.runtime.processor.chat_template import THINKING_SWITCHES

from .api_error import ApiError, refused
from .json_fields import Fields
from .messages import FetchImage, read_chat_messages
from .tools import ToolUse, read_tools

MAX_STOPS = 4
MAX_SEED = 2**63 - 1
MAX_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Request to a model.

    Attributes:
        model: name of the model, for ``Models.find``.
        messages: messages of the dialogue.
        options: generation options; without a grammar that tools force.
        tools: tools that the model may call.
        adapters: adapters in the request's own fields.
        client: the request's name for its user, in addition to the address.
        streams: whether the answer is streamed.
        wants_usage: whether a streamed answer ends with its usage.
        session: name that the request's header gives its session; None without one.
        echoed: fields of the request that its response repeats.
    """

    model: str
    messages: list[dict[str, Any]]
    options: GenerationOptions
    tools: ToolUse = field(default_factory=ToolUse)
    adapters: AdapterRequest | None = None
    client: str = ""
    streams: bool = False
    wants_usage: bool = False
    session: str | None = None
    echoed: Mapping[str, Any] = field(default_factory=dict)


def read_chat_request(body: Mapping[str, Any], timeout_s: float, fetch: FetchImage | None) -> Question:
    """Read and check a request.

    Args:
        body: body of the request.
        timeout_s: longest duration of any answer in seconds.
        fetch: as for ``read_chat_messages``.

    Raises:
        ApiError: a field has another shape, or is not offered by this server.
    """
    fields = Fields(body)
    model = read_model(fields)
    streams = fields.flag("stream")
    wants_usage = False
    if (stream := fields.nested("stream_options")) is not None:
        if not streams:
            raise ApiError(400, "stream_options: allowed only where stream is true", param="stream_options")
        wants_usage = stream.flag("include_usage")
        stream.pass_over("include_obfuscation")
        stream.done()
    tools = read_tools(fields)
    grammar = read_form(fields.nested("response_format"))
    if grammar is not None and tools.forced:
        raise ApiError(400, "response_format: stands beside a tool_choice that forces a call", param="response_format")
    logprobs = fields.whole("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if not fields.flag("logprobs"):
        if logprobs is not None:
            raise ApiError(400, "top_logprobs: allowed only where logprobs is true", param="top_logprobs")
    else:
        logprobs = logprobs or 0
    longest = [fields.whole(key, 1, MAX_TOKENS) for key in ("max_completion_tokens", "max_tokens")]
    options = read_options(fields, next((n for n in longest if n is not None), None), grammar, timeout_s)
    options = replace(options, top_logprobs=logprobs)
    question = Question(
        model=model,
        messages=read_chat_messages(fields.any("messages"), fetch),
        options=options,
        tools=tools,
        adapters=read_adapters(fields),
        client=read_client(fields),
        streams=streams,
        wants_usage=wants_usage,
    )
    fields.only("n", 1)
    for key in ("presence_penalty", "frequency_penalty"):
        fields.only(key, 0, 0.0)
    fields.only("logit_bias", {})
    fields.only("modalities", ["text"])
    fields.done()
    return question


def read_model(fields: Fields) -> str:
    """Return the model's name.

    Raises:
        ApiError: there is no name.
    """
    model = fields.text("model")
    if not model:
        raise refused("model", model, "the name of a model (GET /v1/models lists them)")
    return model


def read_client(fields: Fields) -> str:
    """Return the client's name; fields about storing and billing are ignored."""
    fields.pass_over("metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention")
    user = fields.text("user")
    return fields.text("safety_identifier") or user or ""


def read_adapters(fields: Fields) -> AdapterRequest | None:
    """Read palmtop's own fields ``adapters`` (name to weight) and ``route``.

    Raises:
        ApiError: a weight is not a number.
    """
    weights, route = fields.any("adapters"), fields.text("route")
    if weights is not None:
        if not isinstance(weights, dict):
            raise refused("adapters", weights, "an object of names and weights")
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise refused(f"adapters.{name:.40}", weight, "a number")
    return None if weights is None and route is None else AdapterRequest(weights, route)


def read_options(
    fields: Fields, max_tokens: int | None, grammar: Grammar | None, timeout_s: float
) -> GenerationOptions:
    """Read length, sampling, stop strings and seed.

    Raises:
        ApiError: a value is out of its range.
    """
    stop = fields.any("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise refused("stop", stop, f"a text that is not empty, or up to {MAX_STOPS} of them")
    seed = fields.whole("seed", -MAX_SEED - 1, MAX_SEED)
    top_p = fields.number("top_p", 0, 1)
    return GenerationOptions(
        max_tokens=max_tokens,
        temperature=fields.number("temperature", 0, 2),
        top_p=1e-9 if top_p == 0 else top_p,  # OpenAI accepts 0: the most probable token alone
        top_k=fields.whole("top_k", 0, MAX_TOKENS),
        min_p=fields.number("min_p", 0, 1),
        repetition_penalty=fields.number("repetition_penalty", 0.01, 100),
        seed=None if seed is None else seed & MAX_SEED,
        stop=tuple(stops),
        grammar=grammar,
        timeout_s=timeout_s,
        thinking=read_thinking(fields),
    )


def read_thinking(fields: Fields) -> bool | None:
    """Read ``chat_template_kwargs``: the template's switch for thinking, under either of its names.

    Raises:
        ApiError: the field has another shape, or other keys.
    """
    given = fields.nested("chat_template_kwargs")
    if given is None:
        return None
    found = {name: given.any(name) for name in THINKING_SWITCHES}
    given.done()
    for name, value in found.items():
        if value is not None and not isinstance(value, bool):
            raise refused(f"chat_template_kwargs.{name}", value, "true or false")
    return next((value for value in found.values() if value is not None), None)


def read_form(fields: Fields | None) -> Grammar | None:
    """Read ``response_format``: text, json_object, or json_schema.

    Raises:
        ApiError: the field has another shape.
    """
    if fields is None:
        return None
    kind = fields.word("type", "text", "json_object", "json_schema")
    if kind is None:
        raise refused(fields.name("type"), None, "text, json_object or json_schema")
    grammar = None
    if kind == "json_object":
        grammar = Grammar.json_schema({"type": "object"})
    elif kind == "json_schema":
        inner = fields.nested("json_schema")
        if inner is None:
            raise refused(fields.name("json_schema"), None, "an object with name and schema")
        grammar = read_schema(inner)
    fields.done()
    return grammar


def read_schema(fields: Fields) -> Grammar:
    """Read ``name``, ``schema``, ``strict`` and ``description``; the answer always follows the schema strictly.

    Raises:
        ApiError: the field has another shape.
    """
    if not fields.text("name"):
        raise refused(fields.name("name"), None, "a name")
    schema = fields.any("schema")
    if schema is not None and not isinstance(schema, dict):
        raise refused(fields.name("schema"), schema, "a JSON schema")
    fields.pass_over("strict", "description")
    fields.done()
    return Grammar.json_schema({"type": "object"} if schema is None else schema)
