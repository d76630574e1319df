"""Processor settings of a model, as data in the bundle's manifest.

Nothing is computed here. The exporter fills these values from a checkpoint; the Python processors and the Android app
read them, so that neither contains a model's sizes or token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from palmtop.errors import ManifestError

from .image_specs import IMAGE_KINDS, MAX_ID, DynamicHdSpec, ImageSpec, SlicesSpec
from .json_fields import MANIFEST_FILE, check_keys, limited, one_of, read_flat, refuse

__all__ = ["AudioSpec", "DynamicHdSpec", "ImageSpec", "LogMelSpec", "ProcessorSpec", "SlicesSpec", "TextSpec"]

SpecT = TypeVar("SpecT")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMelSpec:
    """Kaldi-style log-mel features and their reduction to feature rows.

    Attributes:
        kind: "log_mel".
        token_id: id that stands for one row of audio features in ``input_ids``.
        rate_hz: the rate the encoder was trained at; other rates are resampled to it.
        n_fft: FFT length in samples.
        win_length: frame length in samples.
        hop_length: step between frames in samples.
        preemphasis: coefficient of the first-order filter, applied inside each frame.
        n_mels: number of mel bands.
        mel_min_hz: lower edge of the filter bank in Hz.
        mel_max_hz: upper edge of the filter bank in Hz.
        compression_rate: frames per encoder step (convolutional subsampling).
        downsample_rate: encoder steps stacked into one feature row.
        window_steps: encoder steps that attend to each other; longer input is cut into windows of this length.
    """

    kind: str = one_of("log_mel", default="log_mel")
    token_id: int = limited(0, MAX_ID)
    rate_hz: int = limited(1_000, 768_000)
    n_fft: int = limited(2, 1 << 16)
    win_length: int = limited(1, 1 << 16)
    hop_length: int = limited(1, 1 << 16)
    preemphasis: float = limited(-1, 1)
    n_mels: int = limited(1, 1024)
    mel_min_hz: float = limited(0, 384_000)
    mel_max_hz: float = limited(0, 384_000)
    compression_rate: int = limited(1, 1024)
    downsample_rate: int = limited(1, 1024)
    window_steps: int = limited(1, 1 << 16)

    def working_bytes(self, rows: int, row_bytes: int) -> int:
        """Return the bytes of the feature rows; frames are few."""
        return rows * row_bytes


AudioSpec = LogMelSpec
"""Of any kind of sound processor."""
AUDIO_KINDS = {"log_mel": LogMelSpec}


GENERATION = {  # name: least, most, whole number
    "max_tokens": (1, 1 << 20, True),
    "temperature": (0, 100, False),
    "top_k": (0, MAX_ID, True),
    "top_p": (1e-6, 1, False),
    "min_p": (0, 1, False),
    "repetition_penalty": (0.01, 100, False),
}


def wrong_generation(name: str, value: object) -> str | None:
    """Return the expected form of a generation setting, for an error; None for a valid value."""
    if name not in GENERATION:
        return f"one of {', '.join(GENERATION)}"
    least, most, is_whole = GENERATION[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        return f"{least} to {most}"
    return "a whole number" if is_whole and value != int(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """Settings of tokenization and generation.

    Attributes:
        bos_id: first id of a prompt if ``adds_bos``.
        eos_ids: ids that end an answer.
        end_of_turn_id: id that the chat template puts after every message.
        pad_id: id for padding.
        adds_bos: whether the tokenizer puts ``bos_id`` first.
        image_placeholder: text with ``{n}`` (1-based) for the n-th image in a rendered prompt.
        audio_placeholder: text with ``{n}`` (1-based) for the n-th sound in a rendered prompt.
        thinking: texts that open and close the thinking at the start of an answer; None for a model without thinking.
        generation: sampling settings of the checkpoint's ``generation_config.json``, by the names of ``GENERATION``;
            None for missing ones.
    """

    bos_id: int | None = limited(0, MAX_ID)
    eos_ids: tuple[int, ...] = limited(0, MAX_ID)
    end_of_turn_id: int | None = limited(0, MAX_ID)
    pad_id: int = limited(0, MAX_ID)
    adds_bos: bool
    image_placeholder: str
    audio_placeholder: str
    thinking: tuple[str, str] | None = None
    generation: dict[str, float] | None = None

    @property
    def answer_end(self) -> int:
        """Id that ends an answer in text to learn from or to compare: that of a turn, or the first of ``eos_ids``."""
        return self.eos_ids[0] if self.end_of_turn_id is None else self.end_of_turn_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorSpec:
    """Preprocessing of text, images and sounds.

    Attributes:
        text: settings of tokenization and generation.
        image: settings of images; None if the model takes none.
        audio: settings of sounds; None if the model takes none.
    """

    text: TextSpec
    image: ImageSpec | None
    audio: AudioSpec | None

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ProcessorSpec:
        """Make the settings from a dictionary, the inverse of ``to_dict``.

        Raises:
            BundleError: a key is missing or unknown, or a value of the wrong type or impossible.
        """
        check_keys(cls, data, "processor")
        text = read_flat(TextSpec, data["text"], "processor.text")
        if text.thinking is not None and not all(text.thinking):
            raise refuse("processor.text.thinking", list(text.thinking), "two texts that are not empty")
        for name, value in (text.generation or {}).items():
            if (wrong := wrong_generation(name, value)) is not None:
                raise refuse(f"processor.text.generation.{name}", value, wrong)
        image = _read_kind(IMAGE_KINDS, data["image"], "processor.image")
        audio = _read_kind(AUDIO_KINDS, data["audio"], "processor.audio")
        if image is not None:
            image.check()
        if audio is not None:
            _check_audio(audio)
        return cls(text=text, image=image, audio=audio)


def _read_kind(kinds: Mapping[str, type[SpecT]], data: object, where: str) -> SpecT | None:
    """The fields of whatever kind of processor it is; None where the model has none."""
    if data is None:
        return None
    if not isinstance(data, dict):
        raise refuse(where, data, "an object", "type")
    if "kind" not in data:
        raise ManifestError(f"{MANIFEST_FILE}: {where}.kind is missing", "missing", f"{where}.kind")
    kind = data["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise refuse(f"{where}.kind", kind, f"one of {', '.join(kinds)}", "choice" if isinstance(kind, str) else "type")
    return read_flat(kinds[kind], data, where)


def _check_audio(spec: AudioSpec) -> None:
    """Check sizes of sounds that depend on each other."""
    if spec.win_length > spec.n_fft:
        raise refuse("processor.audio.win_length", spec.win_length, f"at most n_fft, {spec.n_fft}")
    if not spec.mel_min_hz < spec.mel_max_hz <= spec.rate_hz / 2:
        expected = f"more than mel_min_hz, {spec.mel_min_hz}, and at most half of rate_hz, {spec.rate_hz}"
        raise refuse("processor.audio.mel_max_hz", spec.mel_max_hz, expected)
