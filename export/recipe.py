"""Recipe of an export: all its options, frozen and checked. Loads from TOML and prints as JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from palmtop.errors import InputError, QuantizeError
from palmtop.quantize import Quantizer
from palmtop.quantize.gptq import gptq
from palmtop.quantize.rtn import rtn
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.search import search
from palmtop.runtime.bundle.manifest import MAX_DRAFT_ROWS
from palmtop.runtime.bundle.option_checks import reason_of

DECODER_BITS = (4, 8, 32)
KV_BITS = (4, 8, 32)
ENCODER_BITS = (4, 8, 32)
METHODS: dict[str, Quantizer] = {
    "rtn": rtn,
    "search": search,
    "gptq": gptq,
    "gptq-in-order": gptq,
}
QUALITIES = {"fast": "rtn", "balanced": "search", "best": "gptq-in-order"}
"""Methods by ``palmtop export --quality``: seconds, seconds to minutes, and minutes to hours."""
DRAFT_ROWS = 8  # rows for ``speculation = true``: longer steps gain nothing on two x86 cores (docs/speculation.md)
TARGETS = ("openvino", "qnn")
SOC = "sm8750"
DEFAULT_CONTEXT = 8192
CHUNK = 128
TARGET_CONTEXT = 4096  # longest cache that fixed-shape graphs read whole
CALIBRATED = ("gptq", "gptq-in-order")  # methods that need statistics of each layer's inputs
IN_ORDER = ("gptq-in-order",)  # methods that take the inputs from the layers quantised before
_MERGE_ITEM = re.compile(r"^([\w.-]+)(?:=([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?))?$")
_SOC_NAME = re.compile(r"^[a-z][a-z0-9]{2,15}$")
_TYPES: tuple[tuple[tuple[str, ...], type, str], ...] = (
    (("bits", "head_bits", "encoder_bits", "group", "scale_bits", "accuracy_level"), int, "a whole number"),
    (("context", "kv", "draft_rows", "target_context", "chunk"), int, "a whole number"),
    (("symmetric",), bool, "true or false"),
    (("method", "adapters", "target", "soc"), str, "text"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Options of an export, from checkpoint to bundle.

    Attributes:
        bits: bits of the decoder's linears and adapters; 32 keeps float32 everywhere (for parity).
        head_bits: bits of the embedding and head (one table when tied); None takes ``bits``.
        encoder_bits: bits of the vision and audio encoders' linears; None takes ``bits``.
        group: number of weights that share one scale.
        symmetric: whether zero points are left out.
        scale_bits: bits of a group's scale; 16 stores float16, which onnxruntime widens when it loads the graph.
        method: "search" tries narrower ranges for each group, "rtn" rounds to nearest (fastest); "gptq" calibrates on
            each layer's inputs; "gptq-in-order" quantises layer after layer and corrects each for the error of those
            before it. ``QUALITIES`` names three of them for the command line.
        accuracy_level: accuracy level of MatMulNBits; 0 computes in float32, 4 quantises activations to int8.
        adapters: "gated", "none", or "merge=NAME[=W][,NAME[=W]...]".
        context: longest sequence of the bundle in tokens; None takes 8192, or the model's limit if less.
        kv: bits of the KV cache; 8 and 4 have a scale for each channel, calibrated on samples, 32 is float32.
        draft_rows: above 1 the decoder returns logits of every position of a step of at most this many tokens, for
            prompt lookup.
        target: provider that gets graphs of fixed shapes beside the bundle's own; None for none.
        target_context: positions of those graphs' cache; None takes the context, at most 4096.
        chunk: tokens of a step of their prefill graphs.
        soc: systems on chip that a target compiles for, such as "sm8650,sm8750"; None for its default.
    """

    bits: int = 4
    head_bits: int | None = None
    encoder_bits: int | None = None
    group: int = 32
    symmetric: bool = False
    scale_bits: int = 32
    method: str = "search"
    accuracy_level: int = 4
    adapters: str = "gated"
    context: int | None = None
    kv: int = 32
    draft_rows: int = 1
    target: str | None = None
    target_context: int | None = None
    chunk: int = CHUNK
    soc: str | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.bits not in DECODER_BITS:
            raise InputError(f"bits is {self.bits}, expected one of {', '.join(map(str, DECODER_BITS))}")
        if self.head_bits is not None and self.head_bits not in DECODER_BITS:
            raise InputError(f"head-bits is {self.head_bits}, expected one of {', '.join(map(str, DECODER_BITS))}")
        if self.encoder_bits is not None and self.encoder_bits not in ENCODER_BITS:
            raise InputError(
                f"encoder-bits is {self.encoder_bits}, expected one of {', '.join(map(str, ENCODER_BITS))}"
            )
        if self.method not in METHODS:
            raise InputError(f"method is '{self.method}', expected one of {', '.join(METHODS)}")
        if self.accuracy_level not in (0, 4):
            raise InputError(f"accuracy-level is {self.accuracy_level}, expected 0 or 4")
        if self.kv not in KV_BITS:
            raise InputError(f"kv is {self.kv}, expected one of {', '.join(map(str, KV_BITS))}")
        if self.context is not None and self.context < 16:
            raise InputError(f"context is {self.context}, expected at least 16 tokens")
        if not 1 <= self.draft_rows <= MAX_DRAFT_ROWS:
            raise InputError(f"draft-rows is {self.draft_rows}, expected 1 to {MAX_DRAFT_ROWS}")
        if self.target is not None and self.target not in TARGETS:
            raise InputError(f"target is '{self.target}', expected one of {', '.join(TARGETS)}")
        if self.target_context is not None and not 16 <= self.target_context <= (self.context or math.inf):
            most = "at least 16 tokens" if self.context is None else f"16 to {self.context}, the context of the bundle"
            raise InputError(f"target-context is {self.target_context}, expected {most}")
        if self.chunk < 2:
            raise InputError(f"chunk is {self.chunk}, expected at least 2 tokens")
        if self.soc is not None and (self.target != "qnn" or not all(map(_SOC_NAME.match, self.socs))):
            raise InputError(f"soc is '{self.soc}' with target {self.target}, expected names such as sm8750 for qnn")
        self.scheme(4)  # checks the group
        self.merge  # noqa: B018 - checks the adapters option

    def _check_types(self) -> None:
        """Refuse values of other types, which a recipe file may contain: 4.0, "8k", "no"."""
        for names, kind, expected in _TYPES:
            for name in names:
                value = getattr(self, name)
                if value is None and name in (
                    "head_bits",
                    "encoder_bits",
                    "context",
                    "target",
                    "target_context",
                    "soc",
                ):
                    continue
                if type(value) is not kind:  # a bool is not accepted as a number
                    raise InputError(f"{name.replace('_', '-')} is {value!r}, expected {expected}")

    def refuse_unused(self) -> None:
        """Refuse keys of a target's graphs where there is no target.

        Raises:
            InputError: names the key.
        """
        for name, value, default in (("target-context", self.target_context, None), ("chunk", self.chunk, CHUNK)):
            if self.target is None and value != default:
                raise InputError(
                    f"{name} is {value} without a target, expected target {' or '.join(TARGETS)} beside it"
                )

    def scheme(self, bits: int) -> Scheme | None:
        """Return the quantisation scheme for this many bits; None for float32."""
        if bits == 32:
            return None
        return Scheme(bits=bits, group=self.group, symmetric=self.symmetric, scale_bits=self.scale_bits)

    @property
    def bits_of_head(self) -> int:
        """Bits of the embedding and the head."""
        return self.bits if self.head_bits is None else self.head_bits

    @property
    def bits_of_encoders(self) -> int:
        """Bits of the encoders' linears."""
        if self.encoder_bits is not None:
            return self.encoder_bits
        return self.bits

    @property
    def decoder_scheme(self) -> Scheme | None:
        """Scheme of the linears and the adapters."""
        return self.scheme(self.bits)

    @property
    def head_scheme(self) -> Scheme | None:
        """Scheme of the embedding and the head."""
        return self.scheme(self.bits_of_head)

    @property
    def encoder_scheme(self) -> Scheme | None:
        """Scheme of the encoders' linears."""
        return self.scheme(self.bits_of_encoders)

    @property
    def socs(self) -> tuple[str, ...]:
        """Systems on chip to compile for, each once."""
        return tuple(dict.fromkeys(name.strip().lower() for name in (self.soc or SOC).split(",")))

    @property
    def context_of_target(self) -> int:
        """Positions of the cache of the target's graphs."""
        if self.target_context is not None:
            return self.target_context
        return min(self.context or DEFAULT_CONTEXT, TARGET_CONTEXT)

    def with_context(self, served: int) -> Recipe:
        """Return the same recipe with its context set.

        Args:
            served: longest sequence of the model, in tokens.
        """
        if self.context is not None:
            return self
        if 16 <= served < DEFAULT_CONTEXT:
            return replace(self, context=served)
        return replace(self, context=DEFAULT_CONTEXT)

    @property
    def adapter_mode(self) -> str:
        """Treatment of adapters: gated, merged or none."""
        return "merged" if self.adapters.startswith("merge=") else self.adapters

    @property
    def merge(self) -> dict[str, float]:
        """Weights of the adapters that are merged into the base, by name; empty unless merging."""
        if self.adapters in ("gated", "none"):
            return {}
        if not self.adapters.startswith("merge="):
            raise InputError(f"adapters is '{self.adapters}', expected gated, none or merge=NAME[=W][,NAME[=W]]")
        merged: dict[str, float] = {}
        for item in self.adapters.removeprefix("merge=").split(","):
            match = _MERGE_ITEM.match(item.strip())
            if match is None:
                raise InputError(f"adapters merges '{item}', expected NAME or NAME=WEIGHT")
            if match[1] in merged:
                raise InputError(f"adapters merges '{match[1]}' twice, expected each name once")
            try:
                merged[match[1]] = float(match[2] or 1.0)
            except ValueError as error:
                raise InputError(f"adapters merges '{item}', expected a number as its weight") from error
            if not math.isfinite(merged[match[1]]):
                raise InputError(f"adapters merges '{item}', expected a finite weight")
        return merged

    def to_dict(self) -> dict[str, Any]:
        """Return all options as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Make a recipe from a dictionary, the inverse of ``to_dict``.

        Raises:
            InputError: a key is unknown, or a value is not possible.
        """
        return cls().changed(data)

    def changed(self, data: Mapping[str, Any]) -> Recipe:
        """Return a changed recipe; ``quality`` may stand for ``method``, ``speculation`` for ``draft_rows``.

        Raises:
            InputError: a key is unknown, or a value is not possible.
        """
        values = dict(data)
        known = {f.name for f in fields(self)} | {"quality", "speculation"}
        if unknown := sorted(values.keys() - known):
            raise InputError(f"recipe has '{unknown[0]}', expected keys among {', '.join(sorted(known))}")
        if "quality" in values:
            quality = values.pop("quality")
            if quality not in QUALITIES:
                raise InputError(f"quality is {quality!r}, expected one of {', '.join(QUALITIES)}")
            if values.get("method", QUALITIES[quality]) != QUALITIES[quality]:
                raise InputError(f"quality is '{quality}' and method is '{values['method']}', expected one of them")
            values["method"] = QUALITIES[quality]
        if "speculation" in values:
            wanted = values.pop("speculation")
            if not isinstance(wanted, bool):
                raise InputError(f"speculation is {wanted!r}, expected true or false")
            values.setdefault("draft_rows", max(DRAFT_ROWS, self.draft_rows) if wanted else 1)
        return replace(self, **values)

    @classmethod
    def from_toml(cls, path: Path) -> Recipe:
        """Read a recipe from a TOML file; its keys are the attributes.

        Raises:
            InputError: the file is not readable or not TOML, a key is unknown, or a value is not possible.
        """
        import tomllib

        try:
            data = tomllib.loads(path.read_text("utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: is not a readable TOML recipe ({reason_of(error)})") from error
        try:
            keys = [key.replace("-", "_") for key in data]  # as options are spelt
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise InputError(f"'{twice[0]}' is set twice, expected it once")
            return cls.from_dict(dict(zip(keys, data.values(), strict=True)))
        except (InputError, QuantizeError) as error:
            raise InputError(f"{path}: {error}") from error
