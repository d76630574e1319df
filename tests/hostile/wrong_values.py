"""Values that no manifest may have, by their place in it: Python refuses them, and the phone in the same words."""

from __future__ import annotations

from typing import Any

IMPOSSIBLE: list[tuple[str, object]] = [
    ("routes.image.adapters.vision", "1"),
    ("routes.image.adapters.vision", float("nan")),
    ("routes.image.adapters.vision", True),
    ("routes.image.audio_projector", "sideways"),
    ("decoder.context_length", 0),
    ("decoder.context_length", 1 << 25),
    ("decoder.states.0.shape", ["batch", 1, "tokens", -8]),
    ("decoder.hidden_size", 10**30),
    ("decoder.states.0.shape", ["batch", 0, "tokens", 16]),
    ("decoder.vocab_size", 5),
    ("decoder.sampled_never", ["1"]),
    ("vision.bytes_per_item", -1),
    ("adapters.0.gate", -1),
    ("adapters.0.rank", 0),
    ("adapters.0.alpha", float("inf")),
    ("adapters.0.name", "speech"),
    ("adapter_mode", "sometimes"),
    ("model", 5),
    ("recipe", []),
    ("files", {"decoder.onnx": {"size_bytes": -1, "sha256": "0" * 64}}),
    ("files", {"decoder.onnx": {"size_bytes": 1, "sha256": "short"}}),
    ("processor.image.patch_size", 0),
    ("processor.image.patch_size", "14"),
    ("processor.image.patch_size", 100),
    ("processor.image.crop_size", "448"),
    ("processor.image.crop_size", 4096),
    ("processor.image.mean", [0.5]),
    ("processor.image.std", [0.5, 0.0, 0.5]),
    ("processor.audio.hop_length", 0),
    ("processor.audio.win_length", 1024),
    ("processor.audio.rate_hz", 16000.5),
    ("processor.audio.mel_max_hz", 9000.0),
    ("processor.text.adds_bos", "no"),
    ("processor.text.eos_ids", 5),
    ("processor.text", None),
    ("vision", None),
    ("processor.audio", None),
]


def at(data: Any, place: str) -> tuple[Any, Any]:
    """The object or list that a dotted place is in, and its key or index there."""
    *steps, last = place.split(".")
    for step in steps:
        data = data[int(step) if isinstance(data, list) else step]
    return data, int(last) if isinstance(data, list) else last
