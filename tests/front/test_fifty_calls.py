"""Fifty calls as users of transformers, mlx-lm and OpenAI write them: 45 work as written, 5 name the right way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

import palmtop
from palmtop.runtime.reference import samples_path

TASK = "words: 789. What is it?"
CALLS = [
    # a question, as in mlx-lm and llama-cpp-python
    'assert session.chat("words: 789. What is it?").text == "seven eight nine"',
    "assert session.answer(TASK).text == ANSWER",
    "assert str(session.answer(TASK)) == ANSWER",
    'assert "".join(piece.text for piece in session.chat(TASK)) == ANSWER',
    'assert "".join(map(str, session.chat(TASK, stream=True))) == ANSWER',
    "assert session.chat(TASK, max_tokens=1).result().usage.completion_tokens == 1",
    "assert session.answer(TASK, max_new_tokens=2, do_sample=False).usage.completion_tokens == 2",
    "assert session.answer(TASK, max_completion_tokens=3).usage.completion_tokens == 3",
    "assert session.answer(TASK, temperature=0).text == ANSWER",
    "assert session.answer(TASK, temp=0.0).text == ANSWER",
    "assert session.answer(TASK, temperature=0.7, top_p=0.9, top_k=50, min_p=0.05, seed=42).text",
    "assert session.answer(TASK, do_sample=True, temperature=0.5, repetition_penalty=1.1, seed=0).text",
    "assert session.answer(TASK, stop='n').text == 'seve'",
    "assert session.answer(TASK, stop=['v', 'x']).text == 'se'",
    "assert session.answer(TASK, stop_strings=['e']).text == 's'",
    "assert session.answer(TASK, timeout=60).text == ANSWER",
    # messages, as in OpenAI's client and in transformers' chat templates
    "assert session.answer([{'role': 'user', 'content': TASK}]).text == ANSWER",
    "assert session.answer(messages=[{'role': 'user', 'content': TASK}], n=1, presence_penalty=0).text == ANSWER",
    "assert session.answer({'role': 'user', 'content': TASK}).text == ANSWER",
    "assert session.answer([{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': TASK}]).text",
    "assert session.answer(TASK, system='Be brief.').text",
    "assert session.answer([{'role': 'user', 'content': [{'type': 'text', 'text': TASK}]}]).text == ANSWER",
    "assert session.answer(TASK, max_tokens=1).finish_reason == 'length'",
    "assert session.answer(TASK).finish_reason == 'stop'",
    "assert session.answer(TASK, logprobs=True, top_logprobs=3).logprobs[0].top[0].logprob <= 0",
    "assert session.answer(TASK, logprobs=True).logprobs[0].text.strip()",
    "assert session.answer([*ask(TASK), {'role': 'assistant', 'content': 'seven eight'}]).text == ' nine'",
    "messages = ask(TASK); messages.append(session.answer(messages).message); assert len(messages) == 2",
    "form = {'type': 'json_schema', 'json_schema': {'name': 'n', 'schema': {'type': 'integer'}}}\n"
    "assert isinstance(json.loads(session.answer(TASK, response_format=form).text), int)",
    "assert session.answer(TASK, grammar=palmtop.Grammar.regex('[a-z ]+')).text == ANSWER",
    "assert session.count_tokens(TASK) == session.answer(TASK).usage.prompt_tokens",
    # pictures and sounds, as in transformers' processors, data sets and pipelines
    "assert session.chat(IMAGE_TEXT, image='image.png').text == IMAGE_ANSWER",
    "assert session.chat(IMAGE_TEXT, image=Path('image.png')).text == IMAGE_ANSWER",
    "assert session.chat(IMAGE_TEXT, image=Image.open('image.png')).text == IMAGE_ANSWER",
    "assert session.chat(IMAGE_TEXT, image=[np.asarray(Image.open('image.png').convert('RGB'))]).text == IMAGE_ANSWER",
    "assert session.chat(IMAGE_TEXT, image=open('image.png', 'rb').read()).text == IMAGE_ANSWER",
    "assert session.chat([Image.open('image.png'), IMAGE_TEXT]).text == IMAGE_ANSWER",
    "assert session.chat([{'role': 'user', 'content': [{'type': 'image', 'image': Image.open('image.png')},"
    " {'type': 'text', 'text': IMAGE_TEXT}]}]).text == IMAGE_ANSWER",
    "samples, rate = soundfile.read('audio.wav');"
    " assert session.chat(AUDIO_TEXT, audio=(samples, rate)).text == AUDIO_ANSWER",
    "samples, rate = soundfile.read('audio.wav');"
    " assert session.chat(AUDIO_TEXT, audio={'array': samples, 'sampling_rate': rate}).text == AUDIO_ANSWER",
    "assert session.chat(AUDIO_TEXT, audio='audio.wav').text == AUDIO_ANSWER",
    # asynchronous use, dialogues and errors
    "import asyncio\nasync def main(): return await session.chat(TASK)\nassert asyncio.run(main()).text == ANSWER",
    "import asyncio\nasync def main(): return ''.join([p.text async for p in session.chat(TASK)])\n"
    "assert asyncio.run(main()) == ANSWER",
    "with session.conversation() as chat:\n    assert chat.chat(TASK, max_tokens=20).text == ANSWER\n"
    "    assert len(chat.messages) == 2",
    "try: session.chat('')\nexcept palmtop.InputError: pass",
    # what is not offered, or has another name here
    "session.generate(TASK, max_new_tokens=20)",
    "session.answer(TASK, n=2)",
    "session.answer(TASK, logit_bias={50256: -100})",
    "palmtop.load(bundle, device_map='auto')",
    "palmtop.pipeline('text-generation', model=bundle)",
]
REFUSED = {
    45: "session.chat(",
    46: "retry()",
    47: "grammar=",
    48: "provider=",
    49: "palmtop.load(",
}


@pytest.fixture(scope="module")
def names(int4_bundle: Path) -> Iterator[dict[str, Any]]:
    folder = samples_path()
    samples = {sample["mode"]: sample for sample in json.loads((folder / "samples.json").read_text())}
    image, audio = samples["image"], samples["audio"]
    with palmtop.load(int4_bundle, threads=1) as session:
        yield {
            "session": session,
            "bundle": int4_bundle,
            "palmtop": palmtop,
            "json": json,
            "np": np,
            "Path": Path,
            "Image": Image,
            "soundfile": soundfile,
            "TASK": TASK,
            "ANSWER": "seven eight nine",
            "IMAGE_TEXT": image["text"],
            "IMAGE_ANSWER": image["expected"],
            "AUDIO_TEXT": audio["text"],
            "AUDIO_ANSWER": audio["expected"],
            "ask": lambda text: [{"role": "user", "content": text}],
        }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a user has a picture and a recording."""
    samples = {sample["mode"]: sample for sample in json.loads((samples_path() / "samples.json").read_text())}
    (tmp_path / "image.png").write_bytes((samples_path() / samples["image"]["image"]).read_bytes())
    (tmp_path / "audio.wav").write_bytes((samples_path() / samples["audio"]["audio"]).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_fifty() -> None:
    assert len(CALLS) == len(set(CALLS)) == 50
    assert len(REFUSED) <= 5


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # open(...).read(), as people write it
@pytest.mark.parametrize("number", range(50), ids=lambda number: CALLS[number][:60])
def test_a_call_works_as_written_or_names_the_right_way(number: int, names: dict[str, Any], folder: Path) -> None:
    if number not in REFUSED:
        exec(CALLS[number], dict(names))
        return
    with pytest.raises((palmtop.PalmtopError, AttributeError)) as refusal:
        exec(CALLS[number], dict(names))
    assert REFUSED[number] in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_names_of_the_package_are_the_public_ones() -> None:
    names = dir(palmtop)
    assert [name for name in names if name.startswith("_")] == ["__version__"]
    assert {"PalmtopError", "InputError", "Session", "Reply", "load", "transcribe"} <= set(names)
    assert all(getattr(palmtop, name) is not None for name in names)
    errors = {name for name, value in vars(palmtop.errors).items() if isinstance(value, type)}
    assert {name for name in errors if name.endswith("Error")} <= set(names)


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"max_tokens": 5, "max_new_tokens": 6}, "max_new_tokens: max_tokens is given under two names"),
        ({"do_sample": False, "temperature": 0.7}, "do_sample: False stands beside temperature=0.7"),
        ({"do_sample": True}, "do_sample: True stands beside temperature=None"),
        ({"maxtokens": 5}, "maxtokens: is unknown, expected max_tokens"),
        ({"presence_penalty": 0.5}, "repetition_penalty"),
        ({"logprobs": 5}, "top_logprobs"),
        ({"num_beams": 4}, "num_beams: found 4; beam search"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tools": "add"}, "tools: found text"),
        ({"system": 3}, "system: found a number"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(keywords: dict[str, Any], named: str, names: dict[str, Any]) -> None:
    with pytest.raises(palmtop.InputError) as refusal:
        names["session"].answer(TASK, **keywords)
    assert named in str(refusal.value)
