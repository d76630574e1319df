"""``bundle.json``: what a bundle says about itself, as typed values.

This file is the contract between the exporter, the Python runtime and the Android app. It computes nothing
and opens no file; ``bundle.py`` does that. A change of meaning raises ``SCHEMA``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from palmtop.errors import BundleError, BundleVersionError

from .processor.spec import ProcessorSpec

SCHEMA = 1
MANIFEST_FILE = "bundle.json"
MODES = ("text", "image", "audio", "image+audio")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """The decoder graph's sizes, as genai and the memory plan need them.

    Attributes:
        file: path inside the bundle.
        vocab_size: V, width of the logits.
        hidden_size: width of embeddings and of media feature rows.
        num_layers: decoder layers.
        num_heads: query heads.
        num_kv_heads: key/value heads.
        head_size: of the KV cache (padded to a multiple of 8 where the checkpoint's is not).
        context_length: longest sequence the bundle serves, in tokens.
        original_context: beyond this many tokens the long LongRoPE factors apply; None without LongRoPE.
        sampled_never: ids that must not be sampled or come from user text: the media placeholders.
    """

    file: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    context_length: int
    original_context: int | None
    sampled_never: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """One encoder graph: its file and what a pass through it costs, for the memory plan.

    Attributes:
        file: path inside the bundle.
        bytes_per_item: float32 activations alive at the peak for one tile (vision) or one window (audio).
    """

    file: str
    bytes_per_item: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """One LoRA adapter inside the decoder graph.

    Attributes:
        name: as users write it.
        rank: r.
        alpha: LoRA's alpha; alpha / r is folded into the stored B.
        gate: index into the graph's ``adapter_gates`` input.
        base_sha256: hash of the base weights it was trained for.
    """

    name: str
    rank: int
    alpha: float
    gate: int
    base_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a mode of input switches on, held for the whole generation.

    Attributes:
        adapters: adapter name to gate weight; empty means the base alone.
        audio_projector: "speech" or "vision"; meaningless without audio.
    """

    adapters: dict[str, float]
    audio_projector: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSpec:
    """One class of tensors and how it is stored, for ``palmtop inspect`` and the reader's trust.

    Attributes:
        name: e.g. "decoder linears", "adapter vision".
        bits: 4, 8 or 32.
        group: weights that share a scale; None for float.
        parameters: number of weights.
        size_bytes: on disk, scales counted.
    """

    name: str
    bits: int
    group: int | None
    parameters: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """Size and hash of one file of the bundle."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything in ``bundle.json``.

    Attributes:
        model: name of the source model, for people.
        architecture: the architecture file that exported it.
        source_sha256: hash of the checkpoint's tensors (names, shapes, bytes).
        adapter_mode: "gated", "merged" or "none".
        processor: preprocessing as data.
        decoder: the decoder graph.
        vision: the vision encoder, None where the model has none.
        audio: the audio encoder, likewise.
        adapters: in gate order.
        routes: by mode ("text", "image", "audio", "image+audio").
        parts: how each class of tensors is stored.
        recipe: the export's options, as the user gave them.
        files: by path relative to the bundle, "/"-separated; every file but ``bundle.json``.
        palmtop: version that wrote the bundle.
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

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes this bundle serves."""
        return tuple(mode for mode in MODES if mode in self.routes)

    def adapter(self, name: str) -> AdapterSpec | None:
        """The adapter of this name, if there is one."""
        return next((a for a in self.adapters if a.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, schema first."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: object) -> Manifest:
        """Inverse of ``to_dict``.

        Raises:
            BundleVersionError: the schema is newer than this palmtop reads.
            BundleError: a key is missing, unknown, or of the wrong type.
        """
        if not isinstance(data, dict):
            raise BundleError(f"{MANIFEST_FILE}: is {type(data).__name__}, expected an object")
        schema = data.get("schema")
        if not isinstance(schema, int) or schema < 1:
            raise BundleError(f"{MANIFEST_FILE}: schema is {schema!r}, expected a number from 1 to {SCHEMA}")
        if schema > SCHEMA:
            raise BundleVersionError(
                f"{MANIFEST_FILE}: schema is {schema}, this palmtop reads up to {SCHEMA}; upgrade palmtop"
            )
        body = {k: v for k, v in data.items() if k != "schema"}
        _check_keys(cls, body, "")
        _check_type(body, "routes", dict)
        _check_type(body, "files", dict)
        _check_type(body, "adapters", list)
        _check_type(body, "parts", list)
        _check_type(body, "processor", dict)
        body["processor"] = ProcessorSpec.from_dict(body["processor"])
        body["decoder"] = _read(DecoderSpec, body["decoder"], "decoder")
        for name in ("vision", "audio"):
            body[name] = None if body[name] is None else _read(EncoderSpec, body[name], name)
        body["adapters"] = tuple(_read(AdapterSpec, a, f"adapters[{i}]") for i, a in enumerate(body["adapters"]))
        body["parts"] = tuple(_read(PartSpec, p, f"parts[{i}]") for i, p in enumerate(body["parts"]))
        body["routes"] = {k: _read(Route, r, f"routes.{k}") for k, r in body["routes"].items()}
        body["files"] = {k: _read(FileSpec, f, f"files.{k}") for k, f in body["files"].items()}
        manifest = cls(**body)
        manifest._check_references()
        return manifest

    def _check_references(self) -> None:
        gates = [a.gate for a in self.adapters]
        if sorted(gates) != list(range(len(gates))):
            raise BundleError(f"{MANIFEST_FILE}: adapter gates are {gates}, expected 0 to {len(gates) - 1} once each")
        for mode, route in self.routes.items():
            if mode not in MODES:
                raise BundleError(f"{MANIFEST_FILE}: routes has '{mode}', expected one of {', '.join(MODES)}")
            for name in route.adapters:
                if self.adapter_mode == "gated" and self.adapter(name) is None:
                    raise BundleError(f"{MANIFEST_FILE}: routes.{mode} names adapter '{name}', which is not there")
        for spec in (self.decoder, self.vision, self.audio):
            if spec is not None and spec.file not in self.files:
                raise BundleError(f"{MANIFEST_FILE}: '{spec.file}' is not among the bundle's files")


def _check_keys(cls: type[Any], data: dict[str, Any], where: str) -> None:
    names = {f.name for f in fields(cls)}
    prefix = f"{where}." if where else ""
    if missing := sorted(names - data.keys()):
        raise BundleError(f"{MANIFEST_FILE}: {prefix}{missing[0]} is missing")
    if unknown := sorted(data.keys() - names):
        raise BundleError(f"{MANIFEST_FILE}: {prefix}{unknown[0]} is not a known key")


def _check_type(data: dict[str, Any], key: str, kind: type) -> None:
    if not isinstance(data[key], kind):
        raise BundleError(f"{MANIFEST_FILE}: {key} is {type(data[key]).__name__}, expected {kind.__name__}")


def _read(cls: type[T], data: object, where: str) -> T:
    """A flat dataclass from an object; scalar fields must have the annotated JSON type."""
    if not isinstance(data, dict):
        raise BundleError(f"{MANIFEST_FILE}: {where} is {type(data).__name__}, expected an object")
    _check_keys(cls, data, where)
    for field in fields(cls):  # type: ignore[arg-type]
        _check_value(str(field.type), data[field.name], f"{where}.{field.name}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})


def _check_value(annotation: str, value: object, where: str) -> None:
    allowed: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "int | None": (int, type(None)),
        "dict[str, float]": (dict,),
        "tuple[int, ...]": (list, tuple),
    }
    if annotation in allowed and (not isinstance(value, allowed[annotation]) or isinstance(value, bool)):
        raise BundleError(f"{MANIFEST_FILE}: {where} is {value!r}, expected {annotation}")
