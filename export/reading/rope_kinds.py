"""Kinds of rotary scaling that are the same at every length, as divisors of the plain frequencies.

Plain: f_i = theta ** (-2 i / R) for i < R / 2; scaled: f_i / divisor_i.
"""

from __future__ import annotations

import math

import numpy as np


def llama3_divisors(
    theta: float, rotary_size: int, factor: float, low: float, high: float, original_context: int
) -> tuple[float, ...]:
    """[R / 2] divisors of Llama 3.1: ``factor`` for long waves, 1 for short ones, smooth between.

    Source: transformers, modeling_rope_utils._compute_llama3_parameters.

    Args:
        theta: base of the wavelengths.
        rotary_size: R.
        factor: of waves longer than ``original_context / low`` tokens.
        low: low_freq_factor.
        high: high_freq_factor, above ``low``.
        original_context: tokens of the first training.
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
    """[R / 2] divisors of YaRN: 1 for frequencies that turn often in the original context, ``factor`` for the rest.

    Source: transformers, modeling_rope_utils._compute_yarn_parameters.

    Args:
        theta: base of the wavelengths.
        rotary_size: R.
        factor: of the slowest frequencies.
        original_context: tokens of the first training.
        beta_fast: turns above which nothing is scaled.
        beta_slow: turns below which everything is.
        truncates: the ramp begins and ends at whole dimensions.
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
    """What YaRN multiplies cos and sin by where the config names no factor; source as ``yarn_divisors``."""

    def scale(by: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0

    return scale(mscale) / scale(mscale_all_dim) if mscale and mscale_all_dim else scale(1.0)


def _frequencies(theta: float, rotary_size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.power(float(theta), -np.arange(0, rotary_size, 2, dtype=np.float64) / rotary_size)


def _tuple(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
