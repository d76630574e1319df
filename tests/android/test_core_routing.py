"""The rule of routes and adapters: the phone as the Python runtime, in the same words."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from palmtop.errors import InputError
from palmtop.runtime.bundle.manifest import MODES, AdapterSpec, Manifest, Route
from palmtop.runtime.bundle.opening import open_bundle, sha256_of
from palmtop.runtime.chat.routing import AdapterRequest, choose
from palmtop.runtime.decoding.generation_options import GenerationOptions
from tests.android.jvm import Core, CoreError
from tests.android.test_core_bundle import place, same_words
from tests.runtime.toy import write_toy_bundle

ADDED_FILE = "adapters/mine.bin"


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of more: an adapter that was added, with its file, one that was merged, and a route for a task."""
    folder = write_toy_bundle(tmp_path_factory.mktemp("bundles") / "newer")
    (folder / "adapters").mkdir()
    (folder / ADDED_FILE).write_bytes(b"weights")
    data = json.loads((folder / "bundle.json").read_text())
    data["files"][ADDED_FILE] = {"size_bytes": 7, "sha256": sha256_of(folder / ADDED_FILE)}
    found = Manifest.from_dict(data)
    sizes: dict[str, Any] = {"rank": 4, "alpha": 8.0, "base_sha256": "0" * 64, "combine": "add"}
    mine = AdapterSpec(name="mine", gate=2, file=ADDED_FILE, **sizes)
    blend = AdapterSpec(name="blend", gate=3, merged_from={"mine": 0.5, "vision": -1}, **sizes)
    sorting = Route(adapters={"mine": 0.5, "vision": 1.0}, audio_projector="vision")
    adapters, routes = (*found.adapters, mine, blend), {**found.routes, "sorting": sorting}
    manifest = dataclasses.replace(found, adapters=adapters, routes=routes)
    (folder / "bundle.json").write_text(json.dumps(manifest.to_dict()))
    return folder


@pytest.fixture
def bundle(newer: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(newer, tmp_path / "toy"))


def test_added_adapters_are_opened(core: Core, newer: Path) -> None:
    assert core.ask("open", folder=str(newer), hashes=True) == open_bundle(newer).size_bytes


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("adapters.0.file", ...),
        ("processor.text.thinking", ...),
        ("processor.text.generation", ...),
        ("adapters.2.combine", ...),
        ("adapters.2.combine", "multiply"),
        ("adapters.2.combine", None),
        ("adapters.2.merged_from", ...),
        ("adapters.2.merged_from", []),
        ("adapters.3.merged_from", {"mine": "1"}),
        ("adapters.2.file", 5),
        ("adapters.2.file", "adapters/other.bin"),
        ("adapters.2.surplus", None),
        ("adapters.2.name", "none"),
        ("adapters.2.name", "a b"),
        ("adapters.2.name", "mine\n"),
        ("adapters.2.name", "é"),
        ("adapters.2.name", "x" * 65),
        ("adapters.2", []),
        ("routes.none", {"adapters": {}, "audio_projector": "speech"}),
        ("routes.a b", {"adapters": {}, "audio_projector": "speech"}),
        ("routes.+a", {"adapters": {}, "audio_projector": "speech"}),
        ("routes.x\n", {"adapters": {}, "audio_projector": "speech"}),
        ("routes.sorting", {"adapters": {"nobody": 1.0}, "audio_projector": "speech"}),
        ("routes.sorting.audio_projector", "other"),
        ("processor.text.thinking", ["<think>", ""]),
        ("processor.text.thinking", ["<think>"]),
        ("processor.text.thinking", "<think>"),
    ],
)
def test_wrong_manifests_are_refused_in_the_same_words(core: Core, bundle: Path, where: str, value: object) -> None:
    data = json.loads((bundle / "bundle.json").read_text())
    place(data, where, value)
    (bundle / "bundle.json").write_text(json.dumps(data))
    same_words(core, bundle)


def without_audio(manifest: Manifest) -> Manifest:
    routes = {name: route for name, route in manifest.routes.items() if "audio" not in name}
    return dataclasses.replace(manifest, audio=None, routes=routes)


REQUESTS = [
    AdapterRequest(),
    AdapterRequest({}),
    AdapterRequest({"mine": 0.5}),
    AdapterRequest({"mine": 0.5, "vision": 0.75}),
    AdapterRequest({"blend": -2.0, "mine": 0.0}),
    AdapterRequest({"vision": 1.0}),
    AdapterRequest(route="sorting"),
    AdapterRequest(route="image"),
    AdapterRequest(route=""),
    AdapterRequest({"mine": 2.0}, "sorting"),
    AdapterRequest({"speech": 1.0}, "sorting"),
    AdapterRequest({}, "sorting"),
    AdapterRequest({"nobody": 1.0}),
    AdapterRequest({"mine": 1e39}),
    AdapterRequest(route="nowhere"),
    AdapterRequest({"nobody": 1.0}, "nowhere"),
]
MANIFESTS = {
    "as written": lambda manifest: manifest,
    "all replace": lambda manifest: dataclasses.replace(
        manifest, adapters=tuple(dataclasses.replace(a, combine="replace") for a in manifest.adapters)
    ),
    "all add": lambda manifest: dataclasses.replace(
        manifest, adapters=tuple(dataclasses.replace(a, combine="add") for a in manifest.adapters)
    ),
    "merged": lambda manifest: dataclasses.replace(manifest, adapter_mode="merged"),
    "no audio": without_audio,
    "no routes": lambda manifest: dataclasses.replace(manifest, routes={}),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_rule_is_that_of_the_python_runtime(core: Core, newer: Path, name: str) -> None:
    manifest = MANIFESTS[name](open_bundle(newer).manifest)
    answers = set()
    for mode in MODES:
        for request in REQUESTS:
            asked = {"manifest": manifest.to_dict(), "mode": mode, "route": request.route}
            if request.adapters is not None:
                asked["adapters"] = request.adapters
            try:
                choice = choose(manifest, mode, request)
            except InputError as error:
                with pytest.raises(CoreError) as caught:
                    core.ask("choose", **asked)
                assert (caught.value.kind, caught.value.message) == ("INPUT", str(error))
                answers.add(str(error))
                continue
            expected = [choice.gates(manifest).tolist(), choice.audio_projector, choice.adapters]
            assert core.ask("choose", **asked) == expected
            answers.add(str(expected))
    assert len(answers) >= 3


@pytest.mark.parametrize("thinking", [None, ["<think>", "</think>"]])
@pytest.mark.parametrize(
    "own",
    [
        None,
        {"temperature": 0.6, "top_p": 0.95},
        {"max_tokens": 40, "temperature": 1.0, "top_k": 20, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.25},
    ],
)
@pytest.mark.parametrize("given", [{}, {"temperature": 0.0, "max_tokens": 7}, {"top_k": 0, "top_p": 1.0}])
def test_length_and_sampling_are_chosen_by_the_same_rule(
    core: Core, bundle: Path, given: dict[str, Any], own: dict[str, float] | None, thinking: list[str] | None
) -> None:
    """What a request leaves open the bundle says, and where it is silent the default."""
    data = json.loads((bundle / "bundle.json").read_text())
    data["processor"]["text"] |= {"generation": own, "thinking": thinking}
    (bundle / "bundle.json").write_text(json.dumps(data))
    text = open_bundle(bundle).manifest.processor.text
    wanted = GenerationOptions(**given).resolved(text.generation)
    names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    assert core.ask("resolved", folder=str(bundle), **given) == [getattr(wanted, name) for name in names]
