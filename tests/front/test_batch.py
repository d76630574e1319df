"""``palmtop batch``: OpenAI's lines in and out, media by path, resumed after a kill, a shared beginning read once."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from docs import batch_on_ray
from palmtop.__main__ import cli
from palmtop.errors import InputError, MemoryPlanError
from palmtop.export.bundle.manifest_builder import write_manifest
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.chat.routing import choose
from palmtop.runtime.commands.batches.requests import Request, by_beginning, read_requests
from palmtop.runtime.commands.batches.runner import Runner
from palmtop.runtime.memory.plan import plan_memory
from palmtop.runtime.reference import samples_path
from palmtop.runtime.serve.models import Models
from palmtop.runtime.serve.wire.api_error import ApiError
from palmtop.runtime.session_options import SessionOptions
from palmtop.runtime.session_plan import plan_session

TASKS = {"words: 789. What is it?": "seven eight nine", "reverse: 1234. What is it?": "4321"}
SYSTEM = {"role": "system", "content": "digits: " + "one two three four five six seven eight nine " * 4}


def request(name: str, text: Any, *before: dict[str, Any], **body: Any) -> dict[str, Any]:
    messages = [*before, {"role": "user", "content": text}]
    url = "/v1/chat/completions"
    return {"custom_id": name, "method": "POST", "url": url, "body": {"messages": messages, **body}}


def write(path: Path, *requests: Any) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in requests))
    return path


def batch(source: Path, output: Path, *more: str) -> Result:
    return CliRunner().invoke(cli, ["batch", str(source), "-o", str(output), "--threads", "1", *more])


def read(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line["response"] for line in lines}


def text_of(response: dict[str, Any]) -> str:
    return str(response["body"]["choices"][0]["message"]["content"])


def test_requests_are_answered_in_openais_form(int4_bundle: Path, tmp_path: Path) -> None:
    shutil.copy(samples_path() / "image.png", tmp_path / "a picture.png")
    shutil.copy(samples_path() / "audio.wav", tmp_path / "sound.wav")
    question = {"type": "text", "text": "What is it?"}
    samples = {s["mode"]: s["expected"] for s in json.loads((samples_path() / "samples.json").read_text())}
    requests = [request(text, text, model="any-name", max_tokens=30) for text in TASKS]
    requests += [
        request("path", [{"type": "image", "image": "a picture.png"}, question]),
        request("url", [{"type": "image_url", "image_url": {"url": "a picture.png"}}, question]),
        request("file", [{"type": "image_url", "image_url": {"url": f"file://{tmp_path}/a%20picture.png"}}, question]),
        request("sound", [{"type": "audio", "audio": "sound.wav"}, question]),
        request("openai", [{"type": "input_audio", "input_audio": {"path": "sound.wav", "format": "wav"}}, question]),
    ]
    response = {"custom_id": "r", "url": "/v1/responses", "body": {"model": "m", "input": next(iter(TASKS))}}
    source = write(tmp_path / "in.jsonl", *requests, response)
    done = batch(source, tmp_path / "out.jsonl", "--model", str(int4_bundle), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"requests": 8, "answered_before": 0, "answered": 8, "refused": 0}
    answers = read(tmp_path / "out.jsonl")
    assert {name: text_of(answers[name]) for name in TASKS} == TASKS
    assert {text_of(answers[name]) for name in ("path", "url", "file")} == {samples["image"]}
    assert {text_of(answers[name]) for name in ("sound", "openai")} == {samples["audio"]}
    assert answers["r"]["body"]["output"][0]["content"][0]["text"] == next(iter(TASKS.values()))
    first = answers[next(iter(TASKS))]
    assert first["status_code"] == 200
    assert (first["body"]["object"], first["body"]["model"]) == ("chat.completion", "any-name")


def test_a_wrong_request_is_answered_with_its_error_and_the_others_go_on(int4_bundle: Path, tmp_path: Path) -> None:
    text = next(iter(TASKS))
    requests = [
        request("n", text, n=2),
        request("gone", [{"type": "image", "image": "gone.png"}]),
        request("streamed", text, stream=True),
        request("good", text, model=str(int4_bundle)),
        request("nowhere", text, model="no-such-bundle"),
        request("nameless", text),
    ]
    done = batch(write(tmp_path / "in.jsonl", *requests), tmp_path / "out.jsonl")
    assert done.exit_code == 1
    answers = read(tmp_path / "out.jsonl")
    assert {name: response["status_code"] for name, response in answers.items() if name != "nowhere"} == {
        **dict.fromkeys(("n", "gone", "streamed", "nameless"), 400),
        "good": 200,
    }
    assert answers["nowhere"]["status_code"] >= 400
    assert "gone.png" not in answers["good"]["body"]
    done = batch(
        write(tmp_path / "in2.jsonl", *requests[:3]), tmp_path / "out2.jsonl", "--model", str(int4_bundle), "--json"
    )
    answers = read(tmp_path / "out2.jsonl")
    assert answers["n"]["body"]["error"]["param"] == "n"
    assert "gone.png" in answers["gone"]["body"]["error"]["message"]
    assert answers["streamed"]["body"]["error"]["param"] == "stream"


def test_equal_beginnings_follow_one_another_and_are_read_once(int4_bundle: Path, tmp_path: Path) -> None:
    other = {"role": "system", "content": "reverse: " + "one two three " * 12}
    requests = [request(f"{n}", f"words: {n}. What is it?", (SYSTEM, other)[n % 2], max_tokens=3) for n in range(6)]
    source = write(tmp_path / "in.jsonl", *requests)
    assert [each.custom_id for each in by_beginning(read_requests(source))] == ["0", "2", "4", "1", "3", "5"]
    assert batch(source, tmp_path / "out.jsonl", "--model", str(int4_bundle)).exit_code == 0
    usage = {name: response["body"]["usage"] for name, response in read(tmp_path / "out.jsonl").items()}
    reused = [usage[str(n)]["prompt_tokens_details"]["cached_tokens"] for n in range(6)]
    assert all(count > 30 for count in reused[2:])
    assert reused[0] == 0


def test_workers_give_the_answers_of_one(int4_bundle: Path, tmp_path: Path) -> None:
    shutil.copy(samples_path() / "image.png", tmp_path / "a.png")
    shutil.copy(samples_path() / "audio.wav", tmp_path / "a.wav")
    media = ({"type": "image", "image": "a.png"}, {"type": "audio", "audio": "a.wav"})
    requests = [
        *(request(f"text {n}", f"words: {n * 37 % 900}. What is it?", SYSTEM, max_tokens=20) for n in range(8)),
        *(request(f"media {n}", [media[n % 2], {"type": "text", "text": "What is it?"}]) for n in range(4)),
        request("gone", [{"type": "image", "image": "gone.png"}]),
        request("elsewhere", "spell: melon. What is it?", model=str(tmp_path / "no-bundle")),
        *(request(f"seed {n}", "spell: melon. What is it?", temperature=1.5, seed=n, max_tokens=9) for n in range(4)),
    ]
    for each in requests:
        each["body"].setdefault("model", str(int4_bundle))
    source = write(tmp_path / "in.jsonl", *requests)
    done = [batch(source, tmp_path / f"{n}.jsonl", "--workers", str(n), "--context", "512") for n in (1, 3)]
    assert [each.exit_code for each in done] == [1, 1], done[1].output
    one, three = (read(tmp_path / f"{n}.jsonl") for n in (1, 3))
    assert one.keys() == three.keys() == {each["custom_id"] for each in requests}
    assert {name for name, answer in three.items() if answer["status_code"] != 200} == {"gone", "elsewhere"}
    for name in one.keys() - {"gone", "elsewhere"}:
        assert text_of(three[name]) == text_of(one[name]), name


def test_requests_are_answered_at_the_same_time(
    int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker waits in its first request until all of them have begun one."""
    together, answer = threading.Barrier(3, timeout=60), Runner.answer
    threads = set[int]()

    def waiting(self: Runner, one: Request, worker: int = 0) -> dict[str, Any]:
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            together.wait()
        return answer(self, one, worker)

    monkeypatch.setattr(Runner, "answer", waiting)
    requests = [request(str(n), f"words: {n}. What is it?", SYSTEM, max_tokens=9) for n in range(9)]
    source = write(tmp_path / "in.jsonl", *requests)
    done = batch(source, tmp_path / "out.jsonl", "--model", str(int4_bundle), "--workers", "3", "--context", "512")
    assert done.exit_code == 0, done.output
    usage = [each["body"]["usage"] for each in read(tmp_path / "out.jsonl").values()]
    cached = [each["prompt_tokens_details"]["cached_tokens"] for each in usage]
    assert sum(count < 30 for count in cached) <= 3  # a worker reads the beginning once


