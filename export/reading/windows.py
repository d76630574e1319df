"""Sliding windows that a config states but uses only with a flag of its own, as Qwen's."""

from __future__ import annotations

from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection

KEYS = ("use_sliding_window", "max_window_layers")


def settled_window(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with ``sliding_window`` null unless ``use_sliding_window`` makes every layer use it.

    Layers from ``max_window_layers`` on have the window, or those that ``layer_types`` names.

    Raises:
        CheckpointError: some layers have the window and some have not, or a key has a value of another kind.
    """
    section = ConfigSection(config, "config.json")
    settled = {key: value for key, value in config.items() if key not in KEYS}
    is_asked = config.get("use_sliding_window") is not None and section.flag("use_sliding_window", default=False)
    if not is_asked or config.get("sliding_window") is None:
        return {**settled, "sliding_window": None}
    layers, first = section.size("num_hidden_layers"), section.optional_size("max_window_layers")
    first = 28 if first is None else first
    types = config.get("layer_types")
    if isinstance(types, list):
        with_window = sum(each == "sliding_attention" for each in types)
    else:
        with_window = layers - min(first, layers)
    if with_window not in (0, layers):
        raise CheckpointError(
            f"config.json: use_sliding_window is true and {with_window} of {layers} layers have the window, expected"
            " all or none"
        )
    return settled if with_window else {**settled, "sliding_window": None}
