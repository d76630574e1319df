"""The schema of bundle.json agrees with the dataclasses, the page and what the reader refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palmtop.errors import ManifestError
from palmtop.runtime.bundle.manifest import Manifest
from tests import bundle_schema
from tests.runtime.toy import write_toy_bundle

SCHEMA = json.loads(bundle_schema.SCHEMA_FILE.read_text("utf-8"))
Place = tuple[str | int, ...]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return json.loads((write_toy_bundle(tmp_path_factory.mktemp("schema") / "toy") / "bundle.json").read_text())


def test_the_schema_is_that_of_the_dataclasses() -> None:
    assert bundle_schema.SCHEMA_FILE.read_text("utf-8") == bundle_schema.schema_text(), (
        "python -m tests.bundle_schema --write"
    )


def test_every_field_of_the_schema_is_in_the_page() -> None:
    page = bundle_schema.PAGE.read_text("utf-8")
    assert page == bundle_schema.page_text(), "python -m tests.bundle_schema --write"
    for spec in (SCHEMA, *SCHEMA["$defs"].values()):
        for name, value in spec["properties"].items():
            assert f"| `{name}` |" in page
            assert "description" in value or name == "schema", name


def resolved(spec: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][spec["$ref"].rpartition("/")[2]] if "$ref" in spec else spec


def mutations(spec: dict[str, Any], data: Any, place: Place = ()) -> Iterator[tuple[Place, object, str]]:
    """(place, wrong value, code) of everything that the schema forbids of a manifest; ... stands for a missing key."""
    spec = resolved(spec)
    if "anyOf" in spec:
        spec = next(s for s in spec["anyOf"] if data is not None or s.get("type") == "null")
        spec = resolved(spec)
        if data is None:
            return
    kind = spec.get("type")
    wrong_types = {"object": 5, "array": 5, "string": 5, "integer": 1.5, "number": "1", "boolean": 1}
    if kind in wrong_types and place:
        yield place, wrong_types[kind], "type"
    if "minimum" in spec:
        yield place, spec["minimum"] - 1, "range"
        yield place, spec["maximum"] + 1, "range"
    if "enum" in spec:
        yield place, "none of them", "choice"
    if kind == "object" and "properties" in spec:
        yield (*place, "surplus"), 1, "unknown"
        for name in spec["required"]:
            if (*place, name) != ("schema",):
                yield (*place, name), ..., "missing"
                yield from mutations(spec["properties"][name], data[name], (*place, name))
    elif kind == "object":
        for name, value in data.items():
            yield from mutations(spec["additionalProperties"], value, (*place, name))
    elif kind == "array":
        if "minItems" in spec:
            yield place, data[1:], "type"
        for number, value in enumerate(data):
            yield from mutations(spec["items"], value, (*place, number))


def changed(data: Any, place: Place, value: object) -> Any:
    found = copy.deepcopy(data)
    there = found
    for step in place[:-1]:
        there = there[step]
    if value is ...:
        del there[place[-1]]
    else:
        there[place[-1]] = value
    return found


def written(place: Place) -> str:
    """As errors name it."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return text.removeprefix(".")


def test_what_the_schema_forbids_is_refused_with_its_code_and_path(good: Any) -> None:
    Manifest.from_dict(good)
    seen = set()
    for place, value, code in mutations(SCHEMA, good):
        with pytest.raises(ManifestError) as caught:
            Manifest.from_dict(changed(good, place, value))
        assert (caught.value.code, caught.value.path) == (code, written(place)), (place, value)
        seen.add((code, written(place)))
    assert len(seen) > 300
    assert {code for code, _ in seen} == {"type", "range", "choice", "unknown", "missing"}


def test_the_schema_is_shipped() -> None:
    import palmtop.runtime.bundle as room

    assert (Path(room.__file__).parent / "bundle.schema.json").is_file()
