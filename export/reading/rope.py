"""Rotary settings of a config.json in all its spellings: the one reader of every architecture.

Three places may hold them: keys at the top level, ``rope_scaling`` (transformers 4) and ``rope_parameters``
(transformers 5, possibly with one object for each type of layer). They are merged; places that contradict each other
are refused, and so is a setting that the kind of scaling does not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.graph.rope import RopeConfig, longrope_attention_factor

from .rope_kinds import llama3_divisors, yarn_attention_factor, yarn_divisors

OBJECTS = ("rope_scaling", "rope_parameters")
SPELLINGS = {"type": "rope_type", "rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}
AT_TOP = ("rope_theta", "rotary_emb_base", "partial_rotary_factor", "rotary_pct", "original_max_position_embeddings")
COMMON = frozenset({"rope_type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"})
# Further keys of each kind; source: transformers, modeling_rope_utils.
READ_BY: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset({"factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate"}),
    "longrope": frozenset({"short_factor", "long_factor", "factor", "attention_factor"}),
    "freq_factors": frozenset({"freq_factors"}),  # no config.json's: divisors, as GGUF files have Llama 3's
}
MSCALES = frozenset({"short_mscale", "long_mscale"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeRules:
    """Rotary kinds and defaults of an architecture.

    Attributes:
        kinds: kind of ``READ_BY`` by each spelling that the architecture accepts.
        theta: base of the wavelengths if the config has none.
        original_context: length of the first training if the config has none; None for ``max_position_embeddings``.
        has_mscale: whether LongRoPE reads ``short_mscale`` and ``long_mscale`` instead of an attention factor.
        rotates_part: whether the model can rotate a part of each head's dimensions.
    """

    kinds: Mapping[str, str]
    theta: float = 10000.0
    original_context: int | None = None
    has_mscale: bool = False
    rotates_part: bool = True


EVERY_KIND = RopeRules(kinds={kind: kind for kind in READ_BY}, rotates_part=False)
"""Rules of transformers' classes that take every kind, over whole heads."""


def read_rope(config: ConfigSection, head_size: int, rules: RopeRules) -> RopeConfig:
    """Return the rotary embedding that a config describes.

    Args:
        config: the whole config; ``max_position_embeddings`` is read too.
        head_size: dimensions of a head.
        rules: rules of the architecture.

    Raises:
        CheckpointError: a setting is missing, impossible, contradicts another, or would not be used.
    """
    found = _gathered(config, rules)
    where = next((f"{config.where}: {name}" for name in OBJECTS if config.raw(name)), config.where)
    settings = ConfigSection({key: each.value for key, each in found.items()}, where)
    kind = rules.kinds[settings.text("rope_type", default="default")]
    reads = COMMON | READ_BY[kind] | (MSCALES if rules.has_mscale and kind == "longrope" else frozenset())
    for key, each in found.items():
        if key not in reads:
            raise CheckpointError(
                f"{config.where}: {each.place} is {_short(each.value)}, expected none: rotary embeddings of type"
                f" '{kind}' do not read it"
            )
    theta = settings.number("rope_theta", default=rules.theta)
    if theta <= 1:
        raise CheckpointError(f"{config.where}: rope_theta is {theta}, expected more than 1")
    rotary_size = int(head_size * settings.number("partial_rotary_factor", default=1.0))
    if rotary_size % 2 or not 2 <= rotary_size <= head_size:
        raise CheckpointError(
            f"{config.where}: heads rotate {rotary_size} dimensions, expected an even number up to {head_size}"
        )
    if rotary_size != head_size and not rules.rotates_part:
        raise CheckpointError(
            f"{config.where}: partial_rotary_factor rotates {rotary_size} of a head's {head_size} dimensions, expected"
            " all"
        )
    short, long, original, attention_factor = _scaled(kind, settings, config, rules, theta, rotary_size)
    return RopeConfig(
        theta=theta,
        rotary_size=rotary_size,
        short_factor=short,
        long_factor=long,
        original_context=original if long is not None else None,
        attention_factor=attention_factor,
    )


_Factors = tuple[float, ...]


