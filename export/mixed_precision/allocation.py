"""Plan of a bundle: bits and group size of every tensor, as a file that can be read, edited and replayed.

Making a plan needs a float model and samples (``prepare``); this module needs neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from palmtop.errors import InputError, QuantizeError
from palmtop.export.graph.kv_cache import KvCache
from palmtop.export.graph.linear import PlannedPrecision, Precision, StoredRows
from palmtop.export.recipe import CALIBRATED, METHODS
from palmtop.quantize import Quantizer
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.search import search
from palmtop.quantize.statistics import Statistics
from palmtop.runtime.bundle.option_checks import reason_of

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BitAllocation:
    """Quantisation scheme of every tensor of a bundle.

    Attributes:
        method: name of the quantisation method.
        tensors: schemes by ``part: linear``; None keeps float32.
        size_bytes: bytes of the whole bundle without ``quality.json``; None after an edit.
        loss: mean KL divergence over the modes in nats, on samples not used for calibration; None after an edit.
        decode_s: seconds of a token of text in the matrices' kernels on the machine that made the plan; None if not
            measured. Not in the file: two exports of one plan write the same bytes.
        frontier: (size_bytes, loss) of neighbouring plans.
    """

    method: str
    tensors: Mapping[str, Scheme | None]
    size_bytes: int | None = None
    loss: float | None = None
    decode_s: float | None = None
    frontier: tuple[tuple[int, float], ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON types."""
        return {
            "schema": SCHEMA,
            "method": self.method,
            "predicted": {"size_bytes": self.size_bytes, "loss": _short(self.loss)},
            "frontier": [{"size_bytes": size, "loss": _short(loss)} for size, loss in self.frontier],
            "tensors": {name: _words(scheme) for name, scheme in self.tensors.items()},
        }

    def text(self) -> str:
        """Return the content of the file, one tensor per line."""
        data = self.to_dict()
        tensors = data.pop("tensors")
        head = json.dumps(data, indent=1).rstrip("}\n")
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(words)}" for name, words in tensors.items())
        return f'{head},\n "tensors": {{\n{lines}\n }}\n}}\n'

    def write(self, path: Path) -> None:
        """Write the plan to a file."""
        path.write_text(self.text(), "utf-8")

    @classmethod
    def read(cls, path: Path) -> BitAllocation:
        """Read a plan from a file.

        Raises:
            InputError: the file is not readable or not a plan, or a scheme is not possible; names the tensor.
        """
        try:
            data = json.loads(path.read_text("utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: is not a readable plan ({reason_of(error)})") from error
        if not isinstance(data, dict) or not isinstance(data.get("tensors"), dict):
            raise InputError(f"{path}: has no tensors, expected a plan as 'palmtop export --save-plan' writes it")
        if data.get("schema") != SCHEMA:
            raise InputError(f"{path}: schema is {data.get('schema')!r}, expected {SCHEMA}")
        if not isinstance(data.get("method"), str):
            raise InputError(f"{path}: method is {data.get('method')!r}, expected text")
        return cls(
            method=data["method"],
            tensors={name: _scheme(words, f"{path}: tensor '{name}'") for name, words in data["tensors"].items()},
        )


def file_stem(key: str) -> str:
    """Return the file name for data of ``part: linear``."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", key)


def _short(loss: float | None) -> float | None:
    return None if loss is None else float(f"{loss:.6g}")


def _words(scheme: Scheme | None) -> dict[str, Any]:
    if scheme is None:
        return {"bits": 32}
    words = {"bits": scheme.bits, "group": scheme.group, "scale_bits": scheme.scale_bits}
    return {**words, "symmetric": True} if scheme.symmetric else words


def _scheme(words: Any, where: str) -> Scheme | None:
    if not isinstance(words, dict):
        raise InputError(f'{where} is {words!r}, expected {{"bits": 4, "group": 32}}')
    if words.get("bits") == 32:
        return None
    known = {"bits": int, "group": int, "scale_bits": int, "symmetric": bool}
    for key, value in words.items():
        if key not in known or type(value) is not known[key]:
            raise InputError(f"{where} has {key} {value!r}, expected {', '.join(known)}")
    try:
        return Scheme(**{"bits": 4, "group": 32, "scale_bits": 16, **words})
    except QuantizeError as error:
        raise InputError(f"{where}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan with the quantiser and statistics to carry it out.

    Attributes:
        plan: schemes by ``part: linear``; tensors it does not name are stored by the recipe.
        quantizer: quantisation method; it must also work without statistics.
        statistics: returns the statistics of a linear's inputs; None where it was never run.
        stored: returns a function for a linear's rows that are already quantised; None where they are not.
        cache: KV cache whose scales were found with the statistics; None where that was not asked for or not possible.
        notes: sentences for the user about the samples.
    """

    plan: BitAllocation
    quantizer: Quantizer
    statistics: Callable[[str], Statistics | None]
    stored: Callable[[str], StoredRows | None] = lambda key: None
    cache: KvCache | None = None
    notes: tuple[str, ...] = ()

    def precision(self, part: str, default: Precision) -> PlannedPrecision:
        """Return the precision of every linear of one graph."""
        prefix = f"{part}: "
        own = {
            key.removeprefix(prefix): self._precision(key, scheme, default)
            for key, scheme in self.plan.tensors.items()
            if key.startswith(prefix)
        }
        return PlannedPrecision(by_name=own, default=replace(default, quantizer=self.quantizer))

    def _precision(self, key: str, scheme: Scheme | None, default: Precision) -> Precision:
        def of_inputs() -> Statistics | None:
            return self.statistics(key)

        return Precision(
            scheme=scheme,
            accuracy_level=default.accuracy_level,
            quantizer=self.quantizer,
            statistics=of_inputs,
            stored=self.stored(key),
        )


def with_fallback(quantizer: Quantizer) -> Quantizer:
    """Return the method, with clipped search for linears without the statistics that it needs."""
    if quantizer not in (METHODS[name] for name in CALIBRATED):
        return quantizer

    def quantize(weight: Any, scheme: Scheme, statistics: Statistics | None = None, /) -> Any:
        return (search if statistics is None else quantizer)(weight, scheme, statistics)

    return quantize
