"""The manifest of a bundle, ``bundle.json``, as typed values.

This file is the contract between the exporter, the Python runtime and the Android app. It computes nothing and opens no
file; ``opening.py`` does that. A change of meaning raises ``SCHEMA``.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from palmtop.errors import BundleVersionError, ManifestError

from .json_fields import MANIFEST_FILE, check_keys, read_flat, refuse
from .processor_config import ProcessorSpec
from .specs import (
    COMBINE,
    MAX_DRAFT_ROWS,
    AdapterSpec,
    DecoderSpec,
    EncoderSpec,
    FileSpec,
    PartSpec,
    Route,
)
from .states import StateSpec, check_states
from .targets import TargetSpec, read_target

__all__ = [
    "COMBINE",
    "DRAFT_LOGITS",
    "MANIFEST_FILE",
    "MAX_DRAFT_ROWS",
    "MODES",
    "REQUIRED_FILES",
    "SCHEMA",
    "AdapterSpec",
    "DecoderSpec",
    "EncoderSpec",
    "FileSpec",
    "Manifest",
    "PartSpec",
    "Route",
    "TargetSpec",
    "is_adapter_name",
    "is_route_name",
]

SCHEMA = 1
MODES = ("text", "image", "audio", "image+audio")
ADAPTER_MODES = ("gated", "merged", "none")
REQUIRED_FILES = ("genai_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files of every bundle beside the graphs: unlisted, they would not be checked."""

