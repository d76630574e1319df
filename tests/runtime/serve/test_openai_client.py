"""OpenAI's own client, unmodified, against the server: each answer is right only under its route's adapter."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import openai
import pytest
import soundfile

from tests.runtime.serve.live_server import AUDIO, TEXT, Running, asked, audio_part, image_part

ADD = {
    "name": "add",
    "description": "Adds two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/digit"}, "b": {"$ref": "#/$defs/digit"}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
    },
}
TOOLS: Any = [{"type": "function", "function": ADD}]


def test_a_text_question_is_answered(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="int4", messages=TEXT)
    assert completion.choices[0].message.content == "289"
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.object == "chat.completion" and completion.id.startswith("chatcmpl-")
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.model_extra is not None and completion.model_extra["palmtop"]["adapters"] == {}


def test_a_streamed_image_question_is_answered_under_the_vision_adapter(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="int4", messages=asked(image_part()), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "303"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert len({c.id for c in chunks}) == 1
    last = chunks[-1]
    assert last.choices == [] and last.usage is not None and last.usage.prompt_tokens > 0
    told = [c.model_extra["palmtop"] for c in chunks if c.model_extra and "palmtop" in c.model_extra]
    assert [t["adapters"] for t in told] == [{"vision": 1.0}]


def test_an_audio_question_is_answered_under_the_speech_adapter(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="int4", messages=asked(audio_part()))
    assert completion.choices[0].message.content == "753"
    assert completion.model_extra is not None and completion.model_extra["palmtop"]["adapters"] == {"speech": 1.0}


def test_requests_of_different_modes_do_not_share_an_adapter(client: openai.OpenAI) -> None:
    questions = [(asked(image_part()), "303"), (TEXT, "289"), (asked(audio_part()), "753")]
    for messages, expected in questions * 2:
        completion = client.chat.completions.create(model="int4", messages=messages)
        assert completion.choices[0].message.content == expected


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_read(client: openai.OpenAI, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "Add 2 and 3."}]
    choice: Any = {"type": "function", "function": {"name": "add"}}
    if stream:
        with client.chat.completions.stream(model="int4", messages=messages, tools=TOOLS, tool_choice=choice) as events:
            completion: Any = events.get_final_completion()
    else:
        completion = client.chat.completions.create(model="int4", messages=messages, tools=TOOLS, tool_choice=choice)
    answer = completion.choices[0]
    assert answer.finish_reason == "tool_calls"
    assert not answer.message.content
    (call,) = answer.message.tool_calls
    assert call.function.name == "add" and call.id.startswith("call_")
    assert set(json.loads(call.function.arguments)) == {"a", "b"}
    messages += [answer.message, {"role": "tool", "tool_call_id": call.id, "content": "5"}]
    followed = client.chat.completions.create(model="int4", messages=messages, tools=TOOLS)
    assert followed.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert (followed.usage is not None and completion.usage is None) or followed.usage.prompt_tokens > 20


@pytest.mark.parametrize(("parallel", "most"), [(False, 1), (True, 8)])
def test_a_required_call_is_one_of_the_tools(client: openai.OpenAI, parallel: bool, most: int) -> None:
    other: Any = {"type": "function", "function": {**ADD, "name": "multiply"}}
    completion = client.chat.completions.create(
        model="int4",
        messages=TEXT,
        tools=[*TOOLS, other],
        tool_choice="required",
        parallel_tool_calls=parallel,
        max_tokens=600,
    )
    calls: Any = completion.choices[0].message.tool_calls
    assert 1 <= len(calls) <= most
    assert {call.function.name for call in calls} <= {"add", "multiply"}


def test_a_forced_call_has_no_arguments_but_those_of_the_schema(client: openai.OpenAI) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}  # others are not forbidden
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    choice: Any = {"type": "function", "function": {"name": "f"}}
    completion = client.chat.completions.create(model="int4", messages=TEXT, tools=tools, tool_choice=choice)
    calls: Any = completion.choices[0].message.tool_calls
    assert set(json.loads(calls[0].function.arguments)) <= {"a"}


def test_no_tool_is_called_where_the_request_forbids_it(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="int4", messages=TEXT, tools=TOOLS, tool_choice="none")
    assert completion.choices[0].message.content == "289"


def test_an_answer_follows_a_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "maxLength": 8}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    completion = client.chat.completions.create(model="int4", messages=TEXT, response_format=form)
    assert set(json.loads(completion.choices[0].message.content or "")) == {"answer"}


def test_an_answer_is_a_json_object_where_that_is_asked_for(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="int4", messages=TEXT, response_format={"type": "json_object"}, max_tokens=300
    )
    text = completion.choices[0].message.content or ""
    assert text.startswith("{")
    assert completion.choices[0].finish_reason == "length" or isinstance(json.loads(text), dict)


@pytest.mark.parametrize("form", ["json", "verbose_json"])
def test_a_recording_is_written_down(client: openai.OpenAI, form: Any) -> None:
    result: Any = client.audio.transcriptions.create(
        model="int4", file=("a.wav", AUDIO), prompt="What is it?", response_format=form
    )
    assert result.text == "753"
    if form == "verbose_json":
        first = result.segments[0]
        assert first.start == 0 and first.end == pytest.approx(float(result.duration))
        assert -1 < first.avg_logprob < 0  # the mean of three tokens that the model is rather sure of
        assert 0 < first.compression_ratio < 1 and first.no_speech_prob == 0


@pytest.mark.parametrize(
    ("form", "expected"),
    [("text", "753\n"), ("srt", "1\n00:00:00,000 --> 00:00:0"), ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:0")],
)
def test_a_recording_becomes_subtitles(client: openai.OpenAI, form: Any, expected: str) -> None:
    text: Any = client.audio.transcriptions.create(
        model="int4", file=("a.wav", AUDIO), prompt="What is it?", response_format=form
    )
    assert text.startswith(expected) and "753" in text


def test_a_response_of_the_responses_api(client: openai.OpenAI) -> None:
    response = client.responses.create(model="int4", input="digits: two eight nine. What is it?")
    assert response.output_text == "289" and response.status == "completed"
    assert response.usage is not None and response.usage.output_tokens > 0


def test_a_response_repeats_what_was_asked_for(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "name": "one", "schema": schema}
    asked: dict[str, Any] = {"instructions": "digits", "metadata": {"run": "7"}, "text": {"format": form}}
    response = client.responses.create(model="int4", input="two eight nine", temperature=0.5, **asked)
    found = response.to_dict()
    assert {name: found[name] for name in asked} == asked
    assert (found["tool_choice"], found["temperature"], found["background"]) == ("auto", 0.5, False)
    assert (response._request_id or "").startswith("req_")
    plain = client.responses.create(model="int4", input="Hi", max_output_tokens=1).to_dict()
    assert (plain["instructions"], plain["metadata"], plain["text"]) == (None, {}, {"format": {"type": "text"}})


@pytest.mark.parametrize("streams", [False, True])
def test_a_response_that_is_cut_has_an_incomplete_message(client: openai.OpenAI, streams: bool) -> None:
    asked: Any = {"model": "int4", "input": "digits: two eight nine. What is it?", "max_output_tokens": 1}
    if streams:
        with client.responses.stream(**asked) as stream:
            events = list(stream)
            assert [e.item.status for e in events if e.type == "response.output_item.done"] == ["incomplete"]  # type: ignore
            response: Any = events[-1].response  # type: ignore
            assert events[-1].type == "response.incomplete"
    else:
        response = client.responses.create(**asked)
    assert response.status == response.output[0].status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    whole = client.responses.create(**{**asked, "max_output_tokens": 30})
    assert whole.status == whole.output[0].status == "completed"  # type: ignore[union-attr]


def test_a_response_is_streamed(client: openai.OpenAI) -> None:
    url = image_part()["image_url"]["url"]
    parts = [{"type": "input_image", "image_url": url, "detail": "auto"}, {"type": "input_text", "text": "What is it?"}]
    with client.responses.stream(model="int4", input=[{"role": "user", "content": parts}]) as stream:  # type: ignore
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert response.output_text == "303"
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"


def test_a_response_calls_a_tool_and_reads_its_result(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "strict": True, **ADD}]
    question: list[Any] = [{"role": "user", "content": "Add 2 and 3."}]
    response = client.responses.create(model="int4", input=question, tools=tools, tool_choice="required")
    call: Any = response.output[0]
    assert call.type == "function_call" and call.name == "add"
    question += [
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "5"},
    ]
    followed = client.responses.create(model="int4", input=question, tools=tools)
    assert followed.status in ("completed", "incomplete")


def test_stop_strings_and_length_end_an_answer(client: openai.OpenAI) -> None:
    stopped = client.chat.completions.create(model="int4", messages=TEXT, stop=["8"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("2", "stop")
    cut = client.chat.completions.create(model="int4", messages=TEXT, max_completion_tokens=1)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None and cut.usage.completion_tokens == 1


def test_equal_seeds_give_equal_answers(client: openai.OpenAI) -> None:
    def text(seed: int) -> str | None:
        sampled = client.chat.completions.create(model="int4", messages=TEXT, temperature=2, seed=seed, max_tokens=20)
        return sampled.choices[0].message.content

    assert text(5) == text(5)
    assert len({text(seed) for seed in range(4)}) > 1


def test_fields_about_storing_and_billing_change_nothing(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="int4",
        messages=TEXT,
        metadata={"purpose": "test"},
        store=True,
        service_tier="auto",
        prompt_cache_key="mine",
        safety_identifier="me",
    )
    assert completion.choices[0].message.content == "289"
    assert completion.model_extra is not None and "metadata" not in completion.model_extra


def test_models_are_listed_with_their_adapters_and_routes(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "int4"
    assert {"int4:vision", "int4:speech", "int4:text", "int4:image+audio"} <= set(names)
    assert all(client.models.retrieve(name).object == "model" for name in names)


def test_a_name_or_a_field_switches_adapters(client: openai.OpenAI) -> None:
    for options in ({"model": "int4:speech"}, {"model": "int4", "extra_body": {"adapters": {"speech": 1}}}):
        completion = client.chat.completions.create(messages=asked(image_part()), **options)  # type: ignore
        assert completion.model_extra is not None and completion.model_extra["palmtop"]["adapters"] == {"speech": 1.0}
        assert completion.choices[0].message.content != "303"


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    for name in ("gpt-4o", "int4:nothing", "int4:"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model=name, messages=TEXT)
        assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_a_stream_that_is_left_gives_its_turn_back(running: Running) -> None:
    with running.client() as client:
        for _ in range(3):
            stream = client.chat.completions.create(
                model="int4", messages=TEXT, stream=True, temperature=2, max_tokens=4000
            )
            next(iter(stream))
            stream.close()
            answer = client.chat.completions.create(model="int4", messages=TEXT)
            assert answer.choices[0].message.content == "289"
    running.wait_until_free()


def test_a_whole_answer_nobody_waits_for_gives_its_turn_back(running: Running) -> None:
    with running.client(timeout=0.3) as hasty, pytest.raises(openai.APITimeoutError):
        hasty.chat.completions.create(
            model="int4",
            messages=TEXT,
            max_tokens=7000,
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": LONG}},
        )
    running.wait_until_free()


LONG = {"type": "array", "items": {"type": "integer"}, "minItems": 3000}


def test_a_prompt_longer_than_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="int4", messages=asked(text="seven " * 9000))
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
def test_a_picture_that_is_none_is_refused_before_anything_is_sent(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="image"):
        client.chat.completions.create(model="int4", messages=asked(image_part(b"no picture")), stream=stream)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_those_of_the_tokens(client: openai.OpenAI, stream: bool) -> None:
    options: Any = {"model": "int4", "messages": TEXT, "logprobs": True, "top_logprobs": 3}
    if stream:
        chunks = list(client.chat.completions.create(**options, stream=True))
        tokens: Any = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content or []]
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
    else:
        completion = client.chat.completions.create(**options)
        tokens, text = completion.choices[0].logprobs.content, completion.choices[0].message.content
    assert "".join(token.token for token in tokens) == text == "289"
    for token in tokens:
        assert bytes(token.bytes).decode() == token.token
        best = [other.logprob for other in token.top_logprobs]
        assert best == sorted(best, reverse=True) and len(best) == 3
        assert best[0] == token.logprob <= 0  # always the likeliest token, at temperature 0
        assert sum(math.exp(p) for p in best) <= 1 + 1e-9


def test_no_log_probabilities_are_told_unasked(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="int4", messages=TEXT).choices[0].logprobs is None


def test_a_beginning_that_was_read_is_not_read_again_whoever_asks(running: Running) -> None:
    system: Any = {"role": "system", "content": "digits: two eight nine. " * 40}

    def ask(text: str, *parts: Any) -> Any:
        with running.client() as client:
            messages: Any = [system, *asked(*parts, text=text)]
            return client.chat.completions.create(model="int4", messages=messages, max_tokens=2).usage

    ask("What is it?")
    second = ask("Who is it?")
    assert second.prompt_tokens_details.cached_tokens > 0.9 * second.prompt_tokens
    ask("What is it?", image_part())
    second = ask("Who is it?", image_part())  # the picture comes before the question
    assert second.prompt_tokens_details.cached_tokens > 0.9 * second.prompt_tokens


def test_a_recording_longer_than_a_window_has_a_segment_for_each(client: openai.OpenAI) -> None:
    samples, rate = soundfile.read(io.BytesIO(AUDIO), dtype="int16")
    long = io.BytesIO()
    soundfile.write(long, np.tile(samples, 1 + 40 * rate // len(samples)), rate, format="WAV")
    result: Any = client.audio.transcriptions.create(
        model="int4", file=("long.wav", long.getvalue()), prompt="What is it?", response_format="verbose_json"
    )
    assert len(result.segments) == 2
    assert result.segments[0].end == result.segments[1].start <= 30
    assert result.segments[1].end == pytest.approx(float(result.duration), abs=0.01) and float(result.duration) > 40
