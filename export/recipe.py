"""Every choice of an export, frozen and checked. Loads from TOML, prints as JSON; chooses nothing itself."""

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
"""The dial of ``palmtop export --quality``: how codes are chosen. Seconds, seconds to minutes, and minutes to hours."""
DRAFT_ROWS = 8  # of ``speculation = true``: longer steps gain nothing on two x86 cores (docs/speculation.md)
TARGETS = ("openvino", "qnn")
TARGET_KEYS = ("target", "target_context", "chunk", "soc")
SOC = "sm8750"
DEFAULT_CONTEXT = 8192
TARGET_CONTEXT = 4096  # of a cache that is always read whole
CALIBRATED = ("gptq", "gptq-in-order")  # they need statistics of each layer's inputs
IN_ORDER = ("gptq-in-order",)  # on the inputs that the quantised layers before hand over
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
    """How a checkpoint becomes a bundle.

    Attributes:
        bits: of the decoder's linears and adapters; 32 keeps float32 everywhere (for parity).
        head_bits: of the embedding and head (one table when tied); None means as ``bits``.
        encoder_bits: of the vision and audio encoders' linears; None means as ``bits``.
        group: weights that share one scale.
        symmetric: no zero points.
        scale_bits: of a group's scale; 16 stores float16, which onnxruntime widens when it loads the graph.
        method: "search" tries narrower ranges for each group, "rtn" rounds to nearest (fastest); "gptq" looks at what
            enters each layer first (calibration); "gptq-in-order" quantises layer after layer and lets each make up for
            those before it. ``QUALITIES`` names three of them for the command line.
        accuracy_level: of MatMulNBits; 0 computes in float32, 4 quantises activations to int8.
        adapters: "gated", "none", or "merge=NAME[=W][,NAME[=W]...]".
        context: longest sequence the bundle serves, in tokens; None: 8192, or what the model serves if less.
        kv: bits of the KV cache; 8 and 4 have a scale for each channel, calibrated on samples, 32 is float32.
        draft_rows: above 1 the decoder gives logits of every position of a step of at most so many tokens, so that
            the runtime can guess ahead (speculation).
        target: a provider that gets graphs of fixed shapes beside the bundle's own; None for none.
        target_context: positions of those graphs' cache; None takes the context, at most 4096.
        chunk: tokens that their prefill graphs read at a time.
        soc: systems on chip that a target compiles for, such as "sm8650,sm8750"; None for what it has by default.
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
    chunk: int = 128
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
        longest = self.context or self.target_context
        if self.target_context is not None and longest and not 16 <= self.target_context <= longest:
            raise InputError(
                f"target-context is {self.target_context}, expected 16 to {longest}, the context of the bundle"
            )
        if self.chunk < 2:
            raise InputError(f"chunk is {self.chunk}, expected at least 2 tokens")
        if self.soc is not None and (self.target != "qnn" or not all(map(_SOC_NAME.match, self.socs))):
            raise InputError(f"soc is '{self.soc}' with target {self.target}, expected names such as sm8750 for qnn")
        self.scheme(4)  # checks the group
        self.merge  # noqa: B018 - checks the adapters option

    def _check_types(self) -> None:
        """Refuse what a recipe file may hold instead: 4.0, "8k", "no"."""
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
                if type(value) is not kind:  # a bool is no number
                    raise InputError(f"{name.replace('_', '-')} is {value!r}, expected {expected}")

    def scheme(self, bits: int) -> Scheme | None:
        """The quantisation of a part stored with this many bits; None for float32."""
        if bits == 32:
            return None
        return Scheme(bits=bits, group=self.group, symmetric=self.symmetric, scale_bits=self.scale_bits)

    @property
    def bits_of_head(self) -> int:
        """Of the embedding and the head."""
        return self.bits if self.head_bits is None else self.head_bits

    @property
    def bits_of_encoders(self) -> int:
        """Of the encoders' linears."""
        if self.encoder_bits is not None:
            return self.encoder_bits
        return self.bits

    @property
    def decoder_scheme(self) -> Scheme | None:
        """Of the linears and the adapters."""
        return self.scheme(self.bits)

    @property
    def head_scheme(self) -> Scheme | None:
        """Of the embedding and the head."""
        return self.scheme(self.bits_of_head)

    @property
    def encoder_scheme(self) -> Scheme | None:
        """Of the encoders' linears."""
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

    def with_context(self, served: object) -> Recipe:
        """The same with its context decided.

        Args:
            served: ``max_position_embeddings`` of the model; what is no number is judged by whoever reads the model.
        """
        if self.context is not None:
            return self
        if isinstance(served, int) and 16 <= served < DEFAULT_CONTEXT:
            return replace(self, context=served)
        return replace(self, context=DEFAULT_CONTEXT)

    @property
    def adapter_mode(self) -> str:
        """How adapters are exported: gated, merged or none."""
        return "merged" if self.adapters.startswith("merge=") else self.adapters

    @property
    def merge(self) -> dict[str, float]:
        """Adapter name to weight of what is folded into the base; empty unless merging."""
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
        """Plain JSON types; every key."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Inverse of ``to_dict``.

        Raises:
            InputError: an unknown key, or a value that is not possible.
        """
        return cls().changed(data)

    def changed(self, data: Mapping[str, Any]) -> Recipe:
        """The same with other values; ``quality`` may stand for ``method``, ``speculation`` for ``draft_rows``.

        Raises:
            InputError: an unknown key, or a value that is not possible.
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
        """Read a recipe file; keys are the attributes.

        Raises:
            InputError: not readable, not TOML, an unknown key, or a value that is not possible.
        """
        import tomllib

        try:
            data = tomllib.loads(path.read_text("utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: is not a readable TOML recipe ({reason_of(error)})") from error
        try:
            return cls.from_dict(data)
        except (InputError, QuantizeError) as error:
            raise InputError(f"{path}: {error}") from error
