"""Rotary scaling of a GGUF file: keys of its metadata, and factors that are tensors."""

from __future__ import annotations

from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.safetensors_reader import SafetensorsReader

from .families import Family
from .metadata import Metadata

LONGROPE = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
DIVISORS = "rope_freqs.weight"  # one for each frequency: Llama 3's converter writes these instead of keys
TENSORS = (*LONGROPE.values(), DIVISORS)
YARN = {"rope.scaling.yarn_beta_fast": "beta_fast", "rope.scaling.yarn_beta_slow": "beta_slow"}
NONE = (None, "none")


def rope_scaling(family: Family, said: Metadata, tensors: SafetensorsReader) -> dict[str, Any] | None:
    """Return the value of ``rope_scaling`` in config.json; None without scaling.

    Raises:
        CheckpointError: the model has no such scaling, or keys and tensors contradict each other.
    """
    kind, factor = said.given("rope.scaling.type"), said.given("rope.scaling.factor")
    attention_factor, linear = said.given("rope.scaling.attn_factor"), said.given("rope.scale_linear")
    if linear not in (None, 0, 1):  # the spelling of files from 2023
        kind, factor = "linear", linear
    has_longrope, has_divisors = _has_longrope(tensors), tensors.shape(DIVISORS) is not None
    found = "longrope" if has_longrope else "freq_factors" if has_divisors and kind in NONE else kind
    is_plain = found in (*NONE, "longrope", "freq_factors")
    fits = found in NONE or found in family.scalings
    if not fits or (is_plain and (factor not in (None, 0, 1) or kind not in (*NONE, "longrope"))):
        expected = " or ".join(each for each in family.scalings if each != "freq_factors")
        raise CheckpointError(
            f"{tensors.path}: {family.name}.rope.scaling is of type {kind!r} with factor {factor}, expected {expected}"
        )
    if has_divisors and found != "freq_factors":
        raise CheckpointError(f"{tensors.path}: tensor '{DIVISORS}' is there beside other rotary scaling, expected one")
    if attention_factor not in (None, 1.0) and not has_longrope:
        raise CheckpointError(
            f"{tensors.path}: {family.name}.rope.scaling.attn_factor is {attention_factor}, expected the factors"
            f" {' and '.join(LONGROPE.values())} with it"
        )
    if has_longrope:
        more = {} if attention_factor is None else {"attention_factor": attention_factor}
        return {"type": "longrope", **{key: _numbers(tensors, name) for key, name in LONGROPE.items()}, **more}
    if found == "freq_factors":
        return {"type": "freq_factors", "freq_factors": _numbers(tensors, DIVISORS)}
    if found == "longrope":
        raise CheckpointError(
            f"{tensors.path}: tensor '{LONGROPE['short_factor']}' is missing, expected it: its metadata says longrope"
        )
    if found in NONE:
        return None
    betas = {name: said.given(key) for key, name in YARN.items()} if found == "yarn" else {}
    return {"type": found, "factor": factor, **{name: value for name, value in betas.items() if value is not None}}


def _has_longrope(tensors: SafetensorsReader) -> bool:
    missing = [name for name in LONGROPE.values() if tensors.shape(name) is None]
    if len(missing) == 1:
        raise CheckpointError(f"{tensors.path}: tensor '{missing[0]}' is missing, the other factors are there")
    return not missing


def _numbers(tensors: SafetensorsReader, name: str) -> list[float]:
    return [float(each) for each in tensors.weight(name).array().reshape(-1)]