def _scaled(
    kind: str, settings: ConfigSection, config: ConfigSection, rules: RopeRules, theta: float, rotary_size: int
) -> tuple[_Factors | None, _Factors | None, int | None, float]:
    """Divisors of the frequencies up to and beyond the original context, that context, and the attention factor.

    Dynamic scaling changes nothing up to ``max_position_embeddings`` tokens, and no bundle serves more.
    """
    if kind in ("default", "dynamic"):
        return None, None, None, 1.0
    if kind == "freq_factors":
        return settings.numbers("freq_factors", rotary_size // 2), None, None, 1.0
    limit = config.size("max_position_embeddings")
    stated = settings.data.get("original_max_position_embeddings")
    if stated is None:
        stated = rules.original_context if rules.original_context is not None else limit
    original = ConfigSection({"original_max_position_embeddings": stated}, config.where).size(
        "original_max_position_embeddings"
    )
    if original < 2:
        raise CheckpointError(f"{config.where}: original_max_position_embeddings is {original}, expected at least 2")
    if kind == "longrope":
        factors = [settings.numbers(key, rotary_size // 2) for key in ("short_factor", "long_factor")]
        scale = _longrope_attention_factor(settings, limit, original)
        if factors[0] == factors[1]:  # as MiniCPM4's: nothing changes with the length
            return factors[0], None, None, scale
        return factors[0], factors[1], original, scale
    if kind == "yarn" and settings.data.get("factor") is None:
        factor = limit / original
    else:
        factor = _positive(settings, "factor", None)
    if kind == "linear":
        return (factor,) * (rotary_size // 2), None, None, 1.0
    if kind == "llama3":
        low, high = _positive(settings, "low_freq_factor", None), _positive(settings, "high_freq_factor", None)
        if high <= low:
            raise CheckpointError(
                f"{settings.where}: high_freq_factor is {high}, expected more than {low}, the low one"
            )
        return llama3_divisors(theta, rotary_size, factor, low, high, original), None, None, 1.0
    attention_factor = _optional(settings, "attention_factor")
    if attention_factor is None:
        scales = _optional(settings, "mscale"), _optional(settings, "mscale_all_dim")
        attention_factor = yarn_attention_factor(factor, *scales)
    fast, slow = _optional(settings, "beta_fast") or 32.0, _optional(settings, "beta_slow") or 1.0
    truncates = settings.flag("truncate", default=True)
    divisors = yarn_divisors(theta, rotary_size, factor, original, fast, slow, truncates=truncates)
    return divisors, None, None, attention_factor


def _longrope_attention_factor(settings: ConfigSection, limit: int, original: int) -> float:
    """Attention factor: the stated one, or from the stated extension or the two lengths, as in transformers."""
    scales = [settings.number(key) for key in sorted(MSCALES) if settings.data.get(key) is not None]
    if scales:
        if len(scales) != len(MSCALES) or scales[0] != scales[1]:
            raise CheckpointError(
                f"{settings.where}: short_mscale and long_mscale are {scales}, expected the same number twice"
            )
        return scales[0]
    stated, factor = _optional(settings, "attention_factor"), _optional(settings, "factor")
    if stated is not None:
        return stated
    return longrope_attention_factor(limit if factor is None else factor * original, original)


def _optional(settings: ConfigSection, key: str) -> float | None:
    return None if settings.data.get(key) is None else _positive(settings, key, None)


def _positive(settings: ConfigSection, key: str, default: float | None) -> float:
    value = settings.number(key, default=default)
    if value <= 0:
        raise CheckpointError(f"{settings.where}: {key} is {value}, expected a positive number")
    return value


@dataclass(frozen=True, slots=True)
class _Setting:
    """A value with the path of its key."""

    value: Any
    place: str


def _gathered(config: ConfigSection, rules: RopeRules) -> dict[str, _Setting]:
    """Settings of all places by usual spelling; a key that is null counts as absent."""
    found: dict[str, _Setting] = {}
    for name in AT_TOP:
        _add(found, name, config.raw(name), name, config.where, rules)
    kinds_of_layers = _layer_types(config)
    for place in OBJECTS:
        section = config.optional(place)
        items = {} if section is None else {key: section.raw(key) for key in section.data}
        by_layer = {key: value for key, value in items.items() if isinstance(value, dict)}
        used = kinds_of_layers & by_layer.keys() or by_layer.keys()
        for key, value in items.items():
            if key not in by_layer:
                _add(found, key, value, f"{place}.{key}", config.where, rules)
            elif key in used:
                for inner, each in value.items():  # equal for all types of layers, otherwise refused
                    _add(found, inner, each, f"{place}.{key}.{inner}", config.where, rules)
    return found


def _layer_types(config: ConfigSection) -> set[str]:
    types = config.data.get("layer_types")  # checked by read_decoder
    return {t for t in types if isinstance(t, str)} if isinstance(types, list) else set()


def _add(found: dict[str, _Setting], key: str, value: Any, place: str, where: str, rules: RopeRules) -> None:
    if value is None:
        return
    key = SPELLINGS.get(key, key)
    if key == "rope_type" and (not isinstance(value, str) or value not in rules.kinds):
        expected = " or ".join(f"'{kind}'" for kind in dict.fromkeys(rules.kinds.values()))
        raise CheckpointError(f"{where}: {place} is {value!r}, expected {expected}")
    there = found.setdefault(key, _Setting(value, place))
    same = rules.kinds[there.value] == rules.kinds[value] if key == "rope_type" else there.value == value
    if not same:
        raise CheckpointError(
            f"{where}: {there.place} is {_short(there.value)} and {place} is {_short(value)}, expected the same twice"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
