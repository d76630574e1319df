"""The schema of bundle.json and the tables of docs/bundle.md, made from the dataclasses that read it.

``python -m tests.bundle_schema --write`` renews both; ``tests/runtime/test_bundle_schema.py`` compares them.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from palmtop.runtime.bundle import image_specs, manifest, processor_config, specs, states, targets

ROOT = Path(__file__).parent.parent
SCHEMA_FILE = ROOT / "runtime" / "bundle" / "bundle.schema.json"
PAGE = ROOT / "docs" / "bundle.md"
START, END = "<!-- fields: python -m tests.bundle_schema --write -->", "<!-- end of fields -->"
MODULES = (specs, image_specs, processor_config, states, targets)
SCALARS = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "Any": None}
KINDS = {"ImageSpec": ("DynamicHdSpec", "SlicesSpec"), "AudioSpec": ("LogMelSpec",)}


def make_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of bundle.json."""
    definitions: dict[str, Any] = {}
    whole = _object(manifest.Manifest, definitions)
    whole["properties"] = {"schema": {"const": manifest.SCHEMA}, **whole["properties"]}
    whole["required"] = ["schema", *whole["required"]]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "bundle.json of palmtop"}
    return {**head, **whole, "$defs": dict(sorted(definitions.items()))}


def make_tables(schema: dict[str, Any]) -> str:
    """A table of every object's fields."""
    found = []
    for name, spec in (("bundle.json", schema), *schema["$defs"].items()):
        found += [f"### {name}", "", spec.get("description", "The whole file."), ""]
        found += ["| field | type | limits | meaning |", "|---|---|---|---|"]
        for key, value in spec["properties"].items():
            found.append(f"| `{key}` | {_type(value)} | {_limits(value)} | {value.get('description', '')} |")
        found.append("")
    return "\n".join(found)


def _object(cls: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    about, attributes = _docstring(cls)
    properties = {}
    for each in fields(cls):
        value = _value(str(each.type), dict(each.metadata), definitions)
        properties[each.name] = value | ({"description": attributes[each.name]} if each.name in attributes else {})
    required = list(properties)
    result = {"type": "object", "additionalProperties": False, "required": required, "properties": properties}
    return {"description": about, **result}


def _value(annotation: str, metadata: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    kind = annotation.removesuffix(" | None")
    if kind != annotation:
        return {"anyOf": [_value(kind, metadata, definitions), {"type": "null"}]}
    if kind == "int | str":
        return {"anyOf": [_value(part, metadata, definitions) for part in ("int", "str")]}
    if kind.startswith("tuple["):
        kinds = kind[len("tuple[") : -1].split(", ")
        size = {} if kinds[-1] == "..." else {"minItems": len(kinds), "maxItems": len(kinds)}
        return {"type": "array", "items": _value(kinds[0], metadata, definitions), **size}
    if kind.startswith("dict[str, "):
        inner = kind[len("dict[str, ") : -1]
        return {"type": "object", "additionalProperties": _value(inner, metadata, definitions)}
    if len(KINDS.get(kind, ())) > 1:
        return {"anyOf": [_value(each, metadata, definitions) for each in KINDS[kind]]}
    if kind not in SCALARS:
        kind = KINDS.get(kind, (kind,))[0]
        cls = next(getattr(module, kind) for module in MODULES if hasattr(module, kind))
        if kind not in definitions:
            definitions[kind] = {}  # a place in the order of appearance
            definitions[kind] = _object(cls, definitions)
        return {"$ref": f"#/$defs/{kind}"}
    result: dict[str, Any] = {} if SCALARS[kind] is None else {"type": SCALARS[kind]}
    if "choices" in metadata and kind == "str":
        result["enum"] = list(metadata["choices"])
    if "limits" in metadata and kind in ("int", "float"):
        result["minimum"], result["maximum"] = metadata["limits"]
    return result


def _docstring(cls: Any) -> tuple[str, dict[str, str]]:
    """First sentence, and the text of each attribute."""
    text = cls.__doc__ or ""
    about = re.match(r"(.+?\.)(\s|$)", text, re.DOTALL)
    _, _, listed = text.partition("Attributes:\n")
    found = re.findall(r"^ {8}(\w+): (.+?)(?=^ {8}\w|^    \S|\Z)", listed + "\n", re.MULTILINE | re.DOTALL)
    clean = {name: " ".join(words.replace("``", "`").split()) for name, words in found}
    return " ".join((about[1] if about else text).replace("``", "`").split()), clean


def _type(value: dict[str, Any]) -> str:
    if "const" in value:
        return f"`{value['const']}`"
    if "anyOf" in value:
        return " or ".join(_type(part) for part in value["anyOf"])
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if value.get("type") == "array":
        return f"array of {_type(value['items'])}"
    if value.get("type") == "object":
        return f"object of {_type(value['additionalProperties'])}"
    return str(value.get("type", "any"))


def _limits(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return next((text for text in map(_limits, value["anyOf"]) if text), "")
    if value.get("type") == "array":
        inner = _limits(value["items"])
        count = f"{value['minItems']} items" if "minItems" in value else ""
        return ", ".join(part for part in (count, f"each {inner}" if inner else "") if part)
    if "enum" in value:
        return " or ".join(f"`{choice}`" for choice in value["enum"])
    return f"{value['minimum']} to {value['maximum']}" if "minimum" in value else ""


def schema_text() -> str:
    """What the schema's file holds."""
    return json.dumps(make_schema(), indent=1, ensure_ascii=False) + "\n"


def page_text() -> str:
    """The page with its tables renewed."""
    before, _, rest = PAGE.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{make_tables(make_schema())}\n{END}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True, help="renew the schema and the page's tables")
    parser.parse_args()
    SCHEMA_FILE.write_text(schema_text(), "utf-8")
    PAGE.write_text(page_text(), "utf-8")
