"""The rule by which a request's adapters meet a route's, and routes that are data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.manifest import AdapterSpec, Manifest, Route
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.chat.routing import AdapterRequest, choose, parse_adapters


@pytest.fixture
def manifest(toy_bundle: Path) -> Manifest:
    """Two adapters of the checkpoint's, one that was added, and a route for a task."""
    found = open_bundle(toy_bundle).manifest
    mine = AdapterSpec(name="mine", rank=4, alpha=8.0, gate=2, base_sha256="0" * 64, combine="add")
    sorting = Route(adapters={"mine": 0.5, "vision": 1.0}, audio_projector="vision")
    return dataclasses.replace(found, adapters=(*found.adapters, mine), routes={**found.routes, "sorting": sorting})


@pytest.mark.parametrize(
    ("mode", "wanted", "gates"),
    [
        ("image", None, [1, 0, 0]),
        ("image", {}, [0, 0, 0]),
        ("image", {"mine": 0.5}, [1, 0, 0.5]),
        ("image", {"mine": 0.5, "vision": 0.75}, [0.75, 0, 0.5]),
        ("audio", {"mine": 1.0, "vision": 0.75}, [0.75, 0, 1]),
        ("audio", {"vision": 1.0}, [1, 0, 0]),
        ("text", {"mine": 1.0}, [0, 0, 1]),
        ("text", "sorting", [1, 0, 0.5]),
        ("text", AdapterRequest({"mine": 2.0}, "sorting"), [1, 0, 2]),
        ("text", AdapterRequest({"speech": 1.0}, "sorting"), [0, 1, 0]),
        ("text", AdapterRequest({}, "sorting"), [0, 0, 0]),
        ("text", "image", [1, 0, 0]),
    ],
)
def test_the_rule(manifest: Manifest, mode: str, wanted: Any, gates: list[float]) -> None:
    assert choose(manifest, mode, wanted).gates(manifest).tolist() == gates


def test_the_rule_is_the_manifests(manifest: Manifest) -> None:
    alone = tuple(dataclasses.replace(a, combine="replace") for a in manifest.adapters)
    together = tuple(dataclasses.replace(a, combine="add") for a in manifest.adapters)
    for adapters, gates in ((alone, [0, 0, 1]), (together, [1, 0, 1])):
        changed = dataclasses.replace(manifest, adapters=adapters)
        assert choose(changed, "image", {"mine": 1.0}).gates(changed).tolist() == gates


def test_a_task_brings_its_own_projector(manifest: Manifest) -> None:
    assert choose(manifest, "audio").audio_projector == "speech"
    assert choose(manifest, "audio", "sorting").audio_projector == "vision"


def test_unknown_routes_and_modes_without_encoders_are_refused(manifest: Manifest) -> None:
    with pytest.raises(InputError, match="route 'x' is not in this bundle, expected one of text, image"):
        choose(manifest, "text", "x")
    deaf = dataclasses.replace(manifest, audio=None)
    with pytest.raises(InputError, match="input is audio"):
        choose(deaf, "audio", "sorting")


def test_none_stands_alone() -> None:
    with pytest.raises(InputError, match="'none' stands beside others"):
        parse_adapters(("none", "vision"))


def test_tasks_survive_the_manifest(manifest: Manifest) -> None:
    again = Manifest.from_dict(json.loads(json.dumps(manifest.to_dict())))
    assert again == manifest
    assert again.tasks == ("sorting",)
    assert again.modes == ("text", "image", "audio", "image+audio")


@pytest.mark.parametrize("key", ["file", "combine", "merged_from"])
def test_every_key_of_an_adapter_must_be_there(toy_bundle: Path, key: str) -> None:
    data = json.loads((toy_bundle / "bundle.json").read_text())
    del data["adapters"][0][key]
    with pytest.raises(BundleError, match=rf"adapters\[0\]\.{key} is missing"):
        Manifest.from_dict(data)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "a/b", r"adapters\[0\]\.name is 'a/b'"),
        ("name", "none", r"adapters\[0\]\.name is 'none'"),
        ("combine", "sometimes", r"adapters\[0\]\.combine is 'sometimes'"),
        ("file", "adapters/x.bin", r"adapters\[0\]\.file is 'adapters/x.bin'"),
        ("merged_from", {"a": "b"}, r"adapters\[0\]\.merged_from\.a is 'b'"),
    ],
)
def test_impossible_adapters_are_refused(toy_bundle: Path, key: str, value: Any, message: str) -> None:
    data = json.loads((toy_bundle / "bundle.json").read_text())
    data["adapters"][0][key] = value
    data["routes"] = {"text": {"adapters": {}, "audio_projector": "speech"}}
    with pytest.raises(BundleError, match=message):
        Manifest.from_dict(data)
