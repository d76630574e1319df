"""Ask a running ``palmtop serve`` with LangChain's ChatOpenAI and the ``llm`` command, unmodified, and check answers.

    pip install langchain-openai llm
    palmtop serve "$(palmtop demo --where)" &
    python docs/serve/python_check.py http://127.0.0.1:8080/v1

Exits with 1 at the first wrong answer. The answers are the packaged model's. ``llm`` gets a folder of its own with the
model in its file of OpenAI-compatible models.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from langchain_openai import ChatOpenAI

SAMPLES = Path(__file__).resolve().parents[2] / "runtime" / "reference" / "samples"
DIGITS = "digits: two eight nine. What is it?"


def main(address: str) -> None:
    """Ask with both; ``address`` ends with /v1."""
    with urllib.request.urlopen(f"{address}/models") as response:
        model = json.load(response)["data"][0]["id"]
    ask_langchain(address, model)
    ask_llm(address, model)
    print("every answer is right")


def ask_langchain(address: str, model: str) -> None:
    """Ask for a text, a streamed picture, a batch, a tool call and a structured answer."""
    chat = ChatOpenAI(base_url=address, api_key="none", model=model, max_retries=0)
    same(chat.invoke(DIGITS).content, "289")
    picture = base64.b64encode((SAMPLES / "image.png").read_bytes()).decode()
    parts: list[Any] = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": "What is it?"},
    ]
    same("".join(str(chunk.content) for chunk in chat.stream([("user", parts)])), "303")
    same([answer.content for answer in chat.batch([DIGITS, DIGITS])], ["289", "289"])

    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    called = chat.bind_tools([add], tool_choice="add").invoke(DIGITS).tool_calls
    assert called and all(call["name"] == "add" and set(call["args"]) == {"a", "b"} for call in called), called
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    # closed: the packaged model would add fields of its own until the context is full
    schema = {"title": "sum", "type": "object", "properties": {"a": digit}, "additionalProperties": False}
    schema["required"] = ["a"]
    formed = chat.with_structured_output(schema, method="json_schema").invoke(DIGITS)
    assert isinstance(formed, dict) and set(formed) == {"a"}, formed


def ask_llm(address: str, model: str) -> None:
    """Ask about a text, a picture and a sound."""
    with tempfile.TemporaryDirectory() as folder:
        entry = f"- model_id: mine\n  model_name: {model}\n  api_base: {address}\n  vision: true\n  audio: true\n"
        (Path(folder) / "extra-openai-models.yaml").write_text(entry)
        surroundings = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"}

        def ask(*arguments: str | Path) -> str:
            command = [sys.executable, "-m", "llm", "-m", "mine", *map(str, arguments)]
            return subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True).stdout.strip()

        same(ask(DIGITS), "289")
        same(ask("What is it?", "-a", SAMPLES / "image.png"), "303")
        same(ask("What is it?", "-a", SAMPLES / "audio.wav"), "753")


def same(found: object, expected: object) -> None:
    """Stop where an answer is wrong."""
    assert found == expected, f"found {found!r}, expected {expected!r}"


if __name__ == "__main__":
    main(sys.argv[1])
