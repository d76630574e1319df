"""The decoder under test and the float one, both loaded whole, for whole answers to the same questions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError
from palmtop.export.checkpoint.tokenizer_files import TOKENIZER_FILE
from palmtop.export.measure.decoder_prompts import Question, SampleReader
from palmtop.export.measure.divergence import kl, snr_db
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.chat.routing import gates_of
from palmtop.runtime.reference import has_packaged_vocabulary

from .greedy_answers import MAX_TOKENS, Compared, prompt_text, text_of

STEPS = 6  # most teacher-forced tokens of a question: tokens behind an answer's end do not count
GENERAL_STEPS = 16  # most tokens for a request without a known answer, which are longer

Pair = tuple[DecoderPrompt, DecoderPrompt]
"""The same question, media encoded by the float bundle's encoders and by those under test."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The float bundle made from the checkpoint."""

    float_folder: Path
    float_manifest: Manifest


class Decoders:
    """The decoder under test and the float decoder."""

    def __init__(self, bundle: Bundle, reference: Reference) -> None:
        self.manifest = bundle.manifest
        self.float_manifest = reference.float_manifest
        self.steps = STEPS if has_packaged_vocabulary(bundle.path / TOKENIZER_FILE) else GENERAL_STEPS
        self.found = OnnxDecoder(bundle.file(bundle.manifest.decoder.file), bundle.manifest.decoder)
        self.exact = OnnxDecoder(
            reference.float_folder / reference.float_manifest.decoder.file, reference.float_manifest.decoder
        )
        if self.found.num_gates != len(bundle.manifest.adapters):
            raise BundleError(
                f"{bundle.path}: the decoder has {self.found.num_gates} adapter gates,"
                f" expected {len(bundle.manifest.adapters)} as the manifest says"
            )

    def answer(self, prompt: DecoderPrompt, weights: dict[str, float], steps: int | None = None) -> NDArray[np.int64]:
        """The float decoder's greedy answer up to its end, which is included."""
        ends = self.float_manifest.processor.text.eos_ids
        return self.exact.greedy(prompt, gates_of(self.float_manifest, weights), steps or self.steps, ends)

    def both(
        self, pair: Pair, weights: dict[str, float], tokens: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits of the float decoder and of the one under test, each on its own encoders' features."""
        exact, found = pair
        return (
            self.exact.logits(exact, gates_of(self.float_manifest, weights), tokens),
            self.found.logits(found, gates_of(self.manifest, weights), tokens),
        )


def encoders_snr(pairs: list[Pair]) -> dict[str, float]:
    """Return the SNR of the bundle's feature rows, by mode with media."""
    modes = dict.fromkeys(exact.mode for exact, _ in pairs if exact.media_places.any())
    return {
        mode: round(
            snr_db(
                np.concatenate([exact.features for exact, _ in pairs if exact.mode == mode]),
                np.concatenate([found.features for _, found in pairs if found.mode == mode]),
            ),
            2,
        )
        for mode in modes
    }


def compared_answers(
    decoders: Decoders,
    reader: SampleReader,
    pair: Pair,
    question: Question,
) -> Compared:
    """Return the greedy answers of both decoders to one question."""
    mode, messages, expected = question
    weights = decoders.float_manifest.routes[mode].adapters if decoders.manifest.adapters else {}
    exact = decoders.answer(pair[0], weights, MAX_TOKENS)
    found = decoders.found.greedy(pair[1], gates_of(decoders.manifest, weights), MAX_TOKENS, reader.eos_ids)
    divergence = kl(*decoders.both(pair, weights, exact[: decoders.steps]))
    return Compared(
        mode=mode,
        prompt=prompt_text(messages),
        expected=expected,
        reference=text_of(exact, reader.eos_ids, reader.text),
        found=text_of(found, reader.eos_ids, reader.text),
        kl=float(divergence.mean()),
        messages=messages,
    )


class Divergence:
    """Mean KL over the modes of another bundle of the checkpoint, on the same questions."""

    def __init__(
        self,
        decoders: Decoders,
        questions: list[Question],
        pairs: list[Pair],
    ) -> None:
        self._decoders, self._questions, self._pairs = decoders, questions, pairs

    def __call__(self, folder: Path, manifest: Manifest) -> float:
        """Return the divergence of the bundle in a folder."""
        return float(np.mean(list(self.by_mode(folder, manifest).values())))

    def by_mode(self, folder: Path, manifest: Manifest) -> dict[str, float]:
        """Return the divergence of each mode."""
        reader, own = SampleReader(folder, manifest), self._decoders
        probe = OnnxDecoder(folder / manifest.decoder.file, manifest.decoder)
        found: dict[str, list[NDArray[np.float64]]] = {}
        for (mode, messages, _), (exact, _) in zip(self._questions, self._pairs, strict=True):
            weights = own.float_manifest.routes[mode].adapters if own.manifest.adapters else {}
            gates = gates_of(own.float_manifest, weights)
            tokens = own.answer(exact, weights)
            logits = probe.logits(reader.read(mode, messages), gates_of(manifest, weights), tokens)
            found.setdefault(mode, []).append(kl(own.exact.logits(exact, gates, tokens), logits))
        return {mode: float(np.concatenate(values).mean()) for mode, values in found.items()}