def test_workers_that_do_not_fit_into_memory_are_refused_before_anything_is_answered(
    int4_bundle: Path, tmp_path: Path
) -> None:
    source, output = write(tmp_path / "in.jsonl", request("a", "spell: melon. What is it?")), tmp_path / "out.jsonl"
    few = ("--model", str(int4_bundle), "--context", "4096", "--memory-limit", "300MB")
    refused = batch(source, output, *few, "--workers", "20")
    assert isinstance(refused.exception, MemoryPlanError)
    found = re.search(
        r"4096 tokens and 20 conversations at the same time needs .* a context of at most (\d+) tokens would fit, "
        r"or at most (\d+) conversations",
        str(refused.exception),
    )
    assert found is not None, str(refused.exception)
    assert output.read_bytes() == b""
    assert batch(source, output, *few, "--workers", str(int(found[2]) + 1)).exit_code != 0
    assert batch(source, output, *few, "--workers", found[2]).exit_code == 0
    for provider in ("openvino", "decoder=openvino"):
        refused = batch(source, output, "--workers", "2", "--provider", provider)
        assert "--workers: found 2 beside a decoder on openvino, expected 1 there" in str(refused.exception)


def test_workers_choose_a_context_that_fits_all_of_them(int4_bundle: Path) -> None:
    manifest = open_bundle(int4_bundle).manifest
    most = manifest.decoder.context_length
    limit = plan_memory(manifest, context=most, conversations=2).text
    plans = [plan_session(manifest, SessionOptions(memory_limit=limit, conversations=n)) for n in (1, 2, 4)]
    assert [plan.context for plan in plans[:2]] == [most, most]
    assert most / 3 < plans[2].context < most
    assert limit * 0.99 < plans[2].text <= limit


