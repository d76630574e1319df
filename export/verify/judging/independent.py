"""Interface of an independent reference, and the comparison with its logits; loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.export.measure.divergence import agreement
from palmtop.export.verify.quality import Check
from palmtop.runtime.processor import Processor
from palmtop.runtime.processor.images.dynamic_hd import ImageTiles
from palmtop.runtime.processor.sounds.log_mel import LogMel
from palmtop.runtime.processor.sounds.sound_file import read_sound

MAX_SHARE = 1e-3  # largest difference of a logit, as a share of the range


class MismatchError(Exception):
    """A size that differs between reference and exporter: the comparison has failed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sound:
    """A sound with its samples for the reference.

    Attributes:
        samples: [N] mono at the model's rate; None at another rate, which transformers refuses.
        rate_hz: samples per second.
        log_mel: [T, n_mels] frames of the bundle's processor.
        rows: the exporter's number of feature rows.
    """

    samples: NDArray[np.float32] | None
    rate_hz: int
    log_mel: NDArray[np.float32]
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """A question and its continuation.

    Attributes:
        mode: mode of the input.
        ids: [S] ids of the prompt, media expanded.
        tokens: [T] tokens that follow it.
        places: [S] 0 for text, k for row k of the media.
        media: images and sounds in their order.
    """

    mode: str
    ids: NDArray[np.int64]
    tokens: NDArray[np.int64]
    places: NDArray[np.int64]
    media: tuple[ImageTiles | Sound, ...] = ()


class Reference(Protocol):
    """Interface of a checkpoint in another implementation."""

    def use(self, weights: Mapping[str, float]) -> None:
        """Switch adapters on by their weights, all others off."""

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """Return the logits, [T, V]: row t predicts token t behind the prompt."""


def read_media(processor: Processor, messages: Sequence[Mapping[str, Any]]) -> tuple[ImageTiles | Sound, ...]:
    """Return images as the bundle's tiles, and sounds as samples.

    Raises:
        InputError: one of them cannot be read.
    """
    found: list[ImageTiles | Sound] = []
    for place in processor.prompt(messages).media:
        if place.item.kind == "image":
            picture = processor.tiles(place.item)
            assert isinstance(picture, ImageTiles)  # the models compared have this kind
            found.append(picture)
            continue
        assert processor.spec.audio is not None  # the prompt was read
        wanted = processor.spec.audio.rate_hz
        samples, rate = read_sound(place.item.source, wanted)
        prepared = processor.sound(place.item)
        assert isinstance(prepared, LogMel)  # the models compared have this kind
        own = samples if rate == wanted else None
        found.append(Sound(samples=own, rate_hz=rate, log_mel=prepared.frames, rows=prepared.rows))
    return tuple(found)


def routed(mode: str, merged: Mapping[str, float], *, is_gated: bool) -> dict[str, float]:
    """Return the adapters of upstream's model code: vision if there is an image, else speech if there is a sound."""
    if not is_gated:
        return dict(merged)
    name = "vision" if "image" in mode else "speech" if "audio" in mode else None
    return {} if name is None else {name: 1.0}


def judge_reference(
    reference: Reference,
    prompts: Iterable[tuple[Prompt, Mapping[str, float], NDArray[np.float32]]],
) -> list[Check]:
    """Check that the exporter's float graphs compute the same as the reference: one check for each mode.

    Args:
        reference: the independent model.
        prompts: each with the adapters that are on, and with the [T, V] logits of the exporter's float graphs.
    """
    pairs: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {}
    wrong: dict[str, str] = {}
    how: dict[str, dict[str, None]] = {}
    for prompt, weights, logits in prompts:
        own = pairs.setdefault(prompt.mode, [])
        how.setdefault(prompt.mode, {}).update(dict.fromkeys(map(_source, prompt.media)))
        reference.use(weights)
        try:
            own.append((reference.logits(prompt), logits))
        except MismatchError as error:
            wrong.setdefault(prompt.mode, str(error))
    return [_check(mode, own, wrong.get(mode), tuple(how[mode])) for mode, own in pairs.items()]


def _source(item: ImageTiles | Sound) -> str:
    if isinstance(item, ImageTiles):
        return "pictures cut into tiles by the bundle's processor"
    return (
        "sounds by transformers' feature extractor"
        if item.samples is not None
        else "sounds by the bundle's log-mel features"
    )


def _check(
    mode: str,
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    wrong: str | None,
    how: Sequence[str],
) -> Check:
    name = f"{mode}: float graphs against transformers"
    if wrong is not None:
        return Check(name=name, passed=False, value=1.0, limit=MAX_SHARE, detail=wrong)
    found = agreement(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    return Check(
        name=name,
        passed=bool(found.max_abs <= MAX_SHARE),  # false for NaN
        value=round(found.max_abs, 9),
        limit=MAX_SHARE,
        detail="; ".join(
            [
                f"largest difference is {found.max_abs:.2g} of the logit range over {found.positions} positions,"
                f" KL {found.mean_kl:.2g} nats",
                *how,
            ]
        ),
    )