DRAFT_LOGITS = "draft_logits"
"""Output of a decoder with draft rows: [B, R, V], R the length of a step of at most ``draft_rows``."""
_SHA256 = re.compile("[0-9a-f]{64}")
_ADAPTER_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # names of a file and of tensors contain it
_ROUTE_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_+-]{0,63}")
RESERVED_NAMES = ("none",)  # '--adapter none' switches all of them off


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole content of ``bundle.json``.

    Attributes:
        model: name of the source model, for information.
        architecture: architecture file that exported it.
        source_sha256: hash of the checkpoint's tensors (names, shapes, bytes).
        adapter_mode: "gated", "merged" or "none".
        processor: settings of preprocessing.
        decoder: the decoder graph.
        vision: the vision encoder; None if the model has none.
        audio: the audio encoder; None if the model has none.
        adapters: adapters in gate order.
        routes: routes by mode ("text", "image", "audio", "image+audio"); other names are tasks for requests.
        parts: storage of each class of tensors.
        recipe: options of the export.
        files: by path relative to the bundle, "/"-separated; every file but ``bundle.json``.
        palmtop: version of palmtop that wrote the bundle.
        targets: graphs for providers that compile ahead, beside the bundle's own; at most one per provider and SoC.
    """

    model: str
    architecture: str
    source_sha256: str
    adapter_mode: str
    processor: ProcessorSpec
    decoder: DecoderSpec
    vision: EncoderSpec | None
    audio: EncoderSpec | None
    adapters: tuple[AdapterSpec, ...]
    routes: dict[str, Route]
    parts: tuple[PartSpec, ...]
    recipe: dict[str, Any]
    files: dict[str, FileSpec]
    palmtop: str
    targets: tuple[TargetSpec, ...] = ()

    @property
    def modes(self) -> tuple[str, ...]:
        """Modes that this bundle supports."""
        return tuple(mode for mode in MODES if mode in self.routes)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Routes that requests choose by name."""
        return tuple(name for name in self.routes if name not in MODES)

    def has_encoders(self, mode: str) -> bool:
        """Return whether there is an encoder and a processor for every kind of input in this mode."""
        there = {
            "image": self.vision is not None and self.processor.image is not None,
            "audio": self.audio is not None and self.processor.audio is not None,
        }
        return all(there[kind] for kind in there.keys() & set(mode.split("+")))

    def target(self, provider: str) -> TargetSpec | None:
        """Return the first target of a provider; None without one."""
        return next((t for t in self.targets if t.provider == provider), None)

    def adapter(self, name: str) -> AdapterSpec | None:
        """Return the adapter of this name; None without one."""
        return next((a for a in self.adapters if a.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as plain JSON types, schema first; every key is written."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: object) -> Manifest:
        """Make a manifest from a dictionary, the inverse of ``to_dict``.

        Raises:
            BundleVersionError: the schema is newer than the one this palmtop reads.
            BundleError: a key is missing or unknown, a value is of the wrong type or impossible, or values contradict
                each other.
        """
        if not isinstance(data, dict):
            raise ManifestError(f"{MANIFEST_FILE}: is {type(data).__name__}, expected an object", "type", "")
        schema = data.get("schema")
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise refuse("schema", schema, str(SCHEMA))
        if schema > SCHEMA:
            raise BundleVersionError(
                f"{MANIFEST_FILE}: schema is {schema}, this palmtop reads {SCHEMA}; upgrade palmtop"
            )
        body = {k: v for k, v in data.items() if k != "schema"}
        check_keys(cls, body, "")
        _check_type(body, "routes", dict)
        _check_type(body, "files", dict)
        _check_type(body, "adapters", list)
        _check_type(body, "parts", list)
        _check_type(body, "targets", list)
        _check_type(body, "processor", dict)
        _check_type(body, "recipe", dict)
        for name in ("model", "architecture", "source_sha256", "adapter_mode", "palmtop"):
            _check_type(body, name, str)
        body["processor"] = ProcessorSpec.from_dict(body["processor"])
        body["decoder"] = _read_decoder(body["decoder"])
        for name in ("vision", "audio"):
            body[name] = None if body[name] is None else read_flat(EncoderSpec, body[name], name)
        body["adapters"] = tuple(read_flat(AdapterSpec, a, f"adapters[{i}]") for i, a in enumerate(body["adapters"]))
        body["parts"] = tuple(read_flat(PartSpec, p, f"parts[{i}]") for i, p in enumerate(body["parts"]))
        body["routes"] = {k: read_flat(Route, r, f"routes.{k}") for k, r in body["routes"].items()}
        body["files"] = {k: read_flat(FileSpec, f, f"files.{k}") for k, f in body["files"].items()}
        body["targets"] = tuple(read_target(t, f"targets[{i}]") for i, t in enumerate(body["targets"]))
        manifest = cls(**body)
        manifest._check_references()
        return manifest

    def _check_references(self) -> None:
        self._check_ids()
        self._check_adapters()
        self._check_targets()
        for mode, route in self.routes.items():
            self._check_route(mode, route)
        graphs = [spec.file for spec in (self.decoder, self.vision, self.audio) if spec is not None]
        for name in (*graphs, *REQUIRED_FILES):
            if name not in self.files:
                raise ManifestError(f"{MANIFEST_FILE}: '{name}' is not among the bundle's files", "value", "files")
        for name, file in self.files.items():
            _check_sha256(file.sha256, f"files.{name}.sha256")

    def _check_ids(self) -> None:
        decoder, processor = self.decoder, self.processor
        check_states(decoder.states, decoder.num_layers, "decoder.states")
        media = [spec.token_id for spec in (processor.image, processor.audio) if spec is not None]
        for number in (*decoder.sampled_never, *processor.text.eos_ids, *media):
            if number >= decoder.vocab_size:
                raise refuse(
                    "a special token id",
                    number,
                    f"less than decoder.vocab_size, {decoder.vocab_size}",
                    path="decoder.vocab_size",
                )

    def _check_adapters(self) -> None:
        if self.adapter_mode not in ADAPTER_MODES:
            raise refuse("adapter_mode", self.adapter_mode, f"one of {', '.join(ADAPTER_MODES)}")
        gates = [a.gate for a in self.adapters]
        if sorted(gates) != list(range(len(gates))):
            raise ManifestError(
                f"{MANIFEST_FILE}: adapter gates are {gates}, expected 0 to {len(gates) - 1} once each",
                "value",
                "adapters",
            )
        names = [a.name for a in self.adapters]
        if len(set(names)) != len(names):
            raise ManifestError(
                f"{MANIFEST_FILE}: adapters are named {', '.join(names)}, expected each name once", "value", "adapters"
            )
        for place, adapter in enumerate(self.adapters):
            where = f"adapters[{place}]"
            if not is_adapter_name(adapter.name):
                raise refuse(f"{where}.name", adapter.name, "letters, digits, - and _, at most 64, and not 'none'")
            if adapter.file is not None and adapter.file not in self.files:
                raise refuse(f"{where}.file", adapter.file, "one of the bundle's files")

    def _check_targets(self) -> None:
        for place, target in enumerate(self.targets):
            where = f"targets[{place}]"
            if not is_adapter_name(target.provider):
                raise refuse(f"{where}.provider", target.provider, "the name of a provider")
            if any((t.provider, t.soc) == (target.provider, target.soc) for t in self.targets[:place]):
                raise refuse(f"{where}.provider", target.provider, "each provider and SoC once")
            for name in target.files:
                if name not in self.files:
                    raise refuse(f"{where}: a graph's file", name, "one of the bundle's files")
            if unknown := {name.partition(".")[0] for name in target.encoders} - {"vision", "audio"}:
                raise refuse(f"{where}.encoders", min(unknown), "vision or audio")
            for route in () if target.decoder is None else target.decoder.routes:
                for name in route.adapters:
                    if self.adapter(name) is None:
                        raise refuse(f"{where}: a route's adapter", name, "one of the bundle's adapters")

    def _check_route(self, mode: str, route: Route) -> None:
        if not is_route_name(mode):
            raise refuse("a route's name", mode, "letters, digits, -, _ and +, at most 64", path=f"routes.{mode}")
        for name in route.adapters:
            if self.adapter_mode == "gated" and self.adapter(name) is None:
                raise ManifestError(
                    f"{MANIFEST_FILE}: routes.{mode} names adapter '{name}', which is not there",
                    "value",
                    f"routes.{mode}.adapters",
                )
        if mode not in MODES:
            return
        needs: dict[str, dict[str, object]] = {
            "image": {"vision": self.vision, "processor.image": self.processor.image},
            "audio": {"audio": self.audio, "processor.audio": self.processor.audio},
        }
        for kind in needs.keys() & set(mode.split("+")):
            for part, spec in needs[kind].items():
                if spec is None:
                    raise ManifestError(f"{MANIFEST_FILE}: routes has '{mode}', but {part} is null", "value", part)


def is_adapter_name(name: str) -> bool:
    """Return whether a name is possible for an adapter."""
    return _ADAPTER_NAME.fullmatch(name) is not None and name not in RESERVED_NAMES


def is_route_name(name: str) -> bool:
    """Return whether a name is possible for a route."""
    return _ROUTE_NAME.fullmatch(name) is not None and name not in RESERVED_NAMES


def _read_decoder(data: object) -> DecoderSpec:
    states = data.get("states") if isinstance(data, dict) else None
    if not isinstance(states, (list, tuple)):
        return read_flat(DecoderSpec, data, "decoder")  # the error is reported there
    read = tuple(read_flat(StateSpec, state, f"decoder.states[{i}]") for i, state in enumerate(states))
    return read_flat(DecoderSpec, data, "decoder", {"states": read})


def _check_type(data: dict[str, Any], key: str, kind: type) -> None:
    if not isinstance(data[key], kind):
        raise ManifestError(
            f"{MANIFEST_FILE}: {key} is {type(data[key]).__name__}, expected {kind.__name__}", "type", key
        )


def _check_sha256(value: str, where: str) -> None:
    if not _SHA256.fullmatch(value):
        raise refuse(where, value, "64 hexadecimal digits")
