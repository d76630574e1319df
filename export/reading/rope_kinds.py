"""Kinds of rotary scaling that do not depend on length, as divisors of the unscaled frequencies.

Unscaled: f_i = theta ** (-2 i / R) for i < R / 2; scaled: f_i / divisor_i.
"""

from __future__ import annotations

import math

import numpy as np


def llama3_divisors(
    theta: float, rotary_size: int, factor: float, low: float, high: float, original_context: int
) -> tuple[float, ...]:
    """Return the divisors of Llama 3.1, [R / 2]: ``factor`` for long waves, 1 for short ones, smooth between.

    Source: transformers, modeling_rope_utils._compute_llama3_parameters.

    Args:
        theta: base of the wavelengths.
        rotary_size: R, rotated dimensions of a head.
        factor: divisor for waves longer than ``original_context / low`` tokens.
        low: low_freq_factor.
        high: high_freq_factor, above ``low``.
        original_context: length of the first training in tokens.
    """
    waves_in_context = original_context * _frequencies(theta, rotary_size) / (2 * math.pi)
    smooth = np.clip((waves_in_context - low) / (high - low), 0.0, 1.0)
    return _tuple(1.0 / ((1 - smooth) / factor + smooth))


def yarn_divisors(
    theta: float,
    rotary_size: int,
    factor: float,
    original_context: int,
    beta_fast: float,
    beta_slow: float,
    *,
    truncates: bool,
) -> tuple[float, ...]:
    """Return the divisors of YaRN, [R / 2]: 1 for frequencies with many turns in the original context, else ``factor``.

    Source: transformers, modeling_rope_utils._compute_yarn_parameters.

    Args:
        theta: base of the wavelengths.
        rotary_size: R, rotated dimensions of a head.
        factor: divisor for the slowest frequencies.
        original_context: length of the first training in tokens.
        beta_fast: turns above which frequencies are not scaled.
        beta_slow: turns below which frequencies are scaled by ``factor``.
        truncates: whether the ramp begins and ends at whole dimensions.
    """

    def place(turns: float) -> float:
        return rotary_size * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = place(beta_fast), place(beta_slow)
    if truncates:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_size - 1)
    ramp = np.clip((np.arange(rotary_size // 2) - low) / (high - low if high != low else 0.001), 0.0, 1.0)
    return _tuple(1.0 / (ramp / factor + (1 - ramp)))


def yarn_attention_factor(factor: float, mscale: float | None, mscale_all_dim: float | None) -> float:
    """Return YaRN's factor of cos and sin for a config without one; source as for ``yarn_divisors``."""

    def scale(by: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0

    return scale(mscale) / scale(mscale_all_dim) if mscale and mscale_all_dim else scale(1.0)


def _frequencies(theta: float, rotary_size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.power(float(theta), -np.arange(0, rotary_size, 2, dtype=np.float64) / rotary_size)


def _tuple(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
