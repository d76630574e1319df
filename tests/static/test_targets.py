"""The manifest's targets: written when there are some, read back, refused when impossible; others stay as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palmtop.errors import BundleError
from palmtop.runtime.bundle.manifest import SCHEMA, FileSpec, Manifest
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.bundle.targets import RopeSpec, StaticRoute, StaticSpec, TargetSpec
from tests.runtime.toy import write_toy_bundle

ROPE = RopeSpec(theta=1e4, rotary_size=4, attention_factor=1.0, short_factor=(), long_factor=(1.0, 2.5))
STATIC = StaticSpec(
    context=64,
    chunk=16,
    masked=-100.0,
    window=None,
    rope=ROPE,
    embedding="embedding.onnx",
    routes=(
        StaticRoute(adapters={}, prefill="p.onnx", decode="d.onnx"),
        StaticRoute(adapters={"vision": 1.0}, prefill="pv.onnx", decode="dv.onnx"),
    ),
)
TARGET = TargetSpec(
    provider="openvino", soc=None, versions={"plugin": "1.8.1"}, decoder=STATIC, encoders={"vision": "v.onnx"}
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return open_bundle(write_toy_bundle(tmp_path_factory.mktemp("targets") / "toy")).manifest


@pytest.fixture
def manifest(toy: Manifest) -> Manifest:
    """The toy's, with a target and its files."""
    file = FileSpec(size_bytes=1, sha256="0" * 64)
    return replace(toy, targets=(TARGET,), files={**toy.files, **dict.fromkeys(TARGET.files, file)})


def as_json(manifest: Manifest) -> Any:
    return json.loads(json.dumps(manifest.to_dict()))


def test_targets_come_back_as_they_were_written(manifest: Manifest) -> None:
    assert as_json(manifest)["schema"] == SCHEMA
    assert Manifest.from_dict(as_json(manifest)) == manifest
    encoders_alone = replace(manifest, targets=(replace(TARGET, decoder=None),))
    assert Manifest.from_dict(as_json(encoders_alone)) == encoders_alone


def change(path: str, value: Any) -> Callable[[Any], None]:
    def apply(data: Any) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data[int(key) if key.isdigit() else key]
        data[int(last) if last.isdigit() else last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("targets.0", 3, r"targets\[0\] is 3, expected an object"),
        ("targets.0.provider", "../x", r"targets\[0\]\.provider is '\.\./x', expected the name of a provider"),
        ("targets.0.decoder.chunk", 1, r"targets\[0\]\.decoder\.chunk is 1, expected 2 to"),
        ("targets.0.decoder.masked", 1.0, r"decoder\.masked is 1\.0, expected"),
        ("targets.0.decoder.rope.long_factor", [1.0], r"rope\.long_factor is 1, expected 2 numbers"),
        ("targets.0.decoder.routes", [], r"decoder\.routes is empty or repeats"),
        ("targets.0.decoder.routes.1.adapters", {}, r"decoder\.routes is empty or repeats"),
        ("targets.0.decoder.routes.1.adapters", {"mine": 1.0}, r"a route's adapter is 'mine', expected one of"),
        ("targets.0.decoder.routes.1.decode", "gone.onnx", r"a graph's file is 'gone\.onnx', expected one of"),
        ("targets.0.encoders", {"smell": "v.onnx"}, r"encoders is 'smell', expected vision or audio"),
        ("targets.0.more", 1, r"targets\[0\]\.more is not a known key"),
    ],
)
def test_impossible_targets_are_refused(path: str, value: Any, message: str, manifest: Manifest) -> None:
    data = as_json(manifest)
    change(path, value)(data)
    with pytest.raises(BundleError, match=message):
        Manifest.from_dict(data)


def test_two_targets_of_one_provider_and_soc_are_refused(manifest: Manifest) -> None:
    data = as_json(replace(manifest, targets=(TARGET, TARGET)))
    with pytest.raises(BundleError, match="each provider and SoC once"):
        Manifest.from_dict(data)


def test_a_target_is_no_reason_for_a_bundle_to_miss_files(manifest: Manifest, tmp_path: Path) -> None:
    folder = write_toy_bundle(tmp_path / "toy")
    (folder / "bundle.json").write_text(json.dumps(manifest.to_dict()))
    with pytest.raises(BundleError, match=r"file 'v\.onnx' is missing"):
        open_bundle(folder)