@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_killed_batch_answers_what_is_left(int4_bundle: Path, tmp_path: Path, workers: str) -> None:
    requests = [request(str(n), f"words: {100 + n}. What is it?", max_tokens=20) for n in range(40)]
    source, output = write(tmp_path / "in.jsonl", *requests), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "palmtop", "batch", str(source), "-o", str(output), "--model", str(int4_bundle)]
    command += ["--workers", workers, "--context", "512"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while (not output.exists() or output.read_bytes().count(b"\n") < 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    before = output.read_bytes()
    assert 2 <= before.count(b"\n") < 40
    with output.open("ab") as file:
        file.write(b'{"id": "batch_req_1", "cust')  # killed within a line
    done = batch(source, output, "--model", str(int4_bundle), "--json")
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert counts["answered_before"] == before.count(b"\n")
    assert counts["answered"] == 40 - before.count(b"\n")
    assert output.read_bytes().startswith(before)
    assert set(read(output)) == {str(n) for n in range(40)}
    assert json.loads(batch(source, output, "--model", str(int4_bundle), "--json").stdout)["answered"] == 0


def test_a_cluster_answers_the_same_lines(int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/batch_on_ray.py with the three calls of Ray Data that it makes; without Ray, which is large."""
    shutil.copy(samples_path() / "image.png", tmp_path / "a.png")
    picture = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]
    requests = [request("image", picture), *(request(text, text) for text in TASKS), request("n", "Hi", n=2)]
    source, output = write(tmp_path / "in.jsonl", *requests), tmp_path / "out.jsonl"
    assert batch(write(tmp_path / "one.jsonl", requests[0]), output, "--model", str(int4_bundle)).exit_code == 0

    class DataSet(list[dict[str, str]]):
        def map_batches(self, work: Any, *, fn_constructor_kwargs: Any, batch_size: int, **more: Any) -> DataSet:
            assert more == {"concurrency": 2, "num_cpus": 1}
            answerer, found = pickle.loads(pickle.dumps(work))(**fn_constructor_kwargs), DataSet()
            for start in range(0, len(self), batch_size):
                columns = {"request": [each["request"] for each in self[start : start + batch_size]]}
                found += [{"answer": answer} for answer in answerer(columns)["answer"]]
            return found

        def iter_rows(self) -> Iterator[dict[str, str]]:
            yield from self

    ray = types.SimpleNamespace(data=types.SimpleNamespace(from_items=DataSet))
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    monkeypatch.setattr(batch_on_ray, "BATCH", 2)
    command = ["batch_on_ray.py", str(source), str(output), "--model", str(int4_bundle), "--workers", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--threads", "1"])
    batch_on_ray.main()
    answers = read(output)
    assert {name: text_of(answers[name]) for name in TASKS} == TASKS
    assert text_of(answers["image"]) == "303" and answers["n"]["status_code"] == 400
    before = output.read_bytes()
    batch_on_ray.main()
    assert output.read_bytes() == before
    assert json.loads(batch(source, output, "--model", str(int4_bundle), "--json").stdout)["answered"] == 0


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("", "found no request"),
        ("{", "line 1: is not JSON"),
        ("[]", "line 1: found list, expected an object"),
        ('{"body": {}}', "line 1: found custom_id None"),
        (
            '{"custom_id": "a", "url": "/v1/embeddings", "body": {}}',
            "found POST /v1/embeddings, expected POST /v1/chat",
        ),
        ('{"custom_id": "a"}', "line 1: found no body"),
        (
            '{"custom_id": "a", "body": {}}\n\n{"custom_id": "a", "body": {}}',
            "line 3: the custom_id 'a' is that of line 1",
        ),
    ],
)
def test_a_line_of_another_shape_is_one_sentence(lines: str, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines)
    refused = batch(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert isinstance(refused.exception, InputError)
    assert wanted in str(refused.exception)
    assert not (tmp_path / "out.jsonl").exists()


def test_answers_to_other_requests_are_kept(int4_bundle: Path, tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", request("a", "spell: melon. What is it?")), tmp_path / "out.jsonl"
    assert batch(source, output, "--model", str(int4_bundle)).exit_code == 0
    before = output.read_bytes()
    write(source, request("a", "spell: lemon. What is it?"))
    refused = batch(source, output, "--model", str(int4_bundle))
    assert "the request 'a' of line 1 has changed since" in str(refused.exception)
    write(source, request("b", "spell: lemon. What is it?"))
    refused = batch(source, output, "--model", str(int4_bundle))
    assert "the request 'a' is not in the requests" in str(refused.exception)
    assert output.read_bytes() == before
    (tmp_path / "notes.txt").write_text("my notes\n")
    assert "is no answer of palmtop batch" in str(batch(source, tmp_path / "notes.txt").exception)


def test_a_name_behind_the_colon_is_chosen_as_by_the_server(int4_bundle: Path, tmp_path: Path) -> None:
    """The adapter is preferred to a route of the same name, in ``batch`` and in ``serve``."""
    copy = Path(shutil.copytree(int4_bundle, tmp_path / "both"))
    manifest = open_bundle(copy).manifest
    route = replace(manifest.routes["text"], adapters={"speech": 1.0})
    write_manifest(copy, replace(manifest, routes={**manifest.routes, "vision": route, "task": route}))
    text = next(iter(TASKS))
    names = {"adapter": ":vision", "route": ":task", "nobody": ":gone", "nothing": ":"}
    source = write(tmp_path / "in.jsonl", *(request(n, text, model=f"{copy}{part}") for n, part in names.items()))
    assert batch(source, tmp_path / "out.jsonl").exit_code == 1
    answers = read(tmp_path / "out.jsonl")
    found = {name: answers[name]["body"]["palmtop"]["adapters"] for name in ("adapter", "route")}
    assert found == {"adapter": {"vision": 1.0}, "route": {"speech": 1.0}}
    models = Models([copy], SessionOptions(), 1)
    for name in ("adapter", "route"):
        model, choice = models.find(f"both{names[name]}")
        assert choose(model.manifest, "text", choice).adapters == found[name]
    for name in ("nobody", "nothing"):
        assert answers[name]["status_code"] == 404
        assert "vision, speech, text, image" in answers[name]["body"]["error"]["message"]
        with pytest.raises(ApiError):
            models.find(f"both{names[name]}")
