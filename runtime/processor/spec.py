"""What preprocessing needs to know about a model, as data that lives in the bundle's manifest.

Nothing here computes. The exporter fills these from a checkpoint; the Python processors and the Android
app read them, so that neither has a model's sizes or token ids in its code.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from palmtop.errors import BundleError

SpecT = TypeVar("SpecT")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """Dynamic-HD tiling and the layout of an image's feature rows.

    Attributes:
        token_id: id that stands for one row of image features in ``input_ids``.
        crop_size: side of a tile in pixels.
        patch_size: side of a patch in pixels; a tile has ``(crop_size // patch_size) ** 2`` patches.
        max_tiles: largest number of tiles, without the global view (upstream's ``dynamic_hd``).
        mean: per channel, on values scaled to 0..1.
        std: per channel, likewise.
    """

    token_id: int
    crop_size: int
    patch_size: int
    max_tiles: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def patches(self) -> int:
        """Patches along one side of a tile."""
        return self.crop_size // self.patch_size

    @property
    def pooled(self) -> int:
        """Feature rows along one side of a tile, after 2x2 pooling (an odd grid is padded by one)."""
        return (self.patches + 1) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSpec:
    """Kaldi-style log-mel features and their reduction to feature rows.

    Attributes:
        token_id: id that stands for one row of audio features in ``input_ids``.
        rate_hz: the rate the encoder was trained at; other rates are resampled to it.
        n_fft: FFT length in samples.
        win_length: frame length in samples.
        hop_length: step between frames in samples.
        preemphasis: coefficient of the first-order filter, applied inside each frame.
        n_mels: mel bands.
        mel_min_hz: lower edge of the filter bank.
        mel_max_hz: upper edge of the filter bank.
        compression_rate: frames per encoder step (convolutional subsampling).
        downsample_rate: encoder steps stacked into one feature row.
        window_steps: encoder steps that attend to each other; longer input is cut into windows of this size.
    """

    token_id: int
    rate_hz: int
    n_fft: int
    win_length: int
    hop_length: int
    preemphasis: float
    n_mels: int
    mel_min_hz: float
    mel_max_hz: float
    compression_rate: int
    downsample_rate: int
    window_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """How messages become token ids.

    Attributes:
        bos_id: first id of a prompt when ``adds_bos``, else only a name.
        eos_ids: ids that end an answer.
        end_of_turn_id: id that the chat template puts after every message.
        pad_id: filler.
        adds_bos: whether the tokenizer puts ``bos_id`` in front.
        image_placeholder: text with ``{n}`` (1-based) that stands for the n-th image in a rendered prompt.
        audio_placeholder: likewise for sounds.
    """

    bos_id: int | None
    eos_ids: tuple[int, ...]
    end_of_turn_id: int | None
    pad_id: int
    adds_bos: bool
    image_placeholder: str
    audio_placeholder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorSpec:
    """All three; a modality that the model lacks is None."""

    text: TextSpec
    image: ImageSpec | None
    audio: AudioSpec | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ProcessorSpec:
        """Inverse of ``to_dict``.

        Raises:
            BundleError: a key is missing, unknown or of the wrong type.
        """
        return cls(
            text=_read(TextSpec, data.get("text"), "processor.text"),
            image=None if data.get("image") is None else _read(ImageSpec, data["image"], "processor.image"),
            audio=None if data.get("audio") is None else _read(AudioSpec, data["audio"], "processor.audio"),
        )


def _read(cls: type[SpecT], data: object, where: str) -> SpecT:
    if not isinstance(data, dict):
        raise BundleError(f"bundle.json: {where} is {type(data).__name__}, expected an object")
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if missing := sorted(names - data.keys()):
        raise BundleError(f"bundle.json: {where} lacks {', '.join(missing)}")
    if unknown := sorted(data.keys() - names):
        raise BundleError(f"bundle.json: {where} has unknown keys {', '.join(unknown)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
